"""The choice among candidates, without making any: what counts is who wins, and what is said."""

from typing import Any, cast

import pytest

from edgeseed.core.bundle import Bundle, FileEntry, GateResult
from edgeseed.core.errors import GateError
from edgeseed.core.records import ModelSpeed
from edgeseed.export.bundling.builder import Variant
from edgeseed.export.bundling.writer import BuiltBundle
from edgeseed.export.selection import PrecisionTrial, Selection, select
from edgeseed.export.target import Precision

SIZES: dict[Precision, int] = {"fp32": 400, "fp16": 200, "w8": 100, "int8": 110}


class _Manifest:
    def __init__(self, size: int) -> None:
        self.model = "model.onnx"
        self.files = {"model.onnx": FileEntry(sha256="", size_bytes=size, role="ship")}


def candidate(
    precision: Precision, *, problem: str = "", helps: str = "", target: str = ""
) -> PrecisionTrial:
    gate = GateResult(
        name="top1_agreement", value=0.99, limit=0.98, passed=True, unit="share of photos", n=64
    )
    manifest = cast("Any", _Manifest(SIZES[precision]))
    bundle = Bundle(path=cast("Any", None), manifest=manifest)
    made = BuiltBundle(bundle=bundle, evidence=cast("Any", None), gates=(gate,))
    scheme = "x86" if precision == "int8" else None
    return PrecisionTrial(
        variant=Variant(precision=precision, scheme=scheme), made=made, problem=problem,
        helps=helps, target=target,
    )  # fmt: skip


def speeds(**speedups: float) -> dict[str, ModelSpeed]:
    return {
        name: ModelSpeed(median_ms=1 / s, p10_ms=1 / s, p90_ms=1 / s, speedup=s, n=50)
        for name, s in speedups.items()
    }


ALL = [candidate(precision) for precision in SIZES]


def choose(**changes: Any) -> Selection:
    given: dict[str, Any] = {
        "candidates": ALL, "speeds": speeds(fp32=1, fp16=0.8, w8=1, int8=1.5), "baseline": "fp32",
    }  # fmt: skip
    given |= changes
    return select(given.pop("candidates"), given.pop("speeds"), **given)


def test_the_fastest_that_is_proven_wins() -> None:
    assert choose().candidate.name == "int8"


def test_of_those_as_fast_the_smallest_wins() -> None:
    found = choose(speeds=speeds(fp32=1, fp16=0.8, w8=0.97, int8=0.99))
    assert found.candidate.name == "w8"
    assert "smallest of those within 5%" in found.why


def test_int8_that_is_not_faster_than_float_is_reported_and_not_chosen() -> None:
    candidates = [candidate("fp32"), candidate("int8")]
    found = choose(candidates=candidates, speeds=speeds(fp32=1, int8=0.99))
    assert found.candidate.name == "fp32"
    (row,) = [row for row in found.record.candidates if row.precision == "int8"]
    assert (row.verdict, row.reason) == ("passed", "not faster than fp32 here")


def test_each_that_is_proven_and_not_kept_says_why() -> None:
    reasons = {row.precision: row.reason for row in choose().record.candidates}
    assert reasons == {
        "fp32": "takes 1.50 times as long as int8", "fp16": "takes 1.88 times as long as int8",
        "w8": "takes 1.50 times as long as int8", "int8": "",
    }  # fmt: skip
    near = choose(speeds=speeds(fp32=1, fp16=0.8, w8=0.97)).record.candidates
    assert [row.reason for row in near] == [
        "as fast as w8 within 5%, and not smaller", "takes 1.21 times as long as w8", "",
        "could not be timed here",
    ]  # fmt: skip
    sizes = choose(prefer="size").record.candidates
    assert [row.reason for row in sizes] == ["not smaller than w8"] * 2 + [
        "",
        "not smaller than w8",
    ]
    untimed = choose(speeds={}, profile="pixel-8").record.candidates
    assert [row.reason for row in untimed] == ["", *["fp32 comes first"] * 3]


def across(**speedups: float) -> Selection:
    """A choice among two targets: onnx's fp32 and int8, litert's fp32, w8 and int8."""
    candidates = [
        *(candidate(precision, target="onnx") for precision in ("fp32", "int8")),
        *(candidate(precision, target="litert") for precision in ("fp32", "w8", "int8")),
    ]
    found = {name.replace("_", " "): speed for name, speed in speeds(**speedups).items()}
    return choose(candidates=candidates, speeds=found, baseline="onnx fp32")


def test_of_several_targets_the_fastest_wins_and_the_others_are_named_with_their_times() -> None:
    found = across(onnx_fp32=1, onnx_int8=1.2, litert_fp32=0.9, litert_w8=0.8, litert_int8=2.4)
    assert (found.record.chosen, found.candidate.target) == ("litert int8", "litert")
    rows = {row.name: (row.target, row.precision, row.verdict, row.reason, row.median_ms)
            for row in found.record.candidates}  # fmt: skip
    assert rows["onnx int8"] == (
        "onnx", "int8", "passed", "takes 2.00 times as long as litert int8", 1 / 1.2,
    )  # fmt: skip
    assert rows["litert int8"][2:4] == ("chosen", "")
    assert len(rows) == 5


def test_integers_that_are_slower_than_another_targets_float_are_not_chosen() -> None:
    found = across(onnx_fp32=1, onnx_int8=0.98, litert_fp32=0.9, litert_w8=0.5, litert_int8=0.97)
    assert found.record.chosen == "onnx fp32"
    reasons = {row.name: row.reason for row in found.record.candidates}
    assert reasons["litert int8"] == reasons["onnx int8"] == "not faster than onnx fp32 here"


def test_if_no_target_passes_each_is_named() -> None:
    with pytest.raises(GateError, match=r"no precision passes: onnx fp32: a; litert fp32: b"):
        choose(candidates=[candidate("fp32", target="onnx", problem="a"),
                           candidate("fp32", target="litert", problem="b")])  # fmt: skip


def test_who_asks_for_size_gets_the_smallest_even_if_it_is_slow() -> None:
    candidates = [candidate("fp32"), candidate("int8")]
    found = choose(candidates=candidates, speeds=speeds(fp32=1, int8=0.5), prefer="size")
    assert found.candidate.name == "int8"


def test_what_fails_a_gate_is_never_chosen() -> None:
    candidates = [*ALL[:3], candidate("int8", problem="top1_agreement 0.9, limit 0.98")]
    found = choose(candidates=candidates)
    assert found.candidate.name == "w8"
    assert found.record.candidates[3].verdict == "failed"


def test_without_a_clock_the_profile_decides_and_without_a_profile_the_target() -> None:
    # For TensorRT int8 was chosen because its file is small, and its engine was the larger one.
    candidates = [candidate("fp16"), candidate("w8"), candidate("int8")]
    assert (
        choose(candidates=candidates, speeds={}, profile="iphone-15-pro").candidate.name == "fp16"
    )
    found = choose(candidates=candidates, speeds={})
    assert found.candidate.name == "fp16"
    assert "cannot time any" in found.why
    assert choose(candidates=candidates, speeds={}, prefer="size").candidate.name == "w8"


def test_what_was_not_timed_is_not_chosen_for_its_speed() -> None:
    """Integers of another processor are not timed: what is fast here may be slow there."""
    assert choose(speeds=speeds(fp32=1, fp16=0.8, w8=1)).candidate.name == "w8"


def test_if_none_passes_it_says_why_each_failed_and_what_helps() -> None:
    candidates = [
        candidate(
            "fp32", problem="parity 0.1 relative error, limit 0.0001", helps="export it again"
        ),
        PrecisionTrial(
            variant=Variant(precision="int8", scheme="x86"),
            problem="needs photos to be judged by",
            helps="add --calibration FOLDER",
        ),
    ]
    with pytest.raises(GateError) as caught:
        choose(candidates=candidates)
    assert str(caught.value) == (
        "no precision passes: fp32: parity 0.1 relative error, limit 0.0001; int8: needs photos to "
        "be judged by; what helps: export it again; add --calibration FOLDER"
    )
