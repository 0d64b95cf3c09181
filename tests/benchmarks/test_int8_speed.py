"""The benchmark of int8's speed: a block begins when the threads of the one before are asleep."""

import importlib
import time
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("int8_speed")


def test_a_block_waits_before_it_runs_and_drops_the_runs_that_wake_it_up(
    benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, float]] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: events.append(("rest", seconds)))

    def block(runs: int) -> list[tuple[int, int]]:
        events.append(("run", runs))
        return [(9_000_000, 9_000_000)] * (runs // 2) + [(2_000_000, 1_000_000)] * (runs // 2)

    assert benchmark.timed(block, 12) == (2.0, 1.0)
    # ONNX Runtime's threads spin for 34 ms.
    assert events == [("rest", benchmark.SETTLING_SECONDS), ("run", 24)]
    assert benchmark.SETTLING_SECONDS > 0.05


def test_a_ratio_is_of_the_same_round(benchmark: ModuleType) -> None:
    rounds = [
        {"fp32": (4.0 * busy, 4.0), "int8": (2.0 * busy, 2.0)} for busy in (1.0, 3.0, 1.0, 2.0)
    ]
    found = benchmark.row("mobilenetv3_large", 1, "int8", rounds)
    assert found["latency_times_as_fast_as_fp32"] == [2.0, 2.0, 2.0]
