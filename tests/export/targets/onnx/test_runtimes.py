"""The oldest runtimes that a manifest names are those that were tried."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.onnx_runtimes import TABLE, cell, first_version, try_version

from edgeseed.export.targets.onnx.target import minimum_runtime
from edgeseed.runtime.agent.__main__ import _saturating_cpu


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))[:2]


def one_node(operator: str, constant: np.ndarray, *, opset: int = 18) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(constant.dtype)
    values = [helper.make_tensor_value_info(name, kind, [2]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "c"], ["y"])],
        "one", values[:1], values[1:], [numpy_helper.from_array(constant, "c")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize(
    ("operator", "constant", "opset", "expected"),
    [
        ("Add", np.zeros(2, np.float32), 18, "1.14"),
        ("Add", np.zeros(2, np.float32), 21, "1.20"),
        ("Min", np.zeros(2, np.float32), 18, "1.14"),
        ("Min", np.zeros(2, np.uint8), 18, "1.24"),
        ("Min", np.zeros(2, np.int8), 18, "1.24"),
        ("Add", np.zeros(2, np.float16), 18, "1.20"),
        ("Add", np.zeros(2, np.float16), 22, "1.21"),
    ],
)
def test_operators_and_types_say_what_runtime_they_need(
    operator: str, constant: np.ndarray, opset: int, expected: str
) -> None:
    model = one_node(operator, constant, opset=opset)
    assert minimum_runtime(model) == {"onnxruntime": expected}


@pytest.mark.parametrize("kind", ["native", "web"])
def test_no_version_that_was_tried_and_failed_is_promised(kind: str) -> None:
    table: dict[str, dict[str, Any]] = json.loads(TABLE.read_text())[kind]
    for variant in next(iter(table.values())):
        half = np.zeros(2, np.float16 if variant == "fp16" else np.float32)
        (promised,) = minimum_runtime(one_node("Add", half)).values()
        first = first_version(table, variant)
        failed = [v for v in table if number(v) >= number(promised) and table[v][variant] != "ok"]
        assert failed == []
        assert first, f"{variant} does not run on the newest"


def test_the_first_version_is_that_after_the_last_failure() -> None:
    rows = {"1.9.0": "ok", "1.10.0": "error", "1.11.0": "ok", "1.12.1": "ok"}
    table = {version: {"int8": cell} for version, cell in rows.items()}
    assert first_version(table, "int8") == "1.11.0"
    table["1.12.1"]["int8"] = "off by 0.8"
    assert first_version(table, "int8") == ""


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None, 1.5])
def test_an_answer_that_is_no_number_or_far_off_is_not_ok(bad: float | None) -> None:
    truth = [[[1.0, 2.0], [2.0, 1.0]], [[3.0, 4.0], [4.0, 3.0]]]  # two outputs of two photos
    assert cell([[1.0, 2.0, 2.0, 1.0], [3.0, 4.0, 4.0, 3.0]], truth, "fp32") == "ok"
    assert cell([[1.0, bad, 2.0, 1.0], [3.0, 4.0, 4.0, 3.0]], truth, "fp32") != "ok"
    assert cell([[1.0, 2.0, 2.0, 1.0], [3.0, 4.0, bad, 3.0]], truth, "fp32") != "ok"


def test_integers_may_differ_by_a_tie_in_few_photos_alone() -> None:
    truth = [np.ones((8, 2)).tolist()]
    for differing, expected in ((1, True), (2, True), (3, False), (8, False)):
        found = np.ones((8, 2))
        found[:differing, 1] = 0.8
        assert (cell([found.ravel().tolist()], truth, "int8 x86") == "ok") == expected
    assert cell([[*[1.0] * 15, float("nan")]], truth, "int8 x86") != "ok"


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "version"), [("native", "1.17.3"), ("web", "1.20.1")])
def test_a_version_does_what_the_table_says(kind: str, version: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("EDGESEED_ONNX_RUNTIMES", tmp_path))
    found = try_version(kind, version, folder)
    if found is None:
        pytest.skip(f"onnxruntime {version} ({kind}) cannot be installed: no network, pip or npm")
    table = json.loads(TABLE.read_text())[kind][version]
    if _saturating_cpu():
        # The newest native version, which the others are compared with, computes these files with
        # instructions that cut off sums here. WebAssembly does not: it gives what the file says.
        del found["int8 arm"], table["int8 arm"]
    assert {name: cell == "ok" for name, cell in found.items()} == {
        name: cell == "ok" for name, cell in table.items()
    }
