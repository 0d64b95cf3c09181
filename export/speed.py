"""Which of a few models is the fastest here: an aid to choose by while exporting.

Not a benchmark. It runs for two seconds on whatever machine makes the export, one photo on one
thread, and answers one question: is this model faster than that one, or not? The models take turns,
so that what else the machine does falls on all of them alike, and each round gives its own ratio.
A latency that one may quote, with warm-up, drift and percentiles on the device itself, comes from
`edgeseed profile`.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from edgeseed.core.console import warn
from edgeseed.core.records import ModelSpeed

Seconds = npt.NDArray[np.float64]
SECONDS = 2.0
_WARM_UP_ROUNDS = 3
_LEAST_ROUNDS, _MOST_ROUNDS = 10, 200
# Less than this share apart, two models are as fast as each other: a second run may swap them.
TIE = 0.05
# A run on a quiet machine waits for its processor a hundredth of its time.
_MOST_WAITED = 0.15


def compare_speed(
    runs: Mapping[str, Callable[[], object]], *, baseline: str, seconds: float = SECONDS
) -> dict[str, ModelSpeed]:
    """Runs the models in turns; warns if the machine is too busy to tell them apart well.

    Args:
        runs: A call for each model that runs one photo.
        baseline: The name that the others are compared with.
        seconds: About how long, in all; at least ten rounds are run.

    Returns:
        By the names of `runs`.
    """
    start, used = time.perf_counter(), time.process_time()
    times = {name: np.array(values) for name, values in _take_turns(runs, seconds).items()}
    waited = 1 - (time.process_time() - used) / (time.perf_counter() - start)
    if waited > _MOST_WAITED:
        warn(
            f"while {' and '.join(times)} were timed this machine was busy: they waited for a core "
            f"{waited:.0%} of the time. What is close may come out the other way; export again on "
            "a quiet machine, or measure with `edgeseed profile`"
        )
    return {name: _speed(values, times[baseline]) for name, values in times.items()}


def _speed(times: Seconds, baseline: Seconds) -> ModelSpeed:
    low, middle, high = np.percentile(times, (10, 50, 90)) * 1e3
    return ModelSpeed(
        median_ms=float(middle),
        p10_ms=float(low),
        p90_ms=float(high),
        speedup=float(np.median(baseline / times)),
        n=len(times),
    )


def _take_turns(runs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    for _ in range(_WARM_UP_ROUNDS):
        for run in runs.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    end = time.perf_counter() + seconds
    for number in range(_MOST_ROUNDS):
        # Another one begins each round: who comes after whom must not matter.
        start = number % len(names)
        for name in names[start:] + names[:start]:
            before = time.perf_counter()
            runs[name]()
            times[name].append(time.perf_counter() - before)
        if number + 1 >= _LEAST_ROUNDS and time.perf_counter() > end:
            break
    return times
