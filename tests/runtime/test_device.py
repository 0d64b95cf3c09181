"""The seam: what any device must do, and what it gets for free."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support.fake_device import fake_measurement

from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import ConfigError, UsageError
from edgeseed.runtime import build, profile
from edgeseed.runtime.device import Device, Observation
from edgeseed.runtime.devices import open_device
from edgeseed.runtime.machine import Memory

STEADY = [5_000_000] * 2000


class OwnRunner(Device):
    """Measures without the agent."""

    kind = "own"
    name = "own"

    def __init__(self, **changes: Any) -> None:
        self.measurement = fake_measurement(STEADY, runner="own", **changes)

    @classmethod
    def from_address(cls, address: str) -> "OwnRunner":
        return cls()

    def engine_for(self, profile: Any, target: str) -> Any:
        facts = profile.engine_for(target)
        return dataclasses.replace(facts, name="engine-elsewhere", unit="npu")

    def measure(self, bundle: Bundle, job: Any, *, pixels: Any) -> Observation:
        self.job = job
        return Observation(measurement=self.measurement, outputs=None)


def test_a_device_may_measure_without_the_agent(bundle: Bundle, tmp_path: Path) -> None:
    device = OwnRunner()

    result = profile(bundle.path, device=device, out=tmp_path / "r.json")

    assert (device.job.engine, device.job.unit) == ("engine_elsewhere", "npu")
    assert (result.engine.name, result.engine.runner) == ("engine-elsewhere", "own")


def test_a_runner_that_knows_less_says_so(bundle: Bundle, tmp_path: Path) -> None:
    nothing = Memory(None, None)
    device = OwnRunner(cpu_ns=None, memory_model=nothing, limitations=["spread is unknown"])

    result = profile(bundle.path, device=device, out=tmp_path / "r.json")

    assert result.cpu_ms is None
    assert [reason.message for reason in result.reasons] == ["spread is unknown"]
    assert result.valid


def test_engines_are_not_built_by_a_device_without_the_agent(tensorrt_bundle: Any) -> None:
    with pytest.raises(UsageError, match="own runs no TensorRT; engines are built on host"):
        build(tensorrt_bundle().path, device=OwnRunner())


def test_an_option_that_a_kind_does_not_have_names_those_that_do() -> None:
    with pytest.raises(ConfigError, match="--lan does not go with --device host"):
        open_device("host", options={"lan": "1"})
