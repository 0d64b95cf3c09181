"""One small network of each timm family on every target, float and integers."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from support.export import save_tiny_student, tiny_student
from support.families import FAMILIES, TABLE, TOO_LARGE, WAYS, try_family

from edgeseed.export import export, verify


def table() -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = json.loads(TABLE.read_text())
    return rows


def test_the_table_is_of_these_networks() -> None:
    for name, row in table().items():
        assert row["network"] == FAMILIES[name].name
        # A network that cannot be traced has one line for all ways.
        assert set(row) - {"network", "program"} <= {" ".join(way) for way in WAYS}


def test_what_does_not_convert_is_one_line_that_says_what() -> None:
    for name, row in table().items():
        for way, cell in row.items():
            if way != "network" and cell != "ok":
                assert cell.count("\n") == 0, (name, way)
                assert len(cell) > 20, (name, way)
                assert not cell.startswith("crash"), (name, way)
                # Sentences of a converter's inside, of no use to who exports.
                assert "got 6 input(s)" not in cell, (name, way)
                assert "object has no attribute" not in cell, (name, way)


@pytest.mark.slow
def test_no_family_of_timm_is_left_out() -> None:
    known = {name.partition(" ")[0] for name in FAMILIES}
    assert set(timm.list_modules()) - known - TOO_LARGE == set()


@pytest.mark.sweep
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_converts_as_the_table_says(name: str) -> None:
    for package in ("coremltools", "ai_edge_litert"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs {package}")
    if not timm.is_model(FAMILIES[name].name):
        pytest.skip(f"timm {timm.__version__} has no {FAMILIES[name].name}")
    torch.set_num_threads(1)
    row = {"network": FAMILIES[name].name, **try_family(FAMILIES[name])}
    # What the table does not have is expected to convert.
    expected = table().get(name, {})
    wrong = {
        way: cell
        for way, cell in row.items()
        if way != "network" and (cell == "ok") != (expected.get(way, "ok") == "ok")
    }
    assert wrong == {}


@pytest.mark.slow
def test_a_vit_with_an_attention_pool_goes_to_core_ml_in_int8(photos: Path, tmp_path: Path) -> None:
    # It was refused: "43 layers were meant to be int8, the package has 42".
    pytest.importorskip("coremltools")
    kwargs: dict[str, Any] = {"global_pool": "map", "img_size": 32}
    network = tiny_student("test_vit", **kwargs)
    student = save_tiny_student(tmp_path / "student.safetensors", network, "test_vit", **kwargs)
    out = tmp_path / "bundle"
    export(
        student, target="coreml", precision="int8", calibration=photos, out=out,
        min_agreement=0.9, quantization={"calibrator": "minmax", "max_float_layers": 0},
    )  # fmt: skip
    result = verify(out, against=student)
    assert result.passed
    assert np.isfinite([gate.value for gate in result.gates]).all()
