import math
from statistics import NormalDist

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeseed.runtime.summary import Estimate, Summary, drift, percentile


def lognormal(n: int, *, seed: int = 0, dependence: float = 0.0) -> NDArray[np.float64]:
    """exp of an AR(1) process: its quantiles are known, its neighbours may depend on each other."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=n + 100)
    values = np.empty_like(noise)
    values[0] = noise[0]
    for i in range(1, len(noise)):
        values[i] = dependence * values[i - 1] + math.sqrt(1 - dependence**2) * noise[i]
    return np.asarray(np.exp(0.1 * values[100:]))


def test_figures_agree_with_numpy() -> None:
    samples = (lognormal(500) * 5e6).astype(int)
    ms = samples / 1e6

    summary = Summary.from_samples(samples.tolist())

    found = [getattr(summary, f"p{percent}").value for percent in (50, 90, 95, 99)]
    np.testing.assert_allclose(found, np.percentile(ms, [50, 90, 95, 99]))
    assert summary.mean == pytest.approx(ms.mean())
    assert summary.std == pytest.approx(ms.std(ddof=1))
    assert summary.cv == pytest.approx(ms.std(ddof=1) / ms.mean())
    assert (summary.n, summary.min, summary.max) == (500, ms.min(), ms.max())
    assert summary.throughput_per_s == pytest.approx(1000 / ms.mean())


@pytest.mark.parametrize("percent", [50, 90])
@pytest.mark.parametrize("dependence", [0.0, 0.6])
def test_intervals_hold_the_true_percentile_about_as_often_as_they_say(
    percent: int, dependence: float
) -> None:
    truth = math.exp(0.1 * NormalDist().inv_cdf(percent / 100))
    hits = 0
    for seed in range(200):
        found = percentile(lognormal(600, seed=seed, dependence=dependence), percent)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high

    # Within four standard errors of 95 %; without the allowance for dependence it is under 75 %.
    assert hits / 200 >= 0.885


def test_dependent_runs_have_wider_intervals() -> None:
    free, bound = (percentile(lognormal(2000, dependence=d), 50) for d in (0.0, 0.9))

    assert free.high is not None
    assert free.low is not None
    assert bound.high is not None
    assert bound.low is not None
    assert bound.high - bound.low > 2 * (free.high - free.low)


def test_more_runs_have_narrower_intervals() -> None:
    few, many = (percentile(lognormal(n), 90) for n in (128, 8192))

    assert few.high is not None
    assert few.low is not None
    assert many.high is not None
    assert many.low is not None
    assert many.high - many.low < (few.high - few.low) / 4


def test_a_p99_of_few_runs_has_no_upper_end() -> None:
    found = percentile(lognormal(64), 99)

    assert found.high is None
    assert found.low is not None


def test_equal_samples_have_no_spread() -> None:
    summary = Summary.from_samples([5_000_000] * 64)

    assert (summary.p90.value, summary.p90.low, summary.std, summary.drift) == (5, 5, 0, 1)


def test_one_sample_is_enough() -> None:
    assert Summary.from_samples([3_000_000]).p50 == Estimate(value=3, low=None, high=None)


def test_no_sample_is_an_error() -> None:
    with pytest.raises(ValueError, match="no samples"):
        Summary.from_samples([])


def test_drift_compares_the_last_tenth_with_the_first() -> None:
    samples = np.r_[np.full(10, 2.0), np.full(80, 9.0), np.full(10, 3.0)]

    assert drift(samples) == 1.5


def test_intervals_that_share_a_value_overlap() -> None:
    def interval(low: float | None, high: float | None) -> Estimate:
        return Estimate(value=1.0, low=low, high=high)

    assert interval(1, 2).overlaps(interval(2, 3))
    assert interval(2, 3).overlaps(interval(1, None))
    assert not interval(1, 2).overlaps(interval(2.1, 3))
    assert not interval(2.1, 3).overlaps(interval(1, 2))
