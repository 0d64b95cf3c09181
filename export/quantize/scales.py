"""Real numbers as integers: `real = scale * (integer - zero_point)`, rounded to even, saturated."""

import dataclasses

import torch
import torch.ao.quantization.fx._decomposed  # registers the operators below
from torch import Tensor

from edgeseed.export.quantize.pairs import limit_pairs
from edgeseed.export.quantize.scheme import IntegerFormat

ops = torch.ops.quantized_decomposed
# Below this a scale is of a tensor that is constantly zero, and any will do.
_SMALLEST_SCALE = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Quantizer:
    """Scale, zero point and limits of one tensor: `integer = round(real / scale) + zero_point`."""

    scale: float
    zero_point: int
    low: int
    high: int
    dtype: torch.dtype

    @property
    def arguments(self) -> tuple[float, int, int, int, torch.dtype]:
        """The arguments that torch's `quantized_decomposed` operators take, in their order."""
        return (self.scale, self.zero_point, self.low, self.high, self.dtype)

    def read_as(self, *, scale: float, zero_point: int) -> "Quantizer":
        """The same integers, understood as other real numbers."""
        return dataclasses.replace(self, scale=scale, zero_point=zero_point)

    def stretched(self, factor: float, scale_dtype: torch.dtype = torch.float32) -> "Quantizer":
        """The quantizer with a range `factor` times as wide and the same zero point."""
        return dataclasses.replace(self, scale=_as_stored(self.scale * factor, scale_dtype))

    @property
    def levels(self) -> int:
        """The number of steps from `low` to `high`."""
        return self.high - self.low

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest real number that it can store."""
        return self.scale * (self.low - self.zero_point), self.scale * (self.high - self.zero_point)

    def simulate(self, values: Tensor) -> Tensor:
        """Real numbers, rounded to the steps and cut off at the ends of the range."""
        integers = torch.clamp(
            torch.round(values / self.scale) + self.zero_point, self.low, self.high
        )
        return (integers - self.zero_point) * self.scale


def quantizer_for_range(low: float, high: float, number_format: IntegerFormat) -> Quantizer:
    """The quantizer that spans [low, high], zero included, so that padding and ReLU are exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    if number_format.symmetric:
        scale, zero_point = max(-low, high) / number_format.high, 0
    else:
        scale = (high - low) / number_format.levels
        zero_point = number_format.low
        if scale > _SMALLEST_SCALE:
            zero_point = number_format.low + round(-low / scale)
    return Quantizer(
        # Kernels keep scales in few digits; a scale that is rounded once, here, is the same
        # everywhere.
        scale=_as_stored(scale, number_format.scale_dtype),
        zero_point=zero_point,
        low=number_format.low,
        high=number_format.high,
        dtype=number_format.dtype,
    )


def _as_stored(scale: float, dtype: torch.dtype) -> float:
    return float(torch.tensor(max(scale, _smallest_scale(dtype)), dtype=dtype))


def _smallest_scale(dtype: torch.dtype) -> float:
    """The least number of the type above zero, but no scale below 1e-8."""
    info = torch.finfo(dtype)
    return max(_SMALLEST_SCALE, info.smallest_normal * info.eps)


# Shares of a channel's largest weight that its greatest integer may stand for. Those above one only
# where neighbours of one sign are limited: coarser steps make their integers smaller.
_CLIPPED = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7)
_COARSER = (1.06, 1.12, 1.2, 1.3, 1.4, 1.55, 1.7, 1.85, 2.0)


def weight_scales(weight: Tensor, number_format: IntegerFormat, *, pair_limit: int = 0) -> Tensor:
    """(O,) scales of the output channels: of some that are tried, those of least squared error.

    For most channels the largest weight is the largest integer. One with a single large weight
    gains from cutting it off, as the others get finer steps. One with two large neighbours may lose
    less by coarser steps than by making the neighbours smaller.

    Args:
        weight: (O, I, ...) weights.
        number_format: The integers.
        pair_limit: See `pairs.limit_pairs`.
    """
    rows = weight.flatten(1)
    largest = rows.abs().amax(dim=1)
    # A channel of zeros takes any scale; a tiny one would leave no room for its bias in int32.
    largest = torch.where(largest > 0, largest, 1.0)
    best_scale = largest / number_format.high
    best_error = torch.full_like(largest, torch.inf)
    for share in (*_CLIPPED, *(_COARSER if pair_limit else ())):
        scale = in_stored_type(share * largest / number_format.high, number_format.scale_dtype)
        scale = scale.unsqueeze(1)
        positions = torch.clamp(rows / scale, number_format.low, number_format.high)
        if pair_limit:
            positions = limit_pairs(positions.view_as(weight), pair_limit).flatten(1)
        error = ((torch.round(positions) * scale - rows) ** 2).sum(dim=1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale.squeeze(1), best_scale)
    return best_scale


def in_stored_type(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales as numbers of the type that a kernel keeps them in, none of them zero."""
    if dtype is torch.float32:
        return scales
    return scales.clamp(min=_smallest_scale(dtype)).to(dtype).float()


def quantize_channels(
    values: Tensor,
    scales: Tensor,
    *,
    low: int,
    high: int,
    dtype: torch.dtype,
    pair_limit: int = 0,
) -> Tensor:
    """(O, ...) real numbers to integers with zero point 0 and one scale an output channel.

    Args:
        values: (O, ...).
        scales: (O,).
        low: Least integer.
        high: Greatest integer.
        dtype: Of the integers.
        pair_limit: As `pairs.limit_pairs` takes it.
    """
    shaped = scales.view(-1, *[1] * (values.dim() - 1)).double()
    positions = torch.clamp(values.double() / shaped, low, high)
    # Once more of the integers, for those that rounding made too large by one.
    integers = limit_pairs(torch.round(limit_pairs(positions, pair_limit)), pair_limit)
    return integers.to(dtype)
