"""Pooling: the largest, the mean or the norm of each window."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseed.export.targets.coreml.interpreter.operations._arguments import flag, integers_or
from edgeseed.export.targets.coreml.interpreter.operations._padding import Pads, padded, pads_of

_MAX_POOLS: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {
    1: F.avg_pool1d,
    2: F.avg_pool2d,
    3: F.avg_pool3d,
}


def _pool_frame(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None,
    pad_type: str,
    pad: Tensor | None,
    ceil_mode: Tensor | None,
) -> tuple[list[int], list[int], Pads]:
    """Kernel, strides and pads of a pool.

    Where `ceil_mode` asks for one more window that starts inside the image or its left padding, the
    right padding is made large enough for it.
    """
    spatial = x.ndim - 2
    kernel = integers_or(kernel_sizes, [])
    step = integers_or(strides, [1] * spatial)
    pads = pads_of(
        pad_type,
        pad,
        sizes=list(x.shape[2:]),
        kernel=kernel,
        strides=step,
        dilations=[1] * spatial,
    )
    if flag(ceil_mode):
        pads = [
            (before, _ceiling_pad(size, width, stride, before, after))
            for (before, after), size, width, stride in zip(
                pads, x.shape[2:], kernel, step, strict=True
            )
        ]
    return kernel, step, pads


def _ceiling_pad(size: int, width: int, stride: int, before: int, after: int) -> int:
    windows = -(-(size + before + after - width) // stride) + 1
    if (windows - 1) * stride >= size + before:
        windows -= 1  # torch's rule too: no window lies in the right padding alone
    return max((windows - 1) * stride + width - size - before, after)


def max_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Tensor:
    """The largest element of each window; padding never is."""
    kernel, step, pads = _pool_frame(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    return _MAX_POOLS[x.ndim - 2](padded(x, pads, value=float("-inf")), kernel, step)


def avg_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    exclude_padding_from_average: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Tensor:
    """The mean of each window; padding counts as zeros unless it is excluded.

    What `ceil_mode` adds beyond the image and its padding never counts, as in torch.
    """
    kernel, step, pads = _pool_frame(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    pool = _AVERAGE_POOLS[x.ndim - 2]
    total = pool(padded(x, pads), kernel, step)
    # Pooled by the same windows, ones give the share of each window that counts.
    counted = torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype)
    if not flag(exclude_padding_from_average):
        _, _, own = _pool_frame(x, kernel_sizes, strides, pad_type, pad, None)
        counted = padded(counted, own, value=1.0)
        pads = [
            (0, with_ceiling - plain)
            for (_, with_ceiling), (_, plain) in zip(pads, own, strict=True)
        ]
    return total / pool(padded(counted, pads), kernel, step)


def l2_pool(
    x: Tensor,
    kernel_sizes: Tensor,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    ceil_mode: Tensor | None = None,
) -> Tensor:
    """The square root of the sum of squares of each window."""
    kernel, step, pads = _pool_frame(x, kernel_sizes, strides, pad_type, pad, ceil_mode)
    window = torch.Size(kernel).numel()
    mean = _AVERAGE_POOLS[x.ndim - 2](padded(x.square(), pads), kernel, step)
    return torch.sqrt(mean * window)


OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "avg_pool": avg_pool,
    "l2_pool": l2_pool,
    "max_pool": max_pool,
}
