"""Padding that is an operator of its own becomes the convolution's, where that is exact."""

from typing import Any

import numpy as np
import pytest


@pytest.fixture
def fold(mb: Any) -> Any:
    """Builds a program of one image, folds its padding, and gives its operations."""
    from edgeseed.export.targets.coreml.passes import fold_padding

    def fold(build: Any) -> list[Any]:
        specs = [mb.TensorSpec(shape=(1, 2, 8, 8))]
        program = mb.program(input_specs=specs)(lambda image: build(mb, image))
        fold_padding().apply(program)
        return [
            operation
            for operation in program.functions["main"].operations
            if operation.op_type in ("pad", "conv")
        ]

    return fold


WEIGHT = np.ones((4, 2, 3, 3), np.float32)
RIGHT_AND_BELOW = [0, 0, 0, 0, 0, 1, 0, 1]


def pad(mb: Any, image: Any, amounts: list[int], **settings: Any) -> Any:
    settings = {"mode": "constant", "constant_val": 0.0, **settings}
    return mb.pad(x=image, pad=np.array(amounts, np.int32), **settings)


def test_zeros_around_an_image_become_the_layers_own(fold: Any) -> None:
    (conv,) = fold(lambda mb, image: mb.conv(x=pad(mb, image, RIGHT_AND_BELOW), weight=WEIGHT))
    assert conv.inputs["pad_type"].val == "custom"
    assert conv.inputs["pad"].val.tolist() == [0, 1, 0, 1]
    assert conv.outputs[0].shape == (1, 4, 7, 7)


def test_a_layer_that_pads_itself_pads_both(fold: Any) -> None:
    own = {"pad_type": "custom", "pad": np.array([1, 1, 2, 2], np.int32)}
    (conv,) = fold(
        lambda mb, image: mb.conv(x=pad(mb, image, RIGHT_AND_BELOW), weight=WEIGHT, **own)
    )
    assert conv.inputs["pad"].val.tolist() == [1, 2, 2, 3]


def test_two_layers_behind_one_padding_both_take_it(fold: Any) -> None:
    def build(mb: Any, image: Any) -> Any:
        padded = pad(mb, image, RIGHT_AND_BELOW)
        return mb.add(x=mb.conv(x=padded, weight=WEIGHT), y=mb.conv(x=padded, weight=WEIGHT))

    assert [operation.op_type for operation in fold(build)] == ["conv", "conv"]


@pytest.mark.parametrize(
    ("amounts", "settings"),
    [
        (RIGHT_AND_BELOW, {"constant_val": 1.0}),  # not zeros
        (RIGHT_AND_BELOW, {"mode": "reflect"}),
        ([0, 0, 1, 1, 0, 0, 0, 0], {}),  # channels
    ],
)
def test_other_padding_stays(fold: Any, amounts: list[int], settings: dict[str, Any]) -> None:
    weight = np.ones((4, 2 + amounts[2] + amounts[3], 3, 3), np.float32)
    operations = fold(
        lambda mb, image: mb.conv(x=pad(mb, image, amounts, **settings), weight=weight)
    )
    assert [operation.op_type for operation in operations] == ["pad", "conv"]


def test_padding_that_others_read_stays(fold: Any) -> None:
    def build(mb: Any, image: Any) -> Any:
        padded = pad(mb, image, RIGHT_AND_BELOW)
        return mb.conv(x=padded, weight=WEIGHT), mb.relu(x=padded)

    assert [operation.op_type for operation in fold(build)] == ["pad", "conv"]
