"""The x86 file computes the same on processors without VNNI, and a file that does not is told."""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper

from edgeseed.core.bundle import read_bundle
from edgeseed.export.targets.onnx.model import OnnxModel
from edgeseed.export.targets.onnx.saturation import lint_pairs

# Runs a model on photos and prints its outputs. It imports nothing but numpy and ONNX Runtime:
# under emulation every import takes seconds.
_RUN = """
import json, sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.log_severity_level = 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
photos = numpy.load(sys.argv[2]).astype(numpy.float32)
outputs = session.run(None, {session.get_inputs()[0].name: photos})
print(json.dumps([value.tolist() for value in outputs]))
"""


def run_without_vnni(model: Path, pixels: npt.NDArray[np.uint8], folder: Path) -> list[np.ndarray]:
    """A model's outputs on an emulated Haswell, which has AVX2 but no VNNI."""
    emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("no qemu-x86_64 to emulate a processor without VNNI (Debian: qemu-user-static)")
    if platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip(f"this Python is not one of x86-64 Linux but of {platform.machine()}")
    np.save(folder / "pixels.npy", pixels)
    python = str(Path(sys.executable).resolve())
    command = [emulator, "-cpu", "Haswell", python, "-c", _RUN, str(model)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(folder / "pixels.npy")],
        capture_output=True, text=True, env=environment, timeout=900, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [np.asarray(value, np.float32) for value in json.loads(done.stdout)]


def with_heavy_pairs(source: Path, out: Path) -> int:
    """Writes a copy whose neighbouring weights are all doubled, as one bit more would make them."""
    model = onnx.load(source)
    changed = 0
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.int8 and values.ndim == 4 and values.shape[1] > 1:
            heavy = np.clip(values.astype(np.int32) * 4, -127, 127).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(heavy, tensor.name))
            changed += 1
    onnx.save(model, out)
    return changed


def infer(model: Path, pixels: npt.NDArray[np.uint8]) -> list[np.ndarray]:
    outputs = OnnxModel(model, batch="batch", precision="int8").infer(pixels)
    return list(outputs.values())


def test_the_exported_file_has_no_pair_that_saturates(made_int8: Path) -> None:
    record = read_bundle(made_int8).manifest.quantization
    assert record is not None
    assert record.scheme == "x86"
    assert list(lint_pairs(onnx.load(made_int8 / "model.onnx").graph)) == []


def test_pairs_that_saturate_are_counted_and_the_processors_named(
    made_int8: Path, tmp_path: Path
) -> None:
    changed = with_heavy_pairs(made_int8 / "model.onnx", tmp_path / "heavy.onnx")
    findings = list(lint_pairs(onnx.load(tmp_path / "heavy.onnx").graph))
    assert 0 < len(findings) <= changed
    assert all("x86 CPUs without VNNI" in str(finding) for finding in findings)
    model = OnnxModel(
        tmp_path / "heavy.onnx", batch="batch", precision="int8",
        quantization=read_bundle(made_int8).manifest.quantization,
    )  # fmt: skip
    assert set(findings) <= set(model.lint())


@pytest.mark.parametrize("operator", ["Conv", "Gemm", "Gemm transposed", "MatMul"])
def test_every_weighted_operator_is_looked_at(operator: str) -> None:
    weights = np.full((2, 2, 1, 1) if operator == "Conv" else (2, 2), 127, np.int8)
    attributes: dict[str, Any] = {"transB": 1} if operator.endswith("transposed") else {}
    for kind, expected in ((np.uint8, 1), (np.int8, 0)):
        make = onnx.helper.make_node
        graph = onnx.helper.make_graph(
            [
                make("DequantizeLinear", ["x", "s", "z"], ["xd"]),
                make("DequantizeLinear", ["w", "s", "wz"], ["wd"]),
                make(operator.partition(" ")[0], ["xd", "wd"], ["y"], **attributes),
            ],
            "one", [], [],
            [
                numpy_helper.from_array(weights, "w"),
                numpy_helper.from_array(np.array(0, kind), "z"),
                numpy_helper.from_array(np.array(1, np.float32), "s"),
                numpy_helper.from_array(np.array(0, np.int8), "wz"),
            ],
        )  # fmt: skip
        findings = list(lint_pairs(graph))
        assert len(findings) == expected
        assert all("2 of 2 pairs" in str(finding) for finding in findings)


@pytest.mark.slow
def test_a_processor_without_vnni_computes_the_same(
    made_int8: Path, pixels: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    model = made_int8 / "model.onnx"
    emulated = run_without_vnni(model, pixels[:16], tmp_path)
    for found, truth in zip(emulated, infer(model, pixels[:16]), strict=True):
        # Float operators at the end may round otherwise; integers may not.
        np.testing.assert_allclose(found, truth, rtol=1e-4, atol=1e-4 * np.abs(truth).max())


@pytest.mark.slow
def test_the_emulated_processor_is_one_that_saturates(
    made_int8: Path, pixels: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    """Else the test before this one would show nothing."""
    heavy = tmp_path / "heavy.onnx"
    with_heavy_pairs(made_int8 / "model.onnx", heavy)
    emulated, truth = run_without_vnni(heavy, pixels[:16], tmp_path), infer(heavy, pixels[:16])
    error = np.linalg.norm(emulated[0] - truth[0]) / np.linalg.norm(truth[0])
    assert error > 0.01
