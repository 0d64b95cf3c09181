"""Padding of the axes that windows slide along: of convolutions and of pooling."""

import torch.nn.functional as F
from torch import Tensor

from edgeseed.core.errors import WorkError
from edgeseed.export.targets.coreml.interpreter.operations._arguments import integers_or

Pads = list[tuple[int, int]]
"""Elements before and after, an entry for each spatial axis."""


def pads_of(
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


def padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """X with its spatial axes padded; torch takes the last axis first."""
    flat = [amount for before_after in reversed(pads) for amount in before_after]
    return F.pad(x, flat, value=value) if any(flat) else x
