"""Pooling: as torch has it, from a package that coremltools wrote."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.coreml_operations import Case, Interpret, check, values

POOLS: dict[str, Case] = {
    "max_pool": (
        lambda mb, x: mb.max_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]
        ),
        lambda x: F.max_pool2d(x, 3, 2, 1),
    ),
    "max_pool:ceil": (
        lambda mb, x: mb.max_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
            ceil_mode=True,
        ),
        lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    ),
    "avg_pool": (
        lambda mb, x: mb.avg_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]
        ),
        lambda x: F.avg_pool2d(x, 3, 2, 1),
    ),
    "avg_pool:exclude": (
        lambda mb, x: mb.avg_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
            exclude_padding_from_average=True,
        ),
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    ),
    "avg_pool:ceil": (
        lambda mb, x: mb.avg_pool(
            x=x, kernel_sizes=[3, 2], strides=[2, 3], pad_type="custom", pad=[1, 1, 0, 0],
            ceil_mode=True,
        ),
        lambda x: F.avg_pool2d(x, (3, 2), (2, 3), (1, 0), ceil_mode=True),
    ),
    "avg_pool:ceil-exclude": (
        lambda mb, x: mb.avg_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
            ceil_mode=True, exclude_padding_from_average=True,
        ),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    ),
    "l2_pool": (
        lambda mb, x: mb.l2_pool(
            x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid"
        ),
        lambda x: F.lp_pool2d(x, 2.0, 2),
    ),
}  # fmt: skip


def test_pools_of_images(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, POOLS, values(2, 4, 7, 8))


@pytest.mark.parametrize("spatial", [1, 3])
def test_pools_of_lines_and_volumes(interpret: Interpret, mb: Any, spatial: int) -> None:
    x = values(1, 2, *[6] * spatial)
    sizes = [2] * spatial
    (found,) = interpret(
        lambda x: [mb.max_pool(x=x, kernel_sizes=sizes, strides=sizes, pad_type="valid")], x
    )
    pool = {1: F.max_pool1d, 3: F.max_pool3d}[spatial]
    torch.testing.assert_close(found, pool(x, 2))
