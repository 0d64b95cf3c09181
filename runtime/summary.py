"""From raw durations to the numbers people quote, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

NS_PER_MS = 1e6
PERCENTILES = (50, 90, 95, 99)
CONFIDENCE = 0.95
_PERCENTILE_FIELDS = tuple(f"p{percent}" for percent in PERCENTILES)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A percentile in ms and its confidence interval.

    An end is None where the samples are too few to bound it (a p99 of 64 runs has no upper end).
    """

    value: float
    low: float | None
    high: float | None

    def scaled(self, factor: float) -> Estimate:
        """Value and ends times `factor`."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return Estimate(value=self.value * factor, low=low, high=high)

    def overlaps(self, other: Estimate) -> bool:
        """Whether the two intervals share a value; an unknown end reaches to infinity."""
        return _at_most(self.low, other.high) and _at_most(other.low, self.high)


def _at_most(low: float | None, high: float | None) -> bool:
    return low is None or high is None or low <= high


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """One measurement in numbers. Times in ms; `cv` and `drift` are ratios."""

    n: int
    p50: Estimate
    p90: Estimate
    p95: Estimate
    p99: Estimate
    mean: float
    std: float
    min: float
    max: float
    cv: float
    drift: float
    throughput_per_s: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)

    def scaled(self, factor: float) -> Summary:
        """The same in another unit of time, of which a millisecond has `factor`."""
        percentiles = {name: getattr(self, name).scaled(factor) for name in _PERCENTILE_FIELDS}
        moments = {name: getattr(self, name) * factor for name in ("mean", "std", "min", "max")}
        return replace(self, **percentiles, **moments)

    @classmethod
    def from_samples(cls, samples_ns: Sequence[float]) -> Summary:
        """Summarize raw durations in ns; at least one is needed."""
        samples = np.asarray(samples_ns, dtype=np.float64) / NS_PER_MS
        if samples.size == 0:
            raise ValueError("no samples to summarize")
        mean = float(samples.mean())
        std = float(samples.std(ddof=1)) if samples.size > 1 else 0.0
        p50, p90, p95, p99 = (percentile(samples, percent) for percent in PERCENTILES)
        return cls(
            n=int(samples.size),
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            mean=mean,
            std=std,
            min=float(samples.min()),
            max=float(samples.max()),
            cv=std / mean,
            drift=drift(samples),
            throughput_per_s=1000 / mean,
        )


def percentile(samples: NDArray[np.float64], percent: float) -> Estimate:
    """A percentile and its distribution-free interval from order statistics.

    The rank of the true quantile among n samples is n·q ± z·sqrt(n·s²). For independent samples
    s² = q(1 - q). Latencies are not independent (a busy neighbour slows many runs in a row), so
    s² is the long-run variance of "this run was below the quantile", by batch means, and never
    less than the independent one.

    Args:
        samples: (N,) durations in the order in which they happened.
        percent: 0 < percent < 100.
    """
    q = percent / 100
    value = float(np.percentile(samples, percent))
    ordered = np.sort(samples)
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    reach = z * math.sqrt(samples.size * _long_run_variance(samples <= value, q))
    low, high = math.floor(samples.size * q - reach), math.ceil(samples.size * q + reach)
    return Estimate(
        value=value,
        low=float(ordered[low - 1]) if low >= 1 else None,
        high=float(ordered[high - 1]) if high <= samples.size else None,
    )


def _long_run_variance(below: NDArray[np.bool_], q: float) -> float:
    independent = q * (1 - q)
    # Batches of sqrt(n) runs: long enough to hold a slow spell, and as many as there are runs in
    # each.
    size = math.isqrt(below.size)
    count = below.size // size
    if count < 2:
        return independent
    means = below[: size * count].reshape(count, size).mean(axis=1)
    return max(independent, size * float(means.var(ddof=1)))


def drift(samples: NDArray[np.float64]) -> float:
    """Median of the last tenth over median of the first: above 1, the device got slower."""
    tenth = max(1, samples.size // 10)
    return float(np.median(samples[-tenth:]) / np.median(samples[:tenth]))
