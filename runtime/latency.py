"""The one place in edgeseed that measures time.

It runs on the device: Python 3.8, the standard library and numpy, nothing of edgeseed.

The protocols are those of the MLPerf Mobile app (flutter/lib/benchmark/run_mode.dart): one image
after another, at least so many runs *and* so many seconds, every duration kept. `sustained` is
ours: ten minutes, long enough to heat a phone through.
"""

from __future__ import annotations

import array
import contextlib
import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Clock = Callable[[], int]
    Progress = Callable[[int, float], None]
    Samples = array.array[int]
    Stop = Callable[[Samples, int], bool]

NS_PER_SECOND = 1_000_000_000
PROGRESS_EVERY_NS = NS_PER_SECOND


@dataclass(frozen=True)
class LatencyProtocol:
    """How long to measure: until both minima are met, and never past `max_seconds`."""

    name: str
    min_runs: int
    min_seconds: float
    max_seconds: float


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        LatencyProtocol("rapid", min_runs=64, min_seconds=6, max_seconds=60),
        LatencyProtocol("quick", min_runs=128, min_seconds=10, max_seconds=100),
        LatencyProtocol("normal", min_runs=1024, min_seconds=60, max_seconds=600),
        LatencyProtocol("sustained", min_runs=1024, min_seconds=600, max_seconds=1200),
    )
}


@dataclass(frozen=True)
class WarmUp:
    """When a model counts as warm: both minima met, and the medians have settled.

    Settled means that the median of the newest quarter of the runs differs from that of the
    quarter before by less than `tolerance`. `max_seconds` bounds a machine that never settles.
    """

    min_runs: int = 10
    min_seconds: float = 1.0
    max_seconds: float = 15.0
    tolerance: float = 0.02


@dataclass(frozen=True)
class Timed:
    """What a call returned, and how long it took."""

    value: Any
    duration_ns: int


@dataclass(frozen=True)
class Timings:
    """Raw durations of one measurement, in the order in which they happened.

    `cpu_ns` is the CPU time of all the process's threads over all samples: what a busy neighbour
    adds to a duration by taking the core away is not in it.
    """

    samples_ns: list[int]
    elapsed_ns: int
    cpu_ns: int
    warm_up_runs: int
    warm_up_ns: int
    steady: bool


def time_once(run: Callable[[], Any], *, clock: Clock = time.perf_counter_ns) -> Timed:
    """Time a single call: loading a model, or its first run."""
    before = clock()
    value = run()
    return Timed(value, clock() - before)


def measure(
    run: Callable[[], object],
    protocol: LatencyProtocol,
    *,
    warm_up: WarmUp = WarmUp(),
    clock: Clock = time.perf_counter_ns,
    cpu_clock: Clock = time.process_time_ns,
    on_warm_up: Progress | None = None,
    on_warm: Callable[[], None] | None = None,
    on_progress: Progress | None = None,
) -> Timings:
    """Warm `run` up, then call it until `protocol` is met.

    Args:
        run: one inference, without arguments. Nothing else happens inside the timed span.
        protocol: how many runs and seconds.
        warm_up: when to begin.
        clock: a monotonic clock in nanoseconds.
        cpu_clock: the process's CPU time in nanoseconds.
        on_warm_up: called between runs, about once a second, with runs and seconds so far.
        on_warm: called once, between the warm-up and the first timed run.
        on_progress: as `on_warm_up`, while measuring.
    """
    settled = _Settled(warm_up)
    with _collector_paused():
        warm_samples, warm_ns = _repeat(run, clock, settled, on_warm_up)
        if on_warm is not None:
            on_warm()
        cpu_before = cpu_clock()
        samples, elapsed_ns = _repeat(run, clock, _until(protocol), on_progress)
        cpu_ns = cpu_clock() - cpu_before
    return Timings(samples.tolist(), elapsed_ns, cpu_ns, len(warm_samples), warm_ns, settled.steady)


def _repeat(
    run: Callable[[], object], clock: Clock, stop: Stop, on_progress: Progress | None
) -> tuple[Samples, int]:
    # Eight bytes a run: a list of Python integers would show up in the model's own memory.
    samples = array.array("q")
    start = clock()
    report_at = start + PROGRESS_EVERY_NS
    while True:
        before = clock()
        run()
        after = clock()
        samples.append(after - before)
        # After the clock was read: what the rule and the progress bar take is in no sample.
        if stop(samples, after - start):
            return samples, after - start
        if on_progress is not None and after >= report_at:
            on_progress(len(samples), (after - start) / NS_PER_SECOND)
            report_at = after + PROGRESS_EVERY_NS


def _until(protocol: LatencyProtocol) -> Stop:
    min_ns = protocol.min_seconds * NS_PER_SECOND
    max_ns = protocol.max_seconds * NS_PER_SECOND

    def stop(samples: Samples, elapsed_ns: int) -> bool:
        met = elapsed_ns >= min_ns and len(samples) >= protocol.min_runs
        return met or elapsed_ns >= max_ns

    return stop


class _Settled:
    """The stopping rule of a warm-up; afterwards `steady` says why it stopped."""

    def __init__(self, rule: WarmUp) -> None:
        self.steady = False
        self._rule = rule
        self._next_check = rule.min_runs

    def __call__(self, samples: Samples, elapsed_ns: int) -> bool:
        seconds = elapsed_ns / NS_PER_SECOND
        if len(samples) < self._rule.min_runs or seconds < self._rule.min_seconds:
            return False
        if len(samples) >= self._next_check:
            # Looking again only after a tenth more runs keeps this linear for fast models.
            self._next_check = len(samples) + max(1, len(samples) // 10)
            self.steady = self._medians_agree(samples)
        return self.steady or seconds >= self._rule.max_seconds

    def _medians_agree(self, samples: Samples) -> bool:
        if len(samples) < 2:
            return False
        quarter = max(1, len(samples) // 4)
        # Medians: one run that was interrupted would move a mean for a long time.
        newest = float(np.median(samples[-quarter:]))
        before = float(np.median(samples[-2 * quarter : -quarter]))
        return abs(newest - before) <= self._rule.tolerance * before


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep Python's garbage collector out of the samples: the app that ships has none."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
