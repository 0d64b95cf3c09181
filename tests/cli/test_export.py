"""`edgeseed export`: how words become a call, and what is printed of its bundles."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli
from edgeseed.cli.export import selection_table
from edgeseed.core.bundle import GateResult
from edgeseed.core.errors import ConfigError
from edgeseed.core.records import (
    GateValue,
    ModelSpeed,
    SelectionCandidate,
    SelectionRecord,
    SpeedRecord,
)
from edgeseed.export import ExportResult

GATE = GateResult(name="parity", value=1e-5, limit=1e-4, passed=True, unit="relative", n=8)


def result(precision: str, **changes: Any) -> ExportResult:
    values: dict[str, Any] = {
        "bundle": f"out/{precision}", "target": "onnx", "precision": precision, "gates": (GATE,),
        "model": "model.onnx", "size_bytes": 2_000_000, "quantization": None, "speed": None,
        "selection": None, "seconds": 3.2, **changes,
    }  # fmt: skip
    return ExportResult(**values)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []

    def export(**options: Any) -> Any:
        found.append(options)
        several = [
            options[name] for name in ("target", "precision") if not isinstance(options[name], str)
        ]
        return (
            tuple(result(each) for each in several[0]) if several else result(options["precision"])
        )

    monkeypatch.setattr("edgeseed.export.export", export)
    return found


def call(*words: str) -> Any:
    return CliRunner().invoke(cli, ["export", "s.safetensors", "--out", "o", *words])


def test_one_precision_is_one_bundle(calls: list[dict[str, Any]]) -> None:
    printed = call("--precision", "fp32", "--batch", "4")
    assert calls[0]["precision"] == "fp32"
    assert calls[0]["batch"] == 4
    assert printed.output.splitlines()[0] == "out/fp32: onnx fp32, 2.00 MB, in 3 s"
    assert "  ok    parity: 1e-05 relative (limit 0.0001, n=8)" in printed.output
    assert json.loads(call("--json").output)["precision"] == "fp32"


def test_several_precisions_are_one_call_and_a_list_of_bundles(
    calls: list[dict[str, Any]],
) -> None:
    found = json.loads(call("--precision", "fp32, int8", "--json").output)
    assert calls[0]["precision"] == ["fp32", "int8"]
    assert [bundle["precision"] for bundle in found["bundles"]] == ["fp32", "int8"]


def test_settings_go_to_the_target_or_to_the_quantization(calls: list[dict[str, Any]]) -> None:
    call("--precision", "int8", "--set", "opset=20", "--set", "calibrator=minmax")
    assert calls[0]["options"] == {"opset": "20"}
    assert calls[0]["quantization"] == {"calibrator": "minmax"}


@pytest.mark.parametrize("batch", ["0", "-1", "some", "1.5"])
def test_a_batch_that_is_none_is_refused(calls: list[dict[str, Any]], batch: str) -> None:
    refused = call("--batch", batch)
    assert isinstance(refused.exception, ConfigError)
    assert "is neither dynamic nor a number above 0" in str(refused.exception)
    assert calls == []


@pytest.mark.parametrize(
    ("speed", "line"),
    [
        (SpeedRecord(timed=False, reason="busy"), "  speed not compared: busy"),
        (
            SpeedRecord(
                timed=True, speedup=2.5, baseline="fp32",
                compared={"int8": ModelSpeed(median_ms=1, p10_ms=1, p90_ms=1, speedup=2.5, n=20)},
            ),
            "  2.50 times as fast as fp32 here (1 thread, 20 rounds in turns); measure it",
        ),
    ],
)  # fmt: skip
def test_how_fast_it_was_is_said_or_why_not(
    monkeypatch: pytest.MonkeyPatch, speed: SpeedRecord, line: str
) -> None:
    monkeypatch.setattr("edgeseed.export.export", lambda **_: result("int8", speed=speed))
    assert line in call("--precision", "int8").output


def test_what_auto_tried_is_a_row_each() -> None:
    candidates = (
        SelectionCandidate(
            precision="int8", scheme="x86", verdict="chosen", reason="fastest",
            size_bytes=1_000_000, median_ms=1.5, speedup=2.0, accuracy_drop=0.25,
            closeness=GateValue(gate="top1_agreement", value=0.99, n=100),
        ),
        SelectionCandidate(precision="fp16", scheme=None, verdict="not made", reason="no photos"),
    )  # fmt: skip
    text = selection_table(
        SelectionRecord(
            prefer="speed", profile=None, chosen="int8", why="it is fastest", candidates=candidates
        )
    )
    _, first, second, why = text.splitlines()
    assert first.split()[:3] == ["int8", "chosen", "1.00"]
    assert "1.50 ms" in first
    assert "top1_agreement 0.99 (n=100)" in first
    assert "0.25 points" in first
    assert second.split() == ["fp16", "not", "made", "-", "-", "-", "-", "-", "no", "photos"]
    assert why == "chosen int8: it is fastest"
