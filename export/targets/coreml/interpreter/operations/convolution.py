"""Convolutions and pools."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseed.core.errors import WorkError
from edgeseed.export.targets.coreml.interpreter.operations._arguments import (
    flag,
    integer,
    integers_or,
)

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_MAX_POOLS: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOLS: dict[int, Callable[..., Tensor]] = {
    1: F.avg_pool1d,
    2: F.avg_pool2d,
    3: F.avg_pool3d,
}

Pads = list[tuple[int, int]]
"""Elements before and after, an entry for each spatial axis."""


def _pads(
    pad_type: str,
    pad: Tensor | None,
    *,
    sizes: list[int],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
) -> Pads:
    """The padding that a `pad_type` stands for.

    `same` and `same_lower` make ceil(size / stride) outputs; an odd element goes after the image
    for `same`, before it for `same_lower`.
    """
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        flat = integers_or(pad, [0] * (2 * len(sizes)))
        return list(zip(flat[::2], flat[1::2], strict=True))
    if pad_type not in {"same", "same_lower"}:
        raise WorkError(f"pad_type {pad_type} is unknown; known: valid, custom, same, same_lower")
    pads = []
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        outputs = -(-size // stride)
        total = max((outputs - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        less = total // 2
        pads.append((less, total - less) if pad_type == "same" else (total - less, less))
    return pads


def _padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """X with its spatial axes padded; torch takes the last axis first."""
    flat = [amount for before_after in reversed(pads) for amount in before_after]
    return F.pad(x, flat, value=value) if any(flat) else x


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """Cross-correlation. x: (B, C, ...), weight: (C_out, C / groups, ...)."""
    spatial = x.ndim - 2
    step = integers_or(strides, [1] * spatial)
    dilation = integers_or(dilations, [1] * spatial)
    pads = _pads(
        pad_type,
        pad,
        sizes=list(x.shape[2:]),
        kernel=list(weight.shape[2:]),
        strides=step,
        dilations=dilation,
    )
    symmetric = all(before == after for before, after in pads)
    if not symmetric:
        x = _padded(x, pads)
    return _CONVOLUTIONS[spatial](
        x,
        weight,
        bias,
        stride=step,
        padding=[before for before, _ in pads] if symmetric else 0,
        dilation=dilation,
        groups=integer(groups, 1),
    )


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: Tensor | None = None,
    output_shape: Tensor | None = None,
    pad_type: str = "valid",
    strides: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """The gradient of `conv` by its input. x: (B, C, ...), weight: (C, C_out / groups, ...).

    The whole result is computed, and then cut to what the padding or `output_shape` leaves of it.
    """
    spatial = x.ndim - 2
    step = integers_or(strides, [1] * spatial)
    whole = _TRANSPOSED[spatial](
        x,
        weight,
        None,
        stride=step,
        dilation=integers_or(dilations, [1] * spatial),
        groups=integer(groups, 1),
    )
    sizes = [size * each for size, each in zip(x.shape[2:], step, strict=True)]
    for axis, (start, size) in enumerate(
        _kept(list(whole.shape[2:]), sizes, pad_type=pad_type, pad=pad, output_shape=output_shape)
    ):
        missing = start + size - whole.shape[2 + axis]
        if missing > 0:  # an output_shape may reach beyond the last window
            whole = _padded(whole, [(0, missing if each == axis else 0) for each in range(spatial)])
        whole = whole.narrow(2 + axis, start, size)
    return whole if bias is None else whole + bias.reshape([-1] + [1] * spatial)


def _kept(
    whole: list[int],
    same: list[int],
    *,
    pad_type: str,
    pad: Tensor | None,
    output_shape: Tensor | None,
) -> list[tuple[int, int]]:
    """Start and size, for each axis, of the part of a whole transposed convolution that is kept."""
    flat = integers_or(pad if pad_type == "custom" else None, [0] * (2 * len(whole)))
    if output_shape is not None:
        sizes = integers_or(output_shape, [])[2:]
    elif pad_type == "same":
        sizes = same
    else:
        sizes = [
            size - before - after
            for size, before, after in zip(whole, flat[::2], flat[1::2], strict=True)
        ]
    if pad_type == "same":
        starts = [max(size - kept, 0) // 2 for size, kept in zip(whole, sizes, strict=True)]
    else:
        starts = flat[::2]
    return list(zip(starts, sizes, strict=True))


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
    pads = _pads(
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
    return _MAX_POOLS[x.ndim - 2](_padded(x, pads, value=float("-inf")), kernel, step)


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
    total = pool(_padded(x, pads), kernel, step)
    counted = torch.ones([1, 1, *x.shape[2:]], dtype=x.dtype)
    if not flag(exclude_padding_from_average):
        _, _, own = _pool_frame(x, kernel_sizes, strides, pad_type, pad, None)
        counted = _padded(counted, own, value=1.0)
        pads = [
            (0, with_ceiling - plain)
            for (_, with_ceiling), (_, plain) in zip(pads, own, strict=True)
        ]
    return total / pool(_padded(counted, pads), kernel, step)


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
    mean = _AVERAGE_POOLS[x.ndim - 2](_padded(x.square(), pads), kernel, step)
    return torch.sqrt(mean * window)


OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "avg_pool": avg_pool,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "l2_pool": l2_pool,
    "max_pool": max_pool,
}
