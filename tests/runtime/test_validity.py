from typing import Any

import numpy as np
import pytest

from edgeseed.profiles import PublishedLatency
from edgeseed.runtime.engine import Placement
from edgeseed.runtime.latency import PROTOCOLS
from edgeseed.runtime.machine import Load
from edgeseed.runtime.measurement import ClockReading
from edgeseed.runtime.summary import Summary
from edgeseed.runtime.validity import RunEvidence, clock_share, judge, rates_by_tenth

CALM = Load(10.0, 0.0, 0.0, 0.1)
STEADY_MS = np.full(200, 5.0)


def evidence(samples_ms: Any = STEADY_MS, **changes: Any) -> RunEvidence:
    samples_ns = (np.asarray(samples_ms) * 1e6).astype(int).tolist()
    facts: dict[str, Any] = {
        "protocol": PROTOCOLS["quick"],
        "summary": Summary.from_samples(samples_ns),
        "num_runs": len(samples_ns),
        "rates": tuple(rates_by_tenth(samples_ns)),
        "elapsed_s": 10.0,
        "steady": True,
        "placement": Placement("cpu", "cpu", {"cpu": 10}),
        "threads": 1,
        "cores": 4.0,
        "throttle_events": 0,
        "load_before": CALM,
        "load_during": CALM,
    }
    return RunEvidence(**{**facts, **changes})


def codes(found: RunEvidence) -> list[tuple[str, bool]]:
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


def test_stalls_that_no_percentile_shows_are_throttling() -> None:
    # A run of 1 ms, and in the second half every hundredth stalls for 30 ms: medians stay, and the
    # device does three runs where it did four.
    samples = np.full(4000, 1.0)
    samples[2000::100] = 30.0

    found = evidence(samples)

    assert found.summary is not None
    assert found.summary.drift == 1
    assert ("throttled", True) in codes(found)
    assert "made 1 run where its best three made 1.23" in judge(found)[0].message


def test_one_stall_is_noise_and_no_throttling() -> None:
    samples = np.full(4000, 1.0)
    samples[3900] = 100.0

    assert "throttled" not in {code for code, _ in codes(evidence(samples))}


def test_rates_are_of_equal_spans_of_time() -> None:
    rates = rates_by_tenth([1_000_000] * 1000)

    assert rates == pytest.approx([1000.0] * 10)
    assert rates_by_tenth([1_000_000] * 99) == []


def test_a_device_that_was_hot_before_is_seen_by_its_clock() -> None:
    # It does not get slower: it began at its limit.
    readings = [ClockReading(float(i), {"cpu0": 900.0, "cpu4": 1400.0}) for i in range(10)]
    share = clock_share(readings, {"cpu0": 1800.0, "cpu4": 2800.0})

    assert share == 0.5
    assert codes(evidence(clock_share=share)) == [("slow-clock", False)]
    assert "ran at 50% of its maximum clock" in judge(evidence(clock_share=share))[0].message
    assert clock_share([], {"cpu0": 1800.0}) is None
    assert clock_share(readings, {}) is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_limit_that_the_device_names_does_not_count(when: str) -> None:
    found = evidence(**{f"throttled_{when}": ("under-voltage now",)})

    assert codes(found) == [("throttled", True)]
    assert judge(found)[0].message == f"the device says, {when} the run: under-voltage now"


def test_a_profile_of_another_device_does_not_count() -> None:
    found = evidence(other_device="the profile is Pixel 8 (aarch64), the machine says x86_64, EPYC")

    assert codes(found) == [("wrong-device", True)]


def test_a_runner_without_samples_has_no_spread() -> None:
    assert codes(evidence(summary=None, rates=(), steady=None)) == [("no-spread", False)]


@pytest.mark.parametrize(("published_ms", "flagged"), [(5.5, False), (2.0, True), (20.0, True)])
def test_a_figure_far_from_what_is_published_is_flagged(published_ms: float, flagged: bool) -> None:
    published = PublishedLatency(
        network="mobilenetv3_large_100", precision="fp32", engine="ncnn", unit="cpu",
        latency_ms=published_ms, source="https://example.org",
    )  # fmt: skip

    found = codes(evidence(published=published))

    assert found == ([("unlike-published", False)] if flagged else [])


def test_stalls_beside_busy_neighbours_are_flagged_and_count() -> None:
    samples = np.full(4000, 1.0)
    samples[2000::100] = 30.0

    found = codes(evidence(samples, load_during=Load(10.0, 1.5, 0.0, 2.0)))

    assert ("throttled", False) in found
    assert ("busy", False) in found


def test_the_kinds_of_node_that_fell_back_are_named() -> None:
    fallback = {"Conv": 2, "Resize": 5}
    found = evidence(placement=Placement("npu", "npu", {"cpu": 7, "npu": 8}, fallback))

    assert judge(found)[0].message.endswith("the rest elsewhere (Resize 5, Conv 2)")


@pytest.mark.parametrize(
    ("scheme", "unit", "flagged"),
    [
        ("qnn", "cpu", True), ("qnn-w8a16", "xnnpack", True), ("qnn", "qnn", False),
        ("x86", "cpu", False), (None, "cpu", False),
    ],
)  # fmt: skip
def test_an_npus_integers_on_another_processor_are_flagged(
    scheme: str | None, unit: str, flagged: bool
) -> None:
    found = evidence(scheme=scheme, placement=Placement(unit, unit, {unit: 10}))

    assert codes(found) == ([("other-integers", False)] if flagged else [])
    if flagged:
        assert f"scheme {scheme}" in judge(found)[0].message
        assert f"ran on {unit}" in judge(found)[0].message
