"""What the benchmark of the NPU's numerics takes apart, without the NPU's simulator."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from support.export import tiny_preprocess, tiny_student

from edgeseed.export.program import build_program
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos
from edgeseed.export.targets.onnx.target import convert_program

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "qnn_numerics.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("qnn_numerics", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (32, 3, 32, 32)).astype(np.uint8)
    config = QuantizeConfig(calibrator="minmax", bias_correction=False, second_order=False)
    made = quantize(
        build_program(tiny_student(trained=False), tiny_preprocess()), SCHEMES.load("qnn"),
        Photos(pixels=pixels), batch="dynamic", config=config,
    )  # fmt: skip
    return convert_program(made.program, output_names=("embedding", "logits"), opset=18)


def test_a_missing_simulator_is_named(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "is_available", lambda: False)
    words = [str(SCRIPT), str(tmp_path / "out"), "--photos", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match=r"pip install 'edgeseed\[qnn\]'"):
        script.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_operators_one_by_one_compute_the_whole_model(
    script: ModuleType, model: onnx.ModelProto
) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 3, 32, 32)).astype(np.float32)
    outputs = script.readings(model)
    told = script.with_outputs(model, outputs.values())
    whole = script.on_cpu(told.SerializeToString(), {"image": pixels})
    operators = script.Operators(model)
    photo = next(node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear")
    replayed = script._replay(operators, pixels, {}, photo, kinds=())
    assert len(operators.steps) > 30
    for _, _, stored in operators.steps:
        np.testing.assert_array_equal(replayed[stored], whole[outputs[stored]])


@pytest.mark.slow
def test_an_error_of_one_kind_of_operator_is_found_behind_it_alone(
    script: ModuleType, model: onnx.ModelProto
) -> None:
    pixels: npt.NDArray[np.float32] = np.full((1, 3, 32, 32), 100, np.float32)
    operators = script.Operators(model)
    photo = next(node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear")
    plain = script._replay(operators, pixels, {}, photo, kinds=())
    own = {stored: np.full_like(plain[stored], 3) for _, _, stored in operators.steps}
    last = script._stored_of(model, "embedding")
    for kind in {kind for kind, _, _ in operators.steps}:
        changed = script._replay(operators, pixels, own, photo, kinds=(kind,))
        first = next(stored for each, _, stored in operators.steps if each == kind)
        assert np.abs(changed[first] - plain[first]).max() > 0
        before = [stored for _, _, stored in operators.steps]
        for stored in before[: before.index(first)]:
            np.testing.assert_array_equal(changed[stored], plain[stored])
    assert script._distance(plain[last], plain[last]) == pytest.approx(0, abs=1e-6)
