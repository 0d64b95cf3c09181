"""Channel by channel: whether each output follows the student's as nearly as rounding lets it.

A channel of zeros, two that were swapped, and one of twice its size hide in all means over
channels. So each channel's correlation with the student's is held to what rounding alone leaves of
it, and its size to the size that it has then.

What rounding costs a channel is seen in the simulated program, on the photos that move the channel.
Where these are few, it is an error of a few numbers, and the next program that rounds as well has
another one. (Channel 1124 of an EfficientNet-Lite0's embedding is above zero on 4 of 80 photos, by
0.4 to 2.8 integer steps. Simulated eleven times with other last bits, it lacked 0.025 to 0.169 of
its correlation.) Of two errors of one size, each seen on n photos, the logarithm of the ratio of
their squares has a standard deviation of about 2 / sqrt(n) (half of it is Fisher's z). The factor
between a file and its simulation is three of these, and at least 3, which 30 photos have. No
channel may go more than half the way from what rounding leaves of it to not following at all.

```text
cost     1 - correlation of the simulation, mean of both draws
factor   max(3, exp(3 * 2 / sqrt(photos that the channel is seen on)))
allowed  factor * cost + 0.02, but half the way to 1 at most where the factor is above 3
```

An error of that size may lie along the channel itself, and makes it larger or smaller by up to
sqrt(2 * allowed); one integer step more or less adds its share of the channel's range. Channels
that span less than two steps, on fewer than ten photos, are not judged: where one program has a
one, the next has a zero. And where rounding takes a third of the correlation, so may a fault that
takes all of it.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from edgeseed.core.agreement import channel_correlations, channel_gains, channel_photos
from edgeseed.export.proof.reference import Outputs
from edgeseed.export.proof.rounding import Simulated

_LEAST_FACTOR, _MARGIN = 3.0, 2e-2
_DEVIATIONS = 3.0
_LEAST_STEPS, _FEW_PHOTOS = 2, 10
_MOST_INTEGERS = 256


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WorstChannel:
    """The channel that strays most.

    Attributes:
        share: Its error, over what rounding explains; above 1 it is a fault.
        detail: Which channel of which output, and by what.
    """

    share: float
    detail: str


def worst_channel(outputs: Outputs, reference: Outputs, rounding: Simulated) -> WorstChannel:
    """Of all outputs, the channel whose error rounding explains least.

    Args:
        outputs: (N, D) each, of the file.
        reference: The float student's.
        rounding: Of the simulated program.
    """
    found = []
    for name, truth in reference.items():
        draws = [each[name] for each in (rounding.outputs, rounding.again) if each is not None]
        found += _shares(name, outputs[name], truth, draws)
    return max(found, key=lambda each: each.share)


def _shares(
    name: str,
    value: npt.NDArray[np.float32],
    truth: npt.NDArray[np.float32],
    draws: list[npt.NDArray[np.float32]],
) -> list[WorstChannel]:
    """Of one output, by correlation and by size."""
    missing = 1 - channel_correlations(value, truth)
    cost = np.mean([1 - channel_correlations(each, truth) for each in draws], axis=0)
    gain = channel_gains(value, truth)
    honest = np.mean([channel_gains(each, truth) for each in draws], axis=0)
    photos = channel_photos(truth)
    allowed = _allowed(cost, photos)
    steps = np.ptp(truth, axis=0).astype(np.float64) / max(_integer_step(draws[0]), 1e-30)
    allowed[(steps < _LEAST_STEPS) & (photos < _FEW_PHOTOS)] = np.nan
    # NaN where the student's channel hardly varies: there is nothing to follow.
    follows = np.nan_to_num(missing / allowed, nan=0.0)
    grows = np.nan_to_num(
        np.abs(gain - honest) / (np.sqrt(2 * allowed) + 1 / np.maximum(steps, 1)), nan=0.0
    )
    lost, grown = int(follows.argmax()), int(grows.argmax())
    return [
        WorstChannel(
            share=float(follows[lost]),
            detail=f"{name} channel {lost}: correlation {1 - missing[lost]:.4f}, by rounding "
            f"alone {1 - cost[lost]:.4f}",
        ),
        WorstChannel(
            share=float(grows[grown]),
            detail=f"{name} channel {grown}: {gain[grown]:.2f} times the student's, by rounding "
            f"alone {honest[grown]:.2f}",
        ),
    ]


def _integer_step(values: npt.NDArray[np.float32]) -> float:
    """The step between neighbouring values of an output that is stored as bytes; of others 0."""
    found = np.unique(values)
    if not 1 < len(found) <= _MOST_INTEGERS:
        return 0.0
    return float(np.diff(found).min())


def _allowed(
    cost: npt.NDArray[np.float64], photos: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """(D,) how much of its correlation each channel may lack."""
    factor = np.exp(_DEVIATIONS * 2 / np.sqrt(np.maximum(photos, 1)))
    few = np.minimum(factor * cost + _MARGIN, (1 + cost) / 2)
    return np.asarray(np.maximum(_LEAST_FACTOR * cost + _MARGIN, few))
