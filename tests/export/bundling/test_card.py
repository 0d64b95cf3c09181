"""The model card says what the manifest says, and an edited one is told."""

import dataclasses
from typing import Any

import pytest
from support.manifests import GATE, some_manifest

from edgeseed.core.preprocess import Preprocess
from edgeseed.core.records import (
    ModelSpeed,
    PhotosRecord,
    Provenance,
    SelectionCandidate,
    SelectionRecord,
    SpeedRecord,
)
from edgeseed.export.bundling.card import card_problems, model_card
from edgeseed.export.samples import SYNTHETIC

SPEED = ModelSpeed(median_ms=1, p10_ms=1, p90_ms=1, speedup=2.0, n=20)
SELECTION = SelectionRecord(
    prefer="speed", profile=None, chosen="int8", why="int8 is fastest",
    candidates=(
        SelectionCandidate(
            precision="int8", scheme="x86", verdict="chosen", reason="fastest", median_ms=1.5
        ),
        SelectionCandidate(precision="w8", scheme=None, verdict="failed", reason="parity"),
    ),
)  # fmt: skip


def photos(**values: Any) -> Provenance:
    return Provenance(photos=PhotosRecord(**values))


def test_it_says_how_the_model_is_called_and_what_it_was_proven_by() -> None:
    card = model_card(some_manifest())
    assert card.startswith("# test_efficientnet, onnx fp32\n")
    assert "Runs on onnxruntime >= 1.15." in card
    assert "Resize the photo's shorter side to 36 pixels\n   (bicubic, antialiased)." in card
    assert "Cut out the centre square of 32 pixels, upright, RGB." in card
    assert "| `logits` | ['batch', 4] | float32 | logits |" in card
    assert "| parity | 2e-05 relative | 0.0001 | yes | 8 |  |" in card
    assert "On 32 photos (source: photos/)." in card
    assert "edgeseed 0.1.0." in card


def test_a_wide_grey_input_is_described_as_such() -> None:
    preprocess = Preprocess(image_size=32, width=48, resize=36, mean=(0.5,), std=(0.5,))
    card = model_card(some_manifest(preprocess=preprocess))
    assert "Resize the photo until it covers 36 pixels of height and 54 of width" in card
    assert "Cut out the centre, 32 pixels high and 48 wide, upright, as grey: (19595 R" in card


@pytest.mark.parametrize(
    ("provenance", "text"),
    [
        (photos(source=SYNTHETIC, proof=32), f"On 32 {SYNTHETIC}, not on photos: none were given."),
        (photos(source="p", proof=9, calibration=4), "On 9 photos held out from calibration (s"),
        (photos(source="p", proof=9, trained_on=True), "(source: p, which the student was trained"),
        (
            photos(source="p", proof=9, trained_on={"photos": 1200, "of": 3400}),
            "1,200 of 3,400 of which, as far as they can be compared, the student was trained on",
        ),
    ],
)
def test_it_says_which_photos_proved_it(provenance: Provenance, text: str) -> None:
    assert text in model_card(some_manifest(provenance=provenance))


@pytest.mark.parametrize(
    ("speed", "text"),
    [
        (SpeedRecord(timed=False, reason="busy"), "Not compared: busy."),
        (
            SpeedRecord(timed=True, speedup=2.0, baseline="fp32", compared={"fp32": SPEED}),
            "2.00 times as fast as fp32",
        ),
        # Of several targets.
        (
            SpeedRecord(timed=True, speedup=2.0, baseline="x", compared={"onnx fp32": SPEED}),
            "20 rounds in turns",
        ),
    ],
)
def test_it_says_how_fast_it_was_or_why_not(speed: SpeedRecord, text: str) -> None:
    assert text in model_card(some_manifest(speed=speed))


def test_it_says_what_auto_tried() -> None:
    card = model_card(some_manifest(selection=SELECTION))
    assert "| int8 | chosen | 1.50 ms | fastest |" in card
    assert "| w8 | failed | not timed | parity |" in card


@pytest.mark.parametrize("changes", [{}, {"selection": SELECTION}])
def test_a_card_as_it_was_written_has_no_problem(changes: dict[str, Any]) -> None:
    manifest = some_manifest(**changes)
    assert card_problems(model_card(manifest), manifest) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("2e-05", "1e-06", "lacks the row '| parity | 2e-05"),
        ("| yes |", "| NO |", "lacks the row '| parity"),
        ("['batch', 4]", "['batch', 5]", 'lacks the row "| `logits`'),
        ("| `logits` |", "| `scores` |", 'has the row "| `scores`'),
        ("36 pixels", "40 pixels", "does not say \"Resize the photo's shorter side to 36"),
        ("square of 32", "square of 30", "does not say 'Cut out the centre square of 32"),
        ("onnx fp32", "onnx int8", "does not say '# test_efficientnet, onnx fp32'"),
        ("abababab", "cdcdcdcd", "does not say 'abababababababab'"),
        ("`model.onnx`", "`other.onnx`", "does not say '`model.onnx`'"),
    ],
)
def test_a_fact_that_was_edited_is_told(old: str, new: str, problem: str) -> None:
    manifest = some_manifest()
    card = model_card(manifest)
    assert old in card
    problems = card_problems(card.replace(old, new), manifest)
    assert any(problem in each for each in problems), problems


def test_a_gate_that_fails_says_so() -> None:
    gates = (dataclasses.replace(GATE, passed=False),)
    assert "| 0.0001 | NO | 8 |" in model_card(some_manifest(gates=gates))
