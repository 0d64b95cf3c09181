"""Convolutions and transposed convolutions."""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from edgeseed.export.targets.coreml.interpreter.operations._arguments import integer, integers_or
from edgeseed.export.targets.coreml.interpreter.operations._padding import padded, pads_of

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


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
    pads = pads_of(
        pad_type,
        pad,
        sizes=list(x.shape[2:]),
        kernel=list(weight.shape[2:]),
        strides=step,
        dilations=dilation,
    )
    symmetric = all(before == after for before, after in pads)
    if not symmetric:
        x = padded(x, pads)
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
            whole = padded(whole, [(0, missing if each == axis else 0) for each in range(spatial)])
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


OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "conv": conv,
    "conv_transpose": conv_transpose,
}
