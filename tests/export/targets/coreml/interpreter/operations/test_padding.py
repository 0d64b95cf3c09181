"""Padding that a `pad_type` stands for, by TensorFlow's rule."""

import pytest
import torch

from edgeseed.core.errors import WorkError
from edgeseed.export.targets.coreml.interpreter.operations._padding import Pads, padded, pads_of


@pytest.mark.parametrize(
    ("pad_type", "wanted"),
    [
        ("valid", [(0, 0), (0, 0)]),
        ("custom", [(1, 2), (3, 4)]),
        # 7 rows by steps of 2 need one on both sides, 8 columns one on one side.
        ("same", [(1, 1), (0, 1)]),
        ("same_lower", [(1, 1), (1, 0)]),
    ],
)
def test_pads(pad_type: str, wanted: Pads) -> None:
    found = pads_of(
        pad_type, torch.tensor([1, 2, 3, 4]), sizes=[7, 8], kernel=[3, 3], strides=[2, 2],
        dilations=[1, 1],
    )  # fmt: skip
    assert found == wanted


def test_an_unknown_padding_names_the_known() -> None:
    with pytest.raises(WorkError, match="pad_type odd is unknown; known: valid, custom, same"):
        pads_of("odd", None, sizes=[7], kernel=[3], strides=[1], dilations=[1])


def test_pads_go_to_the_axes_in_their_order() -> None:
    assert padded(torch.zeros(1, 1, 2, 3), [(1, 0), (2, 3)]).shape == (1, 1, 3, 8)
