"""Every runner is held to docs/measurement.md, and each rule catches a planted fault."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from support import conformance
from support.fake_device import fake_measurement
from support.pythons import VARIABLE, HostWithAgent, find_python

from edgeseed.core.bundle import Bundle, read_bundle
from edgeseed.core.errors import ArtifactError, SchemaVersionError
from edgeseed.runtime.conformance import (
    SCHEMA_FILE,
    Stages,
    check_conformance,
    read_measurement,
    read_measurement_file,
    schema_text,
)
from edgeseed.runtime.device import Observation
from edgeseed.runtime.devices.host import HostDevice
from edgeseed.runtime.measurement import GoldenCheck, Measurement, Reported, Request, WarmUpRun

STEADY = [5_000_000] * 2000


def agent_on_host(bundle: Bundle, job: Any) -> Observation:
    return HostDevice().measure(bundle, job, pixels=None)


# A runner that another machine or browser is needed for joins here where that is at hand:
# tests/runtime/devices/test_ssh.py, test_adb.py and tests/runtime/runners/ call the same `hold`.
RUNNERS: dict[str, tuple[Callable[..., Observation], str, str]] = {
    "agent": (agent_on_host, "onnxruntime", "cpu"),
}


@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner_keeps_the_protocol(name: str, bundle: Bundle) -> None:
    measure, engine, unit = RUNNERS[name]

    seen = conformance.hold(measure, bundle, conformance.job_for(bundle, engine=engine, unit=unit))

    assert seen.stages is not None
    assert seen.stages.names.index("golden") < seen.stages.names.index("warm-up")


@pytest.mark.parametrize("name", RUNNERS)
def test_a_runner_times_no_model_that_computes_wrong(name: str, bundle: Bundle) -> None:
    measure, engine, unit = RUNNERS[name]
    conformance.plant_wrong_golden_outputs(bundle)
    wrong = read_bundle(bundle.path)

    job = conformance.job_for(wrong, engine=engine, unit=unit)

    assert conformance.refuses_a_wrong_model(measure, wrong, job)


@pytest.mark.slow
@pytest.mark.parametrize("minor", range(8, 15))
def test_the_agent_keeps_the_protocol_on_every_python(minor: int, bundle: Bundle) -> None:
    python = find_python(minor)
    if python is None:
        pytest.skip(f"no Python 3.{minor} with numpy and onnxruntime; name one in {VARIABLE}")
    device = HostWithAgent(python)

    def measure(bundle: Bundle, job: Any) -> Observation:
        return device.measure(bundle, job, pixels=None)

    seen = conformance.hold(
        measure, bundle, conformance.job_for(bundle, engine="onnxruntime", unit="cpu")
    )

    assert str(seen.measurement.machine.python).startswith(f"3.{minor}.")
    assert seen.measurement.layers is not None
    conformance.plant_wrong_golden_outputs(bundle)
    wrong = read_bundle(bundle.path)
    job = conformance.job_for(wrong, engine="onnxruntime", unit="cpu")
    assert conformance.refuses_a_wrong_model(measure, wrong, job)


# --------------------------------------------------------------------------- planted faults

LATENCY, MAIN = "edgeseed/runtime/latency.py", "edgeseed/runtime/agent/__main__.py"
SAMPLES = "samples_ns=seen.timings.samples_ns,"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {
                LATENCY: (
                    "        samples.append(after - before)\n",
                    "        if not samples or after % 5 == 0:\n"
                    "            samples.append(after - before)\n",
                )
            },
            "samples were dropped",
            marks=pytest.mark.slow,
        ),
        (
            {MAIN: (SAMPLES, "samples_ns=[max(1, s // 1000) for s in seen.timings.samples_ns],")},
            "samples were dropped, or the two are in different units",
        ),
        pytest.param(
            {
                MAIN: (
                    f"{SAMPLES}\n            elapsed_ns=seen.timings.elapsed_ns,",
                    "samples_ns=[1000 * s for s in seen.timings.samples_ns],\n"
                    "            elapsed_ns=1000 * seen.timings.elapsed_ns,",
                )
            },
            r"the timed runs took 1[.\d]*e\+03 s",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {MAIN: ("/ latency.NS_PER_SECOND,\n                seen.timings.steady", "/ 1e6,\n"
                    "                seen.timings.steady")},
            r"the warm-up took [.\d]*e\+03 s; here [.\d]* s went by",
            marks=pytest.mark.slow,
        ),
        (
            {MAIN: ('    _say("stage", name="golden")\n', "")},
            "it timed the model before it checked the golden photos",
        ),
    ],
    ids=["drops samples", "samples in us", "timed in ps", "warm-up in ms", "golden not told"],
)  # fmt: skip
def test_an_agent_with_a_planted_fault_is_refused(
    changes: dict[str, tuple[str, str]], message: str, bundle: Bundle
) -> None:
    device = HostWithAgent(sys.executable, changes)
    job = conformance.job_for(bundle, engine="onnxruntime", unit="cpu")

    with pytest.raises(ArtifactError, match=message):
        conformance.hold(lambda b, j: device.measure(b, j, pixels=None), bundle, job)


@pytest.mark.slow
def test_an_agent_that_times_a_wrong_model_is_refused(bundle: Bundle) -> None:
    conformance.plant_wrong_golden_outputs(bundle)
    wrong = read_bundle(bundle.path)
    device = HostWithAgent(
        sys.executable, {MAIN: ("if not errors[worst] <= tolerance:", "if False:")}
    )

    with pytest.raises(ArtifactError, match=r"it timed a model whose golden .* is off by"):
        device.measure(
            wrong, conformance.job_for(wrong, engine="onnxruntime", unit="cpu"), pixels=None
        )


def stages(*names: str, seconds: float = 11.0, measure: float = 10.0) -> Stages:
    """Stages as the host saw them: the warm-up `seconds` long, the timed runs `measure`."""
    now = [0.0]
    seen = Stages(clock=lambda: now[0])
    for name in names:
        seen.begin(name)
        now[0] += {"warm-up": seconds, "measure": measure}.get(name, 0.1)
    seen.end()
    return seen


GOOD = ("check", "load", "golden", "warm-up", "timed")
"""Of a runner that does not tell where its warm-up ends."""
BOTH = ("check", "load", "golden", "warm-up", "measure", "timed")
RAPID = Request("d", "onnxruntime", 1, "rapid", 64, 6.0, 60.0)


def test_a_good_measurement_breaks_no_rule() -> None:
    check_conformance(fake_measurement(STEADY), stages=stages(*GOOD), what="x")
    check_conformance(
        fake_measurement(STEADY, request=RAPID), stages=stages(*BOTH, seconds=1.0), what="x"
    )


def fault(**changes: Any) -> Measurement:
    return fake_measurement(STEADY, **changes)


@pytest.mark.parametrize(
    ("measurement", "seen", "message"),
    [
        # The model is timed before anyone knows whether it computes what it should.
        (fault(), stages("check", "load", "warm-up", "golden"), "before it checked the golden"),
        # Three samples of four are left out, such as those that a stall hit.
        (
            fake_measurement(STEADY[::4], elapsed_ns=10_000_000_000),
            stages(*GOOD),
            "its samples take 2.5 s of the 10 s in which they ran: samples were dropped",
        ),
        # Samples in microseconds, the rest in nanoseconds.
        (
            fake_measurement([5000] * 2000, elapsed_ns=10_000_000_000),
            stages(*GOOD),
            "samples were dropped, or the two are in different units",
        ),
        # Samples in nanoseconds, the rest in microseconds.
        (fault(elapsed_ns=10_000_000), stages(*GOOD), "are in different units, or samples were"),
        # All of it in microseconds: only another clock can tell.
        (
            fake_measurement(
                [5000] * 2000, elapsed_ns=10_000_000, warm_up=WarmUpRun(10, 0.001, True)
            ),
            stages(*GOOD),
            r"took 0.011 s; here 11 s went by: its clock is not in the unit",
        ),
        # A clock that runs ten times as fast.
        (
            fake_measurement([50_000_000] * 2000),
            stages(*GOOD),
            r"took 101 s; here 11 s went by: its clock is not in the unit",
        ),
        # The nanoseconds are microseconds, the warm-up's seconds are right, and as long as the
        # timed runs: together they are half of the host's time, which a late post could explain.
        (
            fake_measurement([5000] * 200, warm_up=WarmUpRun(200, 1.0, True)),
            stages(*BOTH, seconds=1.0, measure=1.0),
            r"the timed runs took 0.001 s; here 1 s went by",
        ),
        (
            fake_measurement([5_000_000_000] * 200, warm_up=WarmUpRun(200, 1.0, True)),
            stages(*BOTH, seconds=1.0, measure=1.0),
            r"the timed runs took 1e\+03 s; here 1 s went by",
        ),
        # The warm-up in milliseconds.
        (
            fake_measurement([5_000_000] * 200, warm_up=WarmUpRun(200, 1000.0, True)),
            stages(*BOTH, seconds=1.0, measure=1.0),
            r"the warm-up took 1e\+03 s; here 1 s went by",
        ),
        # A run so short that its samples alone could be an interruption; a thousandth is none.
        (
            fake_measurement([5000] * 100, elapsed_ns=500_000_000),
            stages(*BOTH, seconds=1.0, measure=0.5),
            "samples were dropped, or the two are in different units",
        ),
        # A file that came another way: no clock of ours saw it.
        (
            fake_measurement([5_000_000_000] * 2000, request=RAPID),
            None,
            r"its timed runs took 1e\+04 s, rapid ends after 60 s: elapsed_ns is not in nano",
        ),
    ],
    ids=[
        "times before golden photos", "drops samples", "samples in us", "elapsed in us",
        "all in us", "fast clock", "timed in us", "timed in ps", "warm-up in ms", "short in us",
        "file in ps",
    ],
)  # fmt: skip
def test_a_planted_fault_is_named(
    measurement: Measurement, seen: Stages | None, message: str
) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        check_conformance(measurement, stages=seen, what="board")

    assert "docs/measurement.md" in str(caught.value)


def test_a_stage_that_is_told_late_is_no_fault() -> None:
    # A phone whose cores were all busy told of its warm-up two seconds after it had begun.
    measurement = fake_measurement(STEADY)

    check_conformance(measurement, stages=stages(*GOOD, seconds=9.0), what="phone")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples_ns": []}, "no statistics are reported in their place"),
        ({"samples_ns": [1, 0]}, "not above 0"),
        ({"samples_ns": [1.5]}, "not a list of whole numbers"),
        ({"samples_ns": [True]}, "not a list of whole numbers"),
        ({"load_ns": "1"}, "load_ns is not a whole number: '1'"),
        ({"elapsed_ns": -1}, "is below 0"),
        ({"machine": {"cpu": "x"}}, "machine has no model"),
        ({"golden": None}, "golden is absent, and limitations do not say so"),
        ({"golden": {"n": 4, "relative_error": {"logits": 0.5}, "tolerance": 0.001}},
         "timed a model whose golden logits is off by 0.5"),
        ({"golden": {"n": 4, "relative_error": {"logits": float("nan")}, "tolerance": 0.001}},
         "golden: relative_error.'logits' is not a finite number: nan"),
        ({"golden": {"n": 0, "relative_error": {}, "tolerance": 0.001}}, "checked no photo"),
        ({"warm_up": {"runs": 1, "seconds": 1.0}}, "warm_up has no steady"),
        ({"thermals": [None]}, "thermals has 1 entries, 2 are expected"),
        ({"reported": {"n": 0, "mean_ns": 5}}, "n and mean_ns must be above 0"),
        ({"layers": {"runs": 3, "run_ns": 9, "layers": []}}, "layers: there must be some"),
        ({"cpu_ns": 10**15}, r"cpu_ns: 1e\+06 s of processor time in .* s on 4 cores"),
        ({"load_during": {"seconds": 1.0, "other_cores": -1e308, "stolen_cores": None,
                          "load_average": 0.1}}, "load_during: other_cores=-1e\\+308 is below 0"),
        ({"surprise": 1}, "unknown field 'surprise'"),
    ],
)  # fmt: skip
def test_what_cannot_be_true_is_refused(changes: dict[str, Any], message: str) -> None:
    values = {**fake_measurement(STEADY).to_dict(), **changes}

    with pytest.raises(ArtifactError, match=message):
        read_measurement(values, what="the page's measurement")


@pytest.mark.parametrize("values", [None, [], "x", 3, {}])
def test_what_is_no_measurement_is_refused(values: Any) -> None:
    with pytest.raises(ArtifactError, match="the file"):
        read_measurement(values, what="the file")


def test_a_newer_runner_is_refused() -> None:
    values = {**fake_measurement(STEADY).to_dict(), "schema_version": 2}

    with pytest.raises(SchemaVersionError, match="schema version 2, this edgeseed reads up to 1"):
        read_measurement(values, what="the file")


def test_a_measurement_survives_its_file(tmp_path: Path) -> None:
    measurement = fake_measurement(STEADY)
    (tmp_path / "m.json").write_text(json.dumps(measurement.to_dict()))

    assert read_measurement_file(tmp_path / "m.json") == measurement


def test_statistics_stand_in_for_samples_where_a_runner_says_so() -> None:
    bare = dataclasses.replace(
        fake_measurement([]),
        golden=None,
        limitations=["golden outputs are not compared"],
        reported=Reported(n=50, mean_ns=5_000_000),
        elapsed_ns=250_000_000,
    )

    assert read_measurement(bare.to_dict(), what="x") == bare
    check_conformance(bare, stages=None, what="x")


def test_one_slow_run_past_the_limit_is_no_fault() -> None:
    # The time is looked at between two runs: the last begins at 59 s and takes 40.
    check_conformance(fake_measurement([40_000_000_000] * 3, request=RAPID), stages=None, what="x")


def test_a_coarse_clock_is_no_fault() -> None:
    # A browser rounds to 1 ms: the samples may take a little more than the whole.
    check_conformance(fake_measurement([5_000_000] * 100, elapsed_ns=495_000_000), stages=None,
                      what="x")  # fmt: skip


def test_a_short_run_is_not_held_against_the_hosts_clock() -> None:
    short = fake_measurement([1_000_000] * 10, warm_up=WarmUpRun(10, 0.01, True))
    check_conformance(short, stages=stages(*GOOD, seconds=0.3), what="x")


# --------------------------------------------------------------------------- the schema


def test_the_published_schema_is_that_of_the_record() -> None:
    # To write it anew:
    # python -c "from edgeseed.runtime import conformance as c;
    #            c.SCHEMA_FILE.write_text(c.schema_text())"
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()


def test_the_schema_takes_what_the_agent_writes_and_refuses_what_we_refuse() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA_FILE.read_text()))
    good = json.loads(json.dumps(fake_measurement(STEADY[:5]).to_dict()))

    validator.validate(good)
    for broken in ({**good, "load_ns": "1"}, {**good, "surprise": 1}, {**good, "golden": 3}):
        assert not validator.is_valid(broken)


def test_every_record_of_the_measurement_is_in_the_schema() -> None:
    names = set(json.loads(SCHEMA_FILE.read_text())["$defs"])

    assert {kind.__name__ for kind in (GoldenCheck, Reported, WarmUpRun, Measurement)} <= names
