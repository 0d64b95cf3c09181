from typing import Any

import numpy as np
import pytest

from edgeseed.runtime.engine import Placement
from edgeseed.runtime.latency import PROTOCOLS
from edgeseed.runtime.machine import Load
from edgeseed.runtime.summary import Summary
from edgeseed.runtime.validity import Evidence, judge

CALM = Load(10.0, 0.0, 0.0, 0.1)
STEADY_MS = np.full(200, 5.0)


def evidence(samples_ms: Any = STEADY_MS, **changes: Any) -> Evidence:
    facts: dict[str, Any] = {
        "protocol": PROTOCOLS["quick"],
        "summary": Summary.from_samples((np.asarray(samples_ms) * 1e6).tolist()),
        "elapsed_s": 10.0,
        "steady": True,
        "placement": Placement("cpu", "cpu", {"cpu": 10}),
        "threads": 1,
        "cores": 4.0,
        "throttle_events": 0,
        "load_before": CALM,
        "load_during": CALM,
    }
    return Evidence(**{**facts, **changes})


def codes(found: Evidence) -> list[tuple[str, bool]]:
    return [(reason.code, reason.invalidates) for reason in judge(found)]


def test_a_calm_run_breaks_no_rule() -> None:
    assert judge(evidence()) == ()


def test_too_few_runs_do_not_count() -> None:
    assert codes(evidence(STEADY_MS[:100])) == [("too-short", True)]
    assert "100 runs" in judge(evidence(STEADY_MS[:100]))[0].message


def test_too_short_a_time_does_not_count() -> None:
    assert codes(evidence(elapsed_s=9.9)) == [("too-short", True)]


def test_another_unit_than_asked_does_not_count() -> None:
    found = evidence(placement=Placement("npu", "cpu", {"cpu": 8, "npu": 2}))

    assert codes(found) == [("wrong-unit", True)]
    assert judge(found)[0].message.startswith("asked for npu, ran on cpu")


def test_nodes_on_another_unit_are_flagged() -> None:
    found = evidence(placement=Placement("npu", "npu", {"cpu": 2, "npu": 8}))

    assert codes(found) == [("split-unit", False)]
    assert "80% of the nodes" in judge(found)[0].message


def test_more_threads_than_cores_are_flagged() -> None:
    # 64 threads on two cores were measured without a word.
    assert codes(evidence(threads=4)) == []
    assert codes(evidence(threads=64)) == [("too-many-threads", False)]
    assert judge(evidence(threads=64, cores=2.0))[0].message == (
        "64 threads on 2 usable cores take turns and wait for each other: measure with --threads 2"
    )


def test_one_thread_in_a_small_container_is_not_too_many() -> None:
    assert codes(evidence(cores=0.5)) == []
    assert "1.5 usable cores" in judge(evidence(threads=2, cores=1.5))[0].message


def test_planted_throttling_does_not_count() -> None:
    # Full speed for half the run, then 30 % slower: a phone that reached its thermal limit.
    found = evidence(np.r_[np.full(100, 5.0), np.full(100, 6.5)])

    assert ("throttled", True) in codes(found)
    assert "1.30 times" in judge(found)[0].message


def test_sustained_exists_to_show_throttling_so_it_counts() -> None:
    ramp = 5 + 1.4 * np.arange(2000) / 2000

    found = evidence(ramp, protocol=PROTOCOLS["sustained"], elapsed_s=600.0)

    assert codes(found) == [("throttled", False)]


def test_throttle_events_of_the_cpu_are_flagged() -> None:
    assert codes(evidence(throttle_events=3)) == [("throttled", False)]


def test_planted_noise_is_flagged() -> None:
    noisy = STEADY_MS.copy()
    noisy[::20] = 20.0

    assert codes(evidence(noisy)) == [("noisy", False)]


def test_a_device_that_got_faster_was_not_warm() -> None:
    # Not so slow at first that it is noisy as well.
    found = evidence(np.r_[np.full(30, 5.8), np.full(170, 5.0)])

    assert codes(found) == [("unsteady", False)]


def test_a_warm_up_that_never_settled_is_flagged() -> None:
    assert codes(evidence(steady=False)) == [("unsteady", False)]


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_busy_machine_is_flagged(when: str) -> None:
    found = evidence(**{f"load_{when}": Load(1.0, 1.3, 0.0, 2.0)})

    assert codes(found) == [("busy", False)]
    assert judge(found)[0].message.startswith(f"other processes used 1.30 cores {when} the run")


def test_a_machine_that_is_busy_all_the_time_is_flagged_once() -> None:
    busy = Load(1.0, 1.3, 0.0, 2.0)

    found = judge(evidence(load_before=busy, load_during=busy))

    assert len(found) == 1
    assert "1.30 cores before and 1.30 cores during the run" in found[0].message


def test_stolen_time_is_flagged() -> None:
    assert codes(evidence(load_during=Load(1.0, 0.0, 0.1, 0.0))) == [("busy", False)]


def test_a_system_that_counts_no_cpu_time_is_not_called_busy() -> None:
    assert codes(evidence(load_during=Load(1.0, None, None, None))) == []
