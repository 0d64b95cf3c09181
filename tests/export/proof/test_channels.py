"""Channels that few photos move: honest rounding passes, and a fault in one of them does not."""

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from edgeseed.core.agreement import channel_correlations, channel_photos
from edgeseed.export.proof.channels import WorstChannel, worst_channel
from edgeseed.export.proof.rounding import Simulated

Array = npt.NDArray[np.float32]
PHOTOS, CHANNELS, STEP = 80, 300, 0.05
SIZES = np.geomspace(0.15, 3, CHANNELS)


def student() -> Array:
    """(80, 300) as behind a ReLU: each channel is above zero on 3 to 80 of the photos."""
    generator = np.random.default_rng(0)
    values = np.abs(generator.normal(size=(PHOTOS, CHANNELS)))
    # The rarer a channel, the smaller it is.
    counts = np.geomspace(3, PHOTOS, CHANNELS).astype(int)
    for channel, count in enumerate(counts):
        values[generator.permutation(PHOTOS)[count:], channel] = 0
    return (values * SIZES).astype(np.float32)


def rounded(truth: Array, seed: int) -> Array:
    """What a network of integers makes of it; as measured, an error's square grows as the value."""
    noise = 0.12 * np.sqrt(truth * SIZES) * np.random.default_rng(seed).normal(size=truth.shape)
    return (STEP * np.round(np.maximum(truth + noise, 0) / STEP)).astype(np.float32)


TRUTH = student()
DRAWS = [rounded(TRUTH, seed) for seed in range(1, 8)]
JUDGED = np.flatnonzero(np.ptp(TRUTH, axis=0) >= 2 * STEP)
QUIETEST = sorted(JUDGED, key=lambda channel: float(TRUTH[:, channel].std()))[:40]


def judged(value: Array, first: Array = DRAWS[0], second: Array | None = DRAWS[1]) -> WorstChannel:
    again = None if second is None else {"embedding": second}
    rounding = Simulated(outputs={"embedding": first}, again=again)
    return worst_channel({"embedding": value}, {"embedding": TRUTH}, rounding)


def test_programs_that_round_alike_pass_beside_each_other() -> None:
    for value, first, second in itertools.permutations(DRAWS, 3):
        assert judged(value, first, second).share <= 1, judged(value, first, second).detail


def test_three_times_the_cost_that_one_program_has_refused_them() -> None:
    # As the gate was. An EfficientNet-Lite0 was refused for a channel that 4 of 80 photos move.
    missing = [1 - channel_correlations(each, TRUTH) for each in DRAWS]
    shares = [
        np.nanmax(found / (3 * cost + 0.02)) for found, cost in itertools.permutations(missing, 2)
    ]
    assert np.mean(np.array(shares) > 1) > 0.5


@pytest.mark.parametrize("channel", QUIETEST)
def test_a_quiet_channel_of_zeros_is_found(channel: int) -> None:
    value = DRAWS[2].copy()
    value[:, channel] = 0
    found = judged(value)
    assert found.share > 1
    assert f"embedding channel {channel}: correlation 0.0000" in found.detail


@pytest.mark.parametrize("channel", QUIETEST)
def test_a_quiet_channel_that_was_swapped_is_found(channel: int) -> None:
    value = DRAWS[2].copy()
    other = (channel + 1) % CHANNELS
    value[:, [channel, other]] = value[:, [other, channel]]
    assert judged(value).share > 1


def test_a_channel_of_twice_its_size_is_found_where_ten_photos_show_it() -> None:
    # On three photos rounding alone may make a channel half as large again.
    seen = channel_photos(TRUTH)
    for channel in JUDGED[seen[JUDGED] >= 10]:
        value = DRAWS[2].copy()
        value[:, channel] *= 2
        found = judged(value)
        assert found.share > 1, channel
        assert f"embedding channel {channel}: " in found.detail


def test_a_channel_of_half_its_size_is_found_where_most_photos_show_it() -> None:
    for channel in np.flatnonzero(channel_photos(TRUTH) >= 40):
        value = DRAWS[2].copy()
        value[:, channel] /= 2
        assert judged(value).share > 1, channel


def test_a_channel_of_less_than_two_steps_on_a_few_photos_is_not_judged() -> None:
    # The embedding's integers hold a one or a zero there, by chance.
    (channel, *_) = np.flatnonzero(np.ptp(TRUTH, axis=0) < 2 * STEP)
    value = DRAWS[2].copy()
    value[:, channel] = 0
    assert judged(value).share <= 1


def test_a_channel_of_less_than_two_steps_on_many_photos_is_judged() -> None:
    def stored(values: Array) -> Array:
        return (STEP * np.round(values / STEP)).astype(np.float32)

    truth = TRUTH.copy()
    truth[:, 0] = 1.8 * STEP * np.random.default_rng(1).random(PHOTOS)
    rounding = Simulated(outputs={"embedding": stored(truth)})
    assert worst_channel({"embedding": stored(truth)}, {"embedding": truth}, rounding).share <= 1
    value = stored(truth)
    value[:, 0] = 0
    assert worst_channel({"embedding": value}, {"embedding": truth}, rounding).share > 1


def test_one_simulation_is_enough_to_find_a_channel_of_zeros() -> None:
    # Of before a second one was kept, and of files that round nothing but weights.
    value = DRAWS[2].copy()
    value[:, QUIETEST[7]] = 0
    assert judged(value, second=None).share > 1
    assert judged(DRAWS[2], second=None).share <= 1


def test_what_is_not_stored_as_bytes_has_no_step() -> None:
    # 300 channels of 80 photos are more values than bytes have.
    truth = TRUTH.copy()
    truth[:, 0] = 0.03 * np.random.default_rng(1).normal(size=PHOTOS)
    rounding = Simulated(outputs={"embedding": truth})
    value = truth.copy()
    value[:, 0] = 0
    assert worst_channel({"embedding": value}, {"embedding": truth}, rounding).share > 1


def test_a_channel_that_never_varies_is_not_judged() -> None:
    truth = TRUTH.copy()
    truth[:, 3] = 0.5
    value = truth.copy()
    value[:, 3] = 0
    rounding = Simulated(outputs={"embedding": truth})
    assert worst_channel({"embedding": value}, {"embedding": truth}, rounding).share < 1e-6
