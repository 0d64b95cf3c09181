"""Convolutions: as torch has them, from a package that coremltools wrote."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.coreml_operations import BETA, Case, Interpret, check, kernel, values
from torch import Tensor


def convolved(x: Tensor, weight: Any, **settings: Any) -> Tensor:
    return F.conv2d(x, torch.from_numpy(weight), torch.from_numpy(BETA), **settings)


CONVOLUTIONS: dict[str, Case] = {
    "conv": (
        lambda mb, x: mb.conv(x=x, weight=kernel(3, 4, 3, 3), bias=BETA, pad_type="valid"),
        lambda x: convolved(x, kernel(3, 4, 3, 3)),
    ),
    "conv:strided": (
        lambda mb, x: mb.conv(
            x=x, weight=kernel(3, 4, 3, 3), bias=BETA, strides=[2, 1], pad_type="custom",
            pad=[1, 1, 2, 2], dilations=[1, 2],
        ),
        lambda x: convolved(
            x, kernel(3, 4, 3, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)
        ),
    ),
    "conv:uneven": (
        lambda mb, x: mb.conv(
            x=x, weight=kernel(3, 4, 3, 3), bias=BETA, pad_type="custom", pad=[0, 1, 2, 1]
        ),
        lambda x: convolved(F.pad(x, (2, 1, 0, 1)), kernel(3, 4, 3, 3)),
    ),
    "conv:same": (
        lambda mb, x: mb.conv(
            x=x, weight=kernel(3, 4, 3, 3), bias=BETA, strides=[2, 2], pad_type="same"
        ),
        # 7 rows need one row on both sides, 8 columns one column after: TensorFlow's padding.
        lambda x: convolved(F.pad(x, (0, 1, 1, 1)), kernel(3, 4, 3, 3), stride=2),
    ),
    "conv:same_lower": (
        lambda mb, x: mb.conv(
            x=x, weight=kernel(3, 4, 3, 3), bias=BETA, strides=[2, 2], pad_type="same_lower"
        ),
        lambda x: convolved(F.pad(x, (1, 0, 1, 1)), kernel(3, 4, 3, 3), stride=2),
    ),
    "conv:depthwise": (
        lambda mb, x: mb.conv(
            x=x, weight=kernel(4, 1, 5, 5), groups=4, pad_type="custom", pad=[2, 2, 2, 2]
        ),
        lambda x: F.conv2d(x, torch.from_numpy(kernel(4, 1, 5, 5)), padding=2, groups=4),
    ),
    "conv_transpose": (
        lambda mb, x: mb.conv_transpose(x=x, weight=kernel(4, 3, 3, 3), bias=BETA),
        lambda x: F.conv_transpose2d(
            x, torch.from_numpy(kernel(4, 3, 3, 3)), torch.from_numpy(BETA)
        ),
    ),
    "conv_transpose:strided": (
        lambda mb, x: mb.conv_transpose(
            x=x, weight=kernel(4, 2, 3, 3), strides=[2, 2], groups=2, pad_type="custom",
            pad=[1, 1, 1, 1],
        ),
        lambda x: F.conv_transpose2d(
            x, torch.from_numpy(kernel(4, 2, 3, 3)), stride=2, padding=1, groups=2
        ),
    ),
    "conv_transpose:output": (
        lambda mb, x: mb.conv_transpose(
            x=x, weight=kernel(4, 3, 3, 3), strides=[2, 2], pad_type="custom",
            pad=[1, 1, 1, 1], output_shape=[2, 3, 14, 16],
        ),
        lambda x: F.conv_transpose2d(
            x, torch.from_numpy(kernel(4, 3, 3, 3)), stride=2, padding=1, output_padding=1
        ),
    ),
    "conv_transpose:same": (
        lambda mb, x: mb.conv_transpose(
            x=x, weight=kernel(4, 3, 4, 4), strides=[2, 2], pad_type="same"
        ),
        lambda x: F.conv_transpose2d(
            x, torch.from_numpy(kernel(4, 3, 4, 4)), stride=2, padding=1
        ),
    ),
}  # fmt: skip


def test_convolutions_of_images(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, CONVOLUTIONS, values(2, 4, 7, 8))


@pytest.mark.parametrize("spatial", [1, 3])
def test_convolutions_of_lines_and_volumes(interpret: Interpret, mb: Any, spatial: int) -> None:
    x = values(1, 2, *[6] * spatial)
    weight = kernel(4, 2, *[3] * spatial)
    (found,) = interpret(
        lambda x: [mb.conv(x=x, weight=weight, pad_type="custom", pad=[1] * (2 * spatial))], x
    )
    convolve = {1: F.conv1d, 3: F.conv3d}[spatial]
    torch.testing.assert_close(found, convolve(x, torch.from_numpy(weight), padding=1))
