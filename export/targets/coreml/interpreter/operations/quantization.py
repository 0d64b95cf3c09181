"""Quantization: to and from 8 bits at run time, and weights that the file keeps compressed."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from edgeseed.core.errors import WorkError
from edgeseed.export.targets.coreml.interpreter.operations._arguments import (
    integer,
    integers,
    per_channel,
)
from edgeseed.export.targets.coreml.interpreter.reading import unpack_bits

_RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


def _spread(values: Tensor, rank: int, axis: Tensor | None) -> Tensor:
    """A scale or zero point, scalar or one for each element of an axis, made to broadcast."""
    return values if values.ndim == 0 else per_channel(values, rank, integer(axis, 0))


def quantize(
    input: Tensor,
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: Tensor | None = None,
) -> Tensor:
    """clip(round(input / scale) + zero_point), a half rounded to the even neighbour."""
    if output_dtype not in _RANGES:
        raise WorkError(f"quantize gives {output_dtype}; known: {', '.join(_RANGES)}")
    levels = torch.round(input / _spread(scale, input.ndim, axis))
    if zero_point is not None:
        levels = levels + _spread(zero_point, input.ndim, axis)
    return levels.clamp(*_RANGES[output_dtype])


def dequantize(
    input: Tensor, scale: Tensor, zero_point: Tensor | None = None, axis: Tensor | None = None
) -> Tensor:
    """Scale * (input - zero_point)."""
    levels = input.float()
    if zero_point is not None:
        levels = levels - _spread(zero_point, input.ndim, axis)
    return _spread(scale, input.ndim, axis) * levels


def constexpr_affine_dequantize(
    quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor
) -> Tensor:
    """Scale * (quantized_data - zero_point), once, as the model is loaded."""
    return dequantize(quantized_data, scale, zero_point, axis)


def constexpr_blockwise_shift_scale(
    data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> Tensor:
    """Scale * (data - offset), with a scale for each block of data."""
    levels = data.float()
    if offset is not None:
        levels = levels - _repeated(offset, data)
    return _repeated(scale, data) * levels


def _repeated(values: Tensor, data: Tensor) -> Tensor:
    """One value a block -> one value an element."""
    for axis, size in enumerate(data.shape):
        values = values.repeat_interleave(size // values.shape[axis], dim=axis)
    return values


def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """A float16 constant as float32."""
    return source_val.float()


def constexpr_lut_to_dense(
    indices: Tensor,
    lut: Tensor,
    shape: Tensor | None = None,
    vector_axis: Tensor | None = None,
) -> Tensor:
    """Weights from a palette.

    iOS 16 and 17: `indices` are bytes that pack log2(len(lut)) bits an element, and `shape` is the
    result's. From iOS 18 on: `indices` has the result's shape (but for vectors), and `lut` a
    palette for each block: (..., palettes, vector).
    """
    if shape is not None:
        return _one_palette(indices, lut, integers(shape))
    vector = lut.shape[-1]
    palettes = lut.reshape(*lut.shape[:-1], vector)
    for axis, size in enumerate(indices.shape):
        palettes = palettes.repeat_interleave(size // palettes.shape[axis], dim=axis)
    places = indices.long()[..., None, None].expand(*indices.shape, 1, vector)
    chosen = palettes.gather(-2, places).squeeze(-2)
    if vector == 1:
        return chosen.squeeze(-1)
    along = integer(vector_axis, 0) % indices.ndim
    return chosen.movedim(-1, along + 1).flatten(along, along + 1)


def _one_palette(packed: Tensor, lut: Tensor, shape: list[int]) -> Tensor:
    bits = lut.numel().bit_length() - 1
    count = int(np.prod(shape))
    places = unpack_bits(packed.numpy().astype(np.uint8), bits=bits, count=count)
    return lut[torch.from_numpy(places.astype(np.int64))].reshape(shape)


def constexpr_sparse_to_dense(
    nonzero_data: Tensor, mask: Tensor, shape: Tensor | None = None
) -> Tensor:
    """Weights of which only those that are not zero are kept, with a bit for each place."""
    if shape is not None:
        sizes = integers(shape)
        bits = unpack_bits(mask.numpy().astype(np.uint8), bits=1, count=int(np.prod(sizes)))
        mask = torch.from_numpy(bits.astype(np.int32)).reshape(sizes)
    dense = torch.zeros(mask.shape, dtype=nonzero_data.dtype)
    dense[mask != 0] = nonzero_data
    return dense


OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "constexpr_affine_dequantize": constexpr_affine_dequantize,
    "constexpr_blockwise_shift_scale": constexpr_blockwise_shift_scale,
    "constexpr_cast": constexpr_cast,
    "constexpr_lut_to_dense": constexpr_lut_to_dense,
    "constexpr_sparse_to_dense": constexpr_sparse_to_dense,
    "dequantize": dequantize,
    "quantize": quantize,
}
