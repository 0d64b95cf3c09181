"""The range that a tensor's integers span, from the values it takes on calibration photos.

```text
minmax   everything that was seen
photos   the extremes of every photo, but of the three in a hundred that go furthest
fisher   least squared error where each value counts by the square of the outputs' gradient:
         how far the answers move, not the tensor (the diagonal of the Fisher information,
         as in Li et al., 2021, "BRECQ", arXiv 2102.05426, equation 10)
```

`export.quantize.search.candidates` chooses one by photos that were not calibrated with. There were
four more. None of the published networks has one of them: a percentile of all values, a moving
average of the batches' extremes, the least squared error without weights, and the least
Kullback-Leibler divergence (`benchmarks/log/code.md`).

One photo in fifty or a hundred may drive a network far beyond what it does on all others (an
aircraft before a plain sky: 10 to 60 times, in a MobileNetV3 trained on CIFAR-10), and every value
of it is large. A percentile of values would keep them all; `photos` counts a photo as one, and
`fisher` asks typical photos alone.

A channel of small values may carry as much as one of large values: the first hard-swish of that
network has channels that end at 0.2 and at 9, and the next layer reads the first with weights 80
times as large. Half the range then costs the tensor a lot and the answers nothing: rounded twice as
finely there, the network comes twice as near to the float one.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgeseed.export.quantize.graph.layout import Kind
from edgeseed.export.quantize.graph.rewriting import quantizer_of_kind
from edgeseed.export.quantize.scales import Quantizer
from edgeseed.export.quantize.scheme import IntegerFormat

Method = Literal["minmax", "photos", "fisher"]
METHODS: tuple[Method, ...] = get_args(Method)
# Names that a call may still give -> what is nearest to it of those that are left.
RETIRED: dict[str, Method] = {
    "percentile": "photos",
    "moving-average": "photos",
    "mse": "fisher",
    "entropy": "fisher",
}

_BINS_PER_SIDE = 4096
# Photos beyond `photos`' range at either end, and photos whose extremes are kept.
PHOTO_TAIL = 0.03
_MOST_PHOTOS = 4096
# A photo that goes further than so many times the others' range is not a typical one.
_BEYOND = 2.0
# Values of one tensor and batch that go into the histogram; the extremes are taken of all.
_MAX_VALUES = 1 << 16
_SHRINKS = np.linspace(1.0, 0.25, 40)
# By how much more `fisher` counts the square of what is cut off. Measured: 4 was best for a
# MobileNetV3-small, 16 for an EfficientNet-B0, whose 80 cut-off tensors add up.
_CUT = 8.0

Doubles = npt.NDArray[np.float64]


@dataclasses.dataclass
class Statistics:
    """What has been seen of one tensor, in constant memory.

    The histogram is centred on zero. When a value falls outside, the bins double in width and merge
    in pairs, so that one pass over the photos is enough and nothing is counted twice.
    """

    low: float = np.inf
    high: float = -np.inf
    width: float = 0.0
    counts: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(2 * _BINS_PER_SIDE))
    extremes: list[Tensor] = dataclasses.field(default_factory=list)
    """(N, 2) least and greatest value of each photo, batch by batch."""

    def add(self, values: Tensor, weights: Tensor | None = None) -> None:
        """Counts one batch.

        Args:
            values: (N, ...).
            weights: What each value counts for in the histogram, of the same shape and order.
        """
        flat = _in_memory_order(values.detach())
        rows = flat.view(len(values), -1)
        # Both at once (`aminmax`) is ten times slower along a dimension.
        each = torch.stack([rows.amin(dim=1), rows.amax(dim=1)], dim=1)
        if sum(map(len, self.extremes)) < _MOST_PHOTOS:
            self.extremes.append(each)
        low, high = float(each[:, 0].min()), float(each[:, 1].max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(abs(low), abs(high)))
        if weights is None:
            self._count(flat[:: _sampling_stride(flat.numel(), values.shape)], None)
        else:
            self._count(flat, _in_memory_order(weights).double())

    def _count(self, values: Tensor, weights: Tensor | None) -> None:
        """`torch.histc` takes four times as long."""
        bins = (values / self.width).add_(_BINS_PER_SIDE).int().clamp_(0, 2 * _BINS_PER_SIDE - 1)
        counted = torch.bincount(bins, weights=weights, minlength=2 * _BINS_PER_SIDE)
        self.counts += counted.to(self.counts.dtype)

    def _widen(self, magnitude: float) -> None:
        if self.width == 0.0:
            self.width = max(magnitude, 1e-12) / _BINS_PER_SIDE
        while magnitude > self.width * _BINS_PER_SIDE:
            merged = self.counts.view(-1, 2).sum(dim=1)
            self.counts.zero_()
            half = _BINS_PER_SIDE // 2
            self.counts[half : half + _BINS_PER_SIDE] = merged
            self.width *= 2

    def photo_range(self) -> tuple[float, float]:
        """What all but the furthest photos keep within, at either end; zero included."""
        lows, highs = torch.cat(self.extremes).double().unbind(dim=1)
        low, high = lows.quantile(PHOTO_TAIL), highs.quantile(1 - PHOTO_TAIL)
        return min(float(low), 0.0), max(float(high), 0.0)

    def distribution(self) -> tuple[Doubles, Doubles]:
        """Centres of the bins that hold something, and their shares."""
        counts = self.counts.double().numpy()
        centres = (np.arange(2 * _BINS_PER_SIDE) - _BINS_PER_SIDE + 0.5) * self.width
        filled = counts > 0
        shares = counts[filled] / counts.sum()
        return np.asarray(centres[filled], np.float64), np.asarray(shares, np.float64)


def typical_photos(statistics: Iterable[Statistics], count: int) -> npt.NDArray[np.bool_]:
    """(N,) which of the photos stay near the range of the others in every tensor.

    What is cut off of the others is no measure of how integers round. If those are more than half,
    there is no telling who is odd, and all are typical.

    Args:
        statistics: Of all tensors. Those whose rows are not photos, such as windows of a Swin, say
            nothing of photos.
        count: Photos that were seen; the answer is of the first 4,096 of them.
    """
    typical = torch.ones(min(count, _MOST_PHOTOS), dtype=torch.bool)
    for seen in statistics:
        extremes = torch.cat(seen.extremes)[:_MOST_PHOTOS]
        low, high = seen.photo_range()
        if len(extremes) == len(typical) and high > low:
            typical &= (extremes[:, 0] >= _BEYOND * low) & (extremes[:, 1] <= _BEYOND * high)
    if 2 * int(typical.sum()) < len(typical):
        typical[:] = True
    return typical.numpy()


def _in_memory_order(values: Tensor) -> Tensor:
    """All values in a row, whatever their order; without a copy where they lie densely."""
    is_dense = values.is_contiguous() or (
        values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)
    )
    return values.as_strided((values.numel(),), (1,)) if is_dense else values.flatten()


def _sampling_stride(count: int, shape: Sequence[int]) -> int:
    """Takes about `_MAX_VALUES` of `count` values, of every row, column and channel alike."""
    stride = max(1, count // _MAX_VALUES)
    # A common divisor with a dimension would walk down some of its places and never see the rest.
    while any(math.gcd(stride, size) > 1 for size in shape[1:]):
        stride += 1
    return stride


def choose_quantizer(
    statistics: Statistics, method: Method, kind: Kind, number_format: IntegerFormat
) -> Quantizer:
    """The quantizer of a point by one method.

    A photo's is the same by all: what was seen, in steps a little larger than a byte's. Steps of a
    byte's size with the mean half a step off would have each byte halfway between two, where
    rounding to even takes every second one for its neighbour.
    """
    if kind is Kind.PHOTO:
        levels = number_format.levels
        wider = 1.0 if number_format.symmetric else levels / (levels - 1)
        return quantizer_of_kind(
            kind, statistics.low * wider, statistics.high * wider, number_format
        )
    low, high = _RANGES[method](statistics, kind, number_format)
    return quantizer_of_kind(kind, low, high, number_format)


def _minmax(
    statistics: Statistics, kind: Kind, number_format: IntegerFormat
) -> tuple[float, float]:
    return statistics.low, statistics.high


def _photos(
    statistics: Statistics, kind: Kind, number_format: IntegerFormat
) -> tuple[float, float]:
    return statistics.photo_range()


def _fisher(
    statistics: Statistics, kind: Kind, number_format: IntegerFormat
) -> tuple[float, float]:
    """The range of least weighted error: first both ends together, then each on its own."""
    centres, shares = statistics.distribution()
    centres = _where_it_matters(centres, kind)

    def cost_of(low: float, high: float) -> float:
        quantizer = quantizer_of_kind(kind, low, high, number_format)
        return _weighted_error(quantizer, centres, shares)

    low, high = statistics.low, statistics.high
    share = min(_SHRINKS, key=lambda share: cost_of(low * share, high * share))
    low, high = low * share, high * share
    if kind is Kind.FREE and not number_format.symmetric and low < 0 < high:
        lows: list[float] = [low * share for share in _SHRINKS]
        costs = [cost_of(candidate, high) for candidate in lows]
        low = lows[costs.index(min(costs))]
        highs: list[float] = [high * share for share in _SHRINKS]
        costs = [cost_of(low, candidate) for candidate in highs]
        high = highs[costs.index(min(costs))]
    return float(low), float(high)


def _where_it_matters(centres: Doubles, kind: Kind) -> Doubles:
    """Values that the activation behind makes equal are equal here too."""
    if kind is Kind.RELU:
        return np.maximum(centres, 0)
    if kind is Kind.RELU6:
        return np.clip(centres, 0, 6)
    return np.asarray(np.maximum(centres, -3) if kind is Kind.HARDSWISH else centres)


def _integers(quantizer: Quantizer, values: Doubles) -> Doubles:
    rounded = np.rint(values / quantizer.scale) + quantizer.zero_point
    return np.asarray(np.clip(rounded, quantizer.low, quantizer.high), np.float64)


def _weighted_error(quantizer: Quantizer, centres: Doubles, shares: Doubles) -> float:
    """Rounding errs up and down and averages out; what is cut off errs one way, and adds up."""
    low, high = quantizer.range
    margin = quantizer.scale / 2
    is_cut = (centres < low - margin) | (centres > high + margin)
    simulated = (_integers(quantizer, centres) - quantizer.zero_point) * quantizer.scale
    return float(np.where(is_cut, _CUT * shares, shares) @ (simulated - centres) ** 2)


_RangeOf = Callable[[Statistics, Kind, IntegerFormat], tuple[float, float]]
_RANGES: dict[Method, _RangeOf] = {
    "minmax": _minmax,
    "photos": _photos,
    "fisher": _fisher,
}
