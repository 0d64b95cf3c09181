import json
from pathlib import Path

import pytest

from edgeseed.core.errors import UsageError
from edgeseed.export import explain


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
    assert "tried" not in found.to_text()


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_picture_is_whole_and_names_the_worst_layers(
    made_int8: Path, tmp_path: Path, kind: str
) -> None:
    picture = tmp_path / f"layers.{kind}"
    found = explain(made_int8, picture=picture)
    starts = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
    assert picture.read_bytes().startswith(starts[kind])
    assert [path.name for path in tmp_path.iterdir()] == [picture.name]
    if kind == "svg":
        # matplotlib draws letters as outlines and keeps the text beside them as a comment.
        for row in found.most():
            assert row.name in picture.read_text()


def test_a_picture_of_another_kind_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.png, \.svg, \.pdf"):
        explain(tmp_path, picture=tmp_path / "layers.gif")


def test_the_json_holds_all_that_the_table_says(made_int8: Path) -> None:
    values = json.loads(json.dumps(explain(made_int8).to_dict()))
    assert values["size_bytes"] > 0
    assert values["layers"][0]["range"] == [0.0, 255.0]
    assert {gate["name"] for gate in values["gates"]} >= {"top1_agreement", "lint"}
