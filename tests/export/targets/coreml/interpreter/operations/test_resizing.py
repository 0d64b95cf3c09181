"""Resizes: as torch has them, from a package that coremltools wrote."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.coreml_operations import Case, Interpret, check, values
from torch import Tensor


def resized(x: Tensor, size: Any, *, corners: bool = False) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=corners)


RESIZES: dict[str, Case] = {
    "upsample_nearest_neighbor": (
        lambda mb, x: mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=2, scale_factor_width=3
        ),
        lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3),
    ),
    "resize_nearest_neighbor": (
        lambda mb, x: mb.resize_nearest_neighbor(
            x=x, target_size_height=7, target_size_width=3
        ),
        lambda x: F.interpolate(x, (7, 3)),
    ),
    "upsample_bilinear": (
        lambda mb, x: mb.upsample_bilinear(
            x=x, scale_factor_height=2, scale_factor_width=3, align_corners=True
        ),
        lambda x: resized(x, (8, 18), corners=True),
    ),
    "upsample_bilinear:half": (
        lambda mb, x: mb.upsample_bilinear(
            x=x, scale_factor_height=2, scale_factor_width=2, align_corners=False
        ),
        lambda x: resized(x, (8, 12)),
    ),
    "resize_bilinear": (
        lambda mb, x: mb.resize_bilinear(
            x=x, target_size_height=3, target_size_width=9, sampling_mode="UNALIGN_CORNERS"
        ),
        lambda x: resized(x, (3, 9)),
    ),
    "resize_bilinear:strict": (
        lambda mb, x: mb.resize_bilinear(
            x=x, target_size_height=9, target_size_width=1,
            sampling_mode="STRICT_ALIGN_CORNERS",
        ),
        lambda x: resized(x, (9, 1), corners=True),
    ),
    "resize": (
        lambda mb, x: mb.resize(
            x=x, shape=[9, 0], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"
        ),
        lambda x: resized(x, (9, 6)),
    ),
    "resize:nearest": (
        lambda mb, x: mb.resize(
            x=x, shape=[8, 12], resized_dims=np.uint32(2),
            interpolation_mode="NEAREST_NEIGHBOR",
        ),
        lambda x: F.interpolate(x, (8, 12)),
    ),
}  # fmt: skip


def test_resizes(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, RESIZES, values(1, 2, 4, 6))


@pytest.mark.parametrize(
    ("mode", "size", "points"),
    [
        ("UNALIGN_CORNERS", 5, [0.0, 0.1, 0.5, 0.9, 1.0]),
        ("STRICT_ALIGN_CORNERS", 5, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("DEFAULT", 5, [0.0, 0.4, 0.8, 1.0, 1.0]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("OFFSET_CORNERS", 6, [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12]),
        ("DEFAULT", 6, [0.0, 1 / 3, 2 / 3, 1.0, 1.0, 1.0]),
        ("ALIGN_CORNERS", 1, [0.5]),
    ],
)
def test_sampling_grids_are_those_of_apples_reference(
    interpret: Interpret, mb: Any, mode: str, size: int, points: list[float]
) -> None:
    """The examples in the reference of `resize_bilinear`: two elements, 0 and 1."""
    (found,) = interpret(
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=1, target_size_width=size, sampling_mode=mode
        ),
        torch.tensor([[[[0.0, 1.0]]]]),
    )
    torch.testing.assert_close(found.flatten(), torch.tensor(points))
