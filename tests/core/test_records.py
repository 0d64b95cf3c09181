"""Typed blocks of the manifest: what is read is what was written, of older versions too."""

import json
from typing import Any

import pytest

from edgeseed.core.reading import read_record
from edgeseed.core.records import (
    CandidateScore,
    EqualizationRecord,
    ExportSettings,
    GateValue,
    ModelSpeed,
    PhotoCounts,
    PhotosRecord,
    Provenance,
    QuantizationRecord,
    SelectionCandidate,
    SelectionRecord,
    SpeedRecord,
)

FULL: list[Any] = [
    QuantizationRecord(
        scheme="x86", calibrator="mse", photos=PhotoCounts(calibration=4, ranking=2), agreement=0.5,
        tried={"mse": CandidateScore(agreement=0.9, distance=0.1, photos=10)},
        counted={"mse": CandidateScore(agreement=0.8, distance=0.2)},
        integer_operators={"conv": "conv"}, float_operators={"head": "asked for"},
        byte_weights=("head",), sensitivity={"conv": 0.1},
        equalized={"conv": EqualizationRecord(gain=2.0, steps="1 -1")},
        ranges={"conv": (-1.0, 2.5)}, renamed={"conv": "conv_1"}, more={"later": [1]},
    ),
    SpeedRecord(
        timed=True, speedup=2.0, baseline="fp32", batch=1, threads=2, runner="host",
        compared={"int8": ModelSpeed(median_ms=1, p10_ms=1, p90_ms=2, speedup=2, n=20)},
        more={"later": 1},
    ),
    SpeedRecord(timed=False, reason="the machine is busy", more={"later": 1}),
    SelectionRecord(
        prefer="speed", profile=None, chosen="int8", why="fastest",
        candidates=(
            SelectionCandidate(
                precision="int8", scheme="x86", verdict="chosen", reason="",
                closeness=GateValue(gate="top1_agreement", value=0.99, n=100),
            ),
            SelectionCandidate(precision="fp16", scheme=None, verdict="not made", reason="no"),
        ),
    ),
    ExportSettings(target="onnx", keep_float=("a",), options={"opset": 20}, more={"later": {}}),
    PhotosRecord(source="photos", proof=32, disjoint=True, trained_on={"photos": 3, "of": 9}),
    Provenance(
        student={"method": "seed"}, export=ExportSettings(seed=3), photos=PhotosRecord(proof=2),
        environment={"edgeseed": "0.1.0"}, more={"later": None},
    ),
]  # fmt: skip


def plain(value: Any) -> Any:
    """As JSON has it: tuples are lists there."""
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("record", FULL, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_from_json(record: Any) -> None:
    written = plain(record.to_dict())
    again = read_record(type(record), written, what="it")
    assert plain(again.to_dict()) == written
    assert again.more == plain(record.more)


@pytest.mark.parametrize("record", FULL, ids=lambda record: type(record).__name__)
def test_what_another_version_has_besides_is_kept(record: Any) -> None:
    again = read_record(
        type(record), {**plain(record.to_dict()), "of tomorrow": {"a": [1]}}, what="it"
    )
    assert again.more["of tomorrow"] == {"a": [1]}
    assert plain(again.to_dict())["of tomorrow"] == {"a": [1]}


def test_parts_of_a_record_have_types_again() -> None:
    quantization = read_record(QuantizationRecord, plain(FULL[0].to_dict()), what="it")
    assert quantization.photos == PhotoCounts(calibration=4, ranking=2)
    assert quantization.tried["mse"] == CandidateScore(agreement=0.9, distance=0.1, photos=10)
    assert quantization.equalized["conv"].gain == 2.0
    assert quantization.ranges["conv"] == (-1.0, 2.5)
    selection = read_record(SelectionRecord, plain(FULL[3].to_dict()), what="it")
    assert selection.candidates[0].closeness == GateValue(gate="top1_agreement", value=0.99, n=100)
    assert selection.candidates[1].closeness is None


def test_names_in_json_stay_those_of_version_1() -> None:
    written = FULL[0].to_dict()
    assert written["integer"] == {"conv": "conv"}
    assert written["float"] == {"head": "asked for"}
    assert "integer_operators" not in written
    assert FULL[5].to_dict()["taught"] == {"photos": 3, "of": 9}


def test_what_could_not_be_timed_is_the_reason_alone() -> None:
    record = SpeedRecord(timed=False, reason="the machine is busy")
    assert record.to_dict() == {"timed": False, "reason": "the machine is busy"}
    assert "reason" not in FULL[1].to_dict()


def test_what_is_not_known_of_photos_is_left_out() -> None:
    assert PhotosRecord(source="photos").to_dict() == {"source": "photos", "proof": 0}


def test_a_candidate_is_named_with_its_target_where_there_are_several() -> None:
    one = SelectionCandidate(precision="int8", scheme=None, verdict="passed", reason="")
    two = SelectionCandidate(
        precision="int8", scheme=None, verdict="passed", reason="", target="onnx"
    )
    assert (one.name, two.name) == ("int8", "onnx int8")


def test_an_old_block_without_most_fields_is_read() -> None:
    assert read_record(QuantizationRecord, {"scheme": "x86"}, what="it").photos == PhotoCounts()
    assert read_record(Provenance, {}, what="it").export == ExportSettings(more={})
    assert read_record(Provenance, {}, what="it").edgeseed_version is None
    assert (
        read_record(Provenance, {"environment": {"edgeseed": "0.0.9"}}, what="it").edgeseed_version
        == "0.0.9"
    )


def test_counts_of_photos_have_the_keys_of_version_1_in_a_manifest() -> None:
    counts = PhotoCounts(calibration=1, held_out=2, ranking=3, acceptance=4, recovery=5)
    assert QuantizationRecord(scheme="x86", photos=counts).to_dict()["photos"] == {
        "ranges": 1, "selection": 2, "judging": 3, "counting": 4, "recovery": 5,
    }  # fmt: skip
