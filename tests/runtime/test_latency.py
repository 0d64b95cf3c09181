import gc
import time
from collections.abc import Callable

import pytest

from edgeseed.runtime.latency import PROTOCOLS, LatencyProtocol, WarmUp, measure, time_once

MS = 1_000_000


class Clockwork:
    """A clock that is free to read, and a model whose n-th run takes `duration_ms(n)` of it."""

    def __init__(self, duration_ms: Callable[[int], float]) -> None:
        self.now_ns = 0
        self.runs = 0
        self._duration_ms = duration_ms

    def __call__(self) -> int:
        return self.now_ns

    def run(self) -> None:
        self.now_ns += round(self._duration_ms(self.runs) * MS)
        self.runs += 1


def test_the_protocols_are_those_of_mlperf_mobile_and_ours() -> None:
    minima = {name: (p.min_runs, p.min_seconds) for name, p in PROTOCOLS.items()}

    assert minima == {
        "rapid": (64, 6),
        "quick": (128, 10),
        "normal": (1024, 60),
        "sustained": (1024, 600),
    }


def test_a_fast_model_is_measured_for_the_protocols_seconds() -> None:
    clock = Clockwork(lambda n: 5)

    timings = measure(clock.run, PROTOCOLS["quick"], clock=clock)

    assert timings.samples_ns == [5 * MS] * 2000
    assert timings.elapsed_ns == 10_000 * MS


def test_a_slow_model_is_measured_for_the_protocols_runs() -> None:
    clock = Clockwork(lambda n: 200)

    timings = measure(clock.run, PROTOCOLS["quick"], clock=clock)

    assert len(timings.samples_ns) == 128


def test_a_very_slow_model_stops_at_the_protocols_end() -> None:
    clock = Clockwork(lambda n: 2000)

    timings = measure(clock.run, PROTOCOLS["rapid"], clock=clock)

    assert len(timings.samples_ns) == 30
    assert timings.elapsed_ns == 60_000 * MS


def test_warm_up_takes_at_least_ten_runs_and_a_second() -> None:
    fast, slow = Clockwork(lambda n: 1), Clockwork(lambda n: 500)

    assert measure(fast.run, PROTOCOLS["rapid"], clock=fast).warm_up_runs >= 1000
    assert measure(slow.run, PROTOCOLS["rapid"], clock=slow).warm_up_runs >= 10


def test_warm_up_lasts_until_a_model_that_gets_faster_has_settled() -> None:
    clock = Clockwork(lambda n: 30 - 20 * min(n, 200) / 200)

    timings = measure(clock.run, PROTOCOLS["rapid"], clock=clock)

    assert timings.steady
    assert set(timings.samples_ns) == {10 * MS}


def test_a_machine_that_never_settles_is_measured_and_said_not_to_be_steady() -> None:
    clock = Clockwork(lambda n: 1.005**n)

    timings = measure(clock.run, PROTOCOLS["rapid"], clock=clock, warm_up=WarmUp(max_seconds=3))

    assert not timings.steady
    assert timings.warm_up_ns == pytest.approx(3e9, rel=0.01)


def test_a_single_run_says_nothing_about_being_steady() -> None:
    # It used to compare with the median of no runs at all, and numpy warned.
    clock = Clockwork(lambda n: 10)
    rule = WarmUp(min_runs=1, min_seconds=0.0, max_seconds=0.0)

    timings = measure(clock.run, PROTOCOLS["rapid"], clock=clock, warm_up=rule)

    assert (timings.warm_up_runs, timings.steady) == (1, False)


def test_warm_up_runs_are_not_among_the_samples() -> None:
    clock = Clockwork(lambda n: 50 if n < 5 else 10)

    timings = measure(clock.run, PROTOCOLS["rapid"], clock=clock)

    assert max(timings.samples_ns) == 10 * MS
    assert clock.runs == timings.warm_up_runs + len(timings.samples_ns)


def test_progress_is_told_about_once_a_second_and_never_within_a_sample() -> None:
    clock = Clockwork(lambda n: 10)
    told: list[tuple[int, float]] = []

    def on_progress(runs: int, seconds: float) -> None:
        told.append((runs, seconds))
        clock.now_ns += 3 * MS

    timings = measure(clock.run, PROTOCOLS["rapid"], clock=clock, on_progress=on_progress)

    assert 4 <= len(told) <= 6
    assert set(timings.samples_ns) == {10 * MS}


def test_the_garbage_collector_rests_while_timing_and_works_again_afterwards() -> None:
    clock = Clockwork(lambda n: 100)
    seen: set[bool] = set()

    def run() -> None:
        seen.add(gc.isenabled())
        clock.run()

    measure(run, PROTOCOLS["rapid"], clock=clock)

    assert seen == {False}
    assert gc.isenabled()


def test_the_garbage_collector_works_again_after_an_error() -> None:
    def fail() -> None:
        raise RuntimeError("device lost")

    with pytest.raises(RuntimeError, match="device lost"):
        measure(fail, PROTOCOLS["rapid"])

    assert gc.isenabled()


def test_cpu_time_is_of_the_samples_and_not_of_the_warm_up() -> None:
    clock = Clockwork(lambda n: 10)

    timings = measure(
        clock.run, PROTOCOLS["rapid"], clock=clock, cpu_clock=lambda: clock.runs * 7 * MS
    )

    assert timings.cpu_ns == len(timings.samples_ns) * 7 * MS


def test_time_once_gives_the_value_and_the_duration() -> None:
    clock = Clockwork(lambda n: 7)

    def load() -> str:
        clock.run()
        return "session"

    timed = time_once(load, clock=clock)

    assert (timed.value, timed.duration_ns) == ("session", 7 * MS)


def test_a_real_clock_measures_what_a_sleep_takes() -> None:
    short = LatencyProtocol("short", min_runs=10, min_seconds=0.05, max_seconds=2)
    warm_up = WarmUp(min_runs=2, min_seconds=0.0, max_seconds=0.1)

    timings = measure(lambda: time.sleep(0.005), short, warm_up=warm_up)

    assert min(timings.samples_ns) >= 5 * MS
