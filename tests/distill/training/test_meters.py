"""What a run logs, and how long it took."""

import pytest
import torch

from edgeseed.distill.training.meters import Meter, Stopwatch


def test_means_are_over_the_steps_that_had_the_value() -> None:
    meter = Meter()
    meter.add({"loss": torch.tensor(1.0), "extra": 4.0})
    meter.add({"loss": torch.tensor(3.0, requires_grad=True)})
    assert meter.means() == {"loss": 2.0, "extra": 4.0}
    meter.reset()
    assert meter.means() == {}


def test_meter_goes_on_from_its_state() -> None:
    meter, restored = Meter(), Meter()
    meter.add({"loss": 1.0})
    restored.load_state_dict(meter.state_dict())
    restored.add({"loss": 2.0})
    assert restored.means() == {"loss": 1.5}


def test_watch_tells_the_share_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("edgeseed.distill.training.meters.time.perf_counter", lambda: now[0])
    watch = Stopwatch()
    watch.images = 64
    watch.waited(0.5)
    now[0] = 12.0
    assert watch.report() == {
        "seconds": 2.0, "images_per_second": 32.0, "data_wait_percent": 25.0,
    }  # fmt: skip
