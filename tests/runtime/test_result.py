import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from edgeseed.core.errors import ArtifactError, SchemaVersionError, UsageError
from edgeseed.runtime import Result, read_result
from edgeseed.runtime.power import Power
from edgeseed.runtime.validity import Reason


def test_a_result_survives_the_disk(make_result: Any, tmp_path: Path) -> None:
    made: Result = make_result()
    made = dataclasses.replace(made, power=Power("rapl", 10.0, {"package-0": 40.0}))
    made.write(tmp_path / "result.json")

    assert read_result(tmp_path / "result.json") == made


def test_a_result_without_what_a_system_does_not_tell_survives_too(
    make_result: Any, tmp_path: Path
) -> None:
    made: Result = make_result(top1=None, thermals=[None, None])
    made.write(tmp_path / "result.json")

    assert read_result(tmp_path / "result.json") == made
    assert made.thermals is None


def test_the_file_holds_what_the_design_promises(make_result: Any, tmp_path: Path) -> None:
    make_result().write(tmp_path / "result.json")

    values = json.loads((tmp_path / "result.json").read_text())

    assert {"schema_version", "valid", "reasons", "samples_ns", "load_ms", "first_run_ms"} <= set(
        values
    )
    assert {"p50", "p90", "p95", "p99", "throughput_per_s", "drift"} <= set(values["latency"])
    assert values["placement"]["requested"] == values["placement"]["actual"] == "cpu"
    assert values["placement"]["share"] == 1
    assert values["power"] is None
    assert values["power_unavailable"] == "a fake uses no power"
    assert {"edgeseed", "commit", "libraries"} <= set(values["environment"])
    assert {"cpu", "governors", "container"} <= set(values["device"]["machine"])


def test_samples_take_one_line(make_result: Any, tmp_path: Path) -> None:
    make_result(n=5000).write(tmp_path / "result.json")

    assert len((tmp_path / "result.json").read_text().splitlines()) < 300


def edited(result: Result, folder: Path, **changes: Any) -> Path:
    values = {**result.to_dict(), **changes}
    (folder / "edited.json").write_text(json.dumps(values))
    return folder / "edited.json"


def test_a_newer_result_is_refused_with_the_version_that_reads_it(
    make_result: Any, tmp_path: Path
) -> None:
    environment = {"edgeseed": "9.4.0"}
    path = edited(make_result(), tmp_path, schema_version=2, environment=environment)

    with pytest.raises(SchemaVersionError, match=r"schema version 2, .*edgeseed 9\.4\.0"):
        read_result(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_result_is_refused(make_result: Any, tmp_path: Path, share: float) -> None:
    make_result().write(tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text().rstrip()
    (tmp_path / "cut.json").write_text(text[: int(len(text) * share)])

    with pytest.raises(ArtifactError, match="not valid JSON"):
        read_result(tmp_path / "cut.json")


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"hello": 1}')

    with pytest.raises(ArtifactError, match="no schema_version"):
        read_result(tmp_path / "other.json")


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        read_result(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"placement": None}, "placement is not an object: None"),
        ({"samples_ns": []}, "no samples that they follow from"),
        ({"samples_ns": [5, -1]}, "a duration that is not above 0"),
        ({"samples_ns": [5, 2.5]}, "samples_ns is not a list of whole numbers"),
        ({"surprise": 1}, "unknown field 'surprise'"),
        ({"device": {"device": "host"}}, "device has no profile"),
        ({"thermals": {"before": 1}}, "thermals has no after|thermals: before is not an object"),
        ({"load_ms": True}, "load_ms is not a finite number: True"),
        ({"bundle": []}, r"bundle is not an object: \[\]"),
        ({"reasons": [{"code": "none", "message": "", "invalidates": False}]}, "is not one of"),
    ],
)
def test_a_result_with_a_broken_field_is_refused(
    make_result: Any, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_result(edited(make_result(), tmp_path, **changes))


def test_a_figure_that_does_not_follow_from_the_samples_is_refused(
    make_result: Any, tmp_path: Path
) -> None:
    result: Result = make_result()
    assert result.latency is not None
    latency = result.latency.to_dict()
    latency["p90"]["value"] *= 0.8

    with pytest.raises(ArtifactError, match="the file was edited"):
        read_result(edited(result, tmp_path, latency=latency))


def test_a_result_cannot_be_made_valid_by_hand(make_result: Any, tmp_path: Path) -> None:
    reason = Reason(code="too-short", message="too few", invalidates=True)
    result: Result = make_result(reasons=(reason,))
    assert not result.valid

    with pytest.raises(ArtifactError, match="contradicts its reasons"):
        read_result(edited(result, tmp_path, valid=True))


def test_nothing_is_left_when_writing_fails(make_result: Any, tmp_path: Path) -> None:
    result = dataclasses.replace(make_result(), load_ms=float("nan"))
    before = sorted(tmp_path.iterdir())

    with pytest.raises(ValueError, match="JSON"):
        result.write(tmp_path / "result.json")

    assert sorted(tmp_path.iterdir()) == before
