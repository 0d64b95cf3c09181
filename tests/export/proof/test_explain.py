import dataclasses
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgeseed.core.errors import UsageError
from edgeseed.core.records import CandidateScore
from edgeseed.export import explain
from edgeseed.export.proof.explain import _by_height, draw

SVG = "{http://www.w3.org/2000/svg}"


def test_every_layer_is_told_with_its_error_and_the_range_that_it_reads(made_int8: Path) -> None:
    found = explain(made_int8)
    assert len(found.layers) == 18
    assert all(row.computed == "int8" and row.error is not None for row in found.layers)
    assert 0 < max(row.error or 0 for row in found.layers) < 0.5
    assert all(row.range is not None and (row.beyond or 0) < 0.05 for row in found.layers)
    text = found.to_text()
    assert text.count("<- adds most") == 3
    assert "scheme x86, calibrated by" in text
    assert "top1 agreement" in found.headline()


def test_agreement_of_acceptance_photos_stands_beside_what_was_tried(made_int8: Path) -> None:
    """They say why what comes nearest need not be what was taken."""
    found = explain(made_int8)
    assert set(found.counted) <= set(found.tried)
    counted = {"fisher": CandidateScore(agreement=0.988, distance=0.1, photos=256)}
    text = dataclasses.replace(found, counted=counted).to_text()
    (line,) = [line for line in text.splitlines() if line.startswith("  fisher   ")]
    assert line.endswith("; 98.8% of 256 acceptance photos")


def test_what_stayed_in_float_is_told_by_its_reason(made_int8: Path) -> None:
    found = explain(made_int8)
    names = {row.name for row in found.layers}
    for reason, operations in found.float_operations.items():
        assert reason
        assert not names & set(operations)


def test_a_float_bundle_is_explained_too(made_fp32: Path) -> None:
    found = explain(made_fp32)
    assert len(found.layers) == 18
    assert {row.computed for row in found.layers} == {"float32"}
    assert max(row.error or 0 for row in found.layers) < 1e-4
    assert found.scheme == ""
    text = found.to_text()
    assert "tried" not in text
    # It was a row of 0.00% for each layer, three of them marked as the worst.
    assert text.endswith("; none adds as much as 0.01%")
    assert "18 layers in float32, errors up to " in text
    assert found.most() == ()


def test_of_a_float_bundle_that_errs_the_worst_layers_are_told(made_fp32: Path) -> None:
    found = explain(made_fp32)
    layers = tuple(
        dataclasses.replace(row, error=0.02, added=0.01 if row.name == "conv2d_4" else 0.0)
        for row in found.layers
    )
    text = dataclasses.replace(found, layers=layers).to_text()
    assert "errors up to 2.0e-02 of the output; those that add most:" in text
    assert [line.split()[0] for line in text.splitlines() if "<- adds" in line] == [
        "blocks.2.0.conv_exp"
    ]


@pytest.mark.parametrize(
    ("places", "heights"),
    [([3, 10, 20], [20, 10, 3]), ([2, 46, 50], [2, 46, 50]), ([], [])],
)
def test_no_pointer_crosses_another_layers_name(places: list[int], heights: list[int]) -> None:
    # Names stood on the curve, and pointers went through the names of their neighbours.
    assert _by_height(places, 52) == heights


def test_the_picture_is_whole_and_names_the_worst_layers(made_int8: Path, tmp_path: Path) -> None:
    picture = tmp_path / "layers.svg"
    found = explain(made_int8, picture=picture)
    assert [path.name for path in tmp_path.iterdir()] == [picture.name]
    drawn = ElementTree.parse(picture).getroot()
    texts = [each.text or "" for each in drawn.iter(f"{SVG}text")]
    for row in found.most():
        assert any(text.startswith(f"{row.layer} +") for text in texts)
    # A bar for each layer, its name and numbers in the tooltip.
    tooltips = [each.text or "" for each in drawn.iter(f"{SVG}title")]
    assert [tooltip.partition(":")[0] for tooltip in tooltips] == [
        row.layer for row in found.layers
    ]
    spans = [each for each in drawn.iter(f"{SVG}line") if each.get("style") == "stroke-width:4"]
    assert len(spans) == len(found.layers)


def test_nothing_is_drawn_outside_the_picture(made_int8: Path, tmp_path: Path) -> None:
    found = explain(made_int8)
    layers = tuple(
        dataclasses.replace(row, error=3.0 * index, added=3.0, range=(-1000.0, 1e6), beyond=0.5)
        for index, row in enumerate(found.layers * 8)
    )
    draw(dataclasses.replace(found, layers=layers), tmp_path / "many.svg")
    drawn = ElementTree.parse(tmp_path / "many.svg").getroot()
    width, height = (float(drawn.get(side) or 0) for side in ("width", "height"))
    for line in drawn.iter(f"{SVG}line"):
        assert all(0 <= float(line.get(name) or 0) <= width for name in ("x1", "x2"))
        assert all(0 <= float(line.get(name) or 0) <= height for name in ("y1", "y2"))


def test_a_float_bundle_has_a_picture_without_ranges(made_fp32: Path, tmp_path: Path) -> None:
    explain(made_fp32, picture=tmp_path / "layers.svg")
    assert "stored in 8 bits" not in (tmp_path / "layers.svg").read_text()


def test_a_picture_of_another_kind_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"pictures are SVG, .*; name it layers\.svg"):
        explain(tmp_path, picture=tmp_path / "layers.png")


def test_the_json_holds_all_that_the_table_says(made_int8: Path) -> None:
    values = json.loads(json.dumps(explain(made_int8).to_dict()))
    assert values["size_bytes"] > 0
    assert values["layers"][0]["range"] == [0.0, 255.0]
    assert {gate["name"] for gate in values["gates"]} >= {"top1_agreement", "lint"}
