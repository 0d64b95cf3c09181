"""A package that is opened, judged, and run by the interpreter or, on a Mac, by Core ML."""

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from support.coreml import Packages, difference

from edgeseed.core.bundle import read_bundle, seal_bundle
from edgeseed.core.errors import (
    ArtifactError,
    GateError,
)
from edgeseed.core.records import QuantizationRecord
from edgeseed.export import verify
from edgeseed.export.targets.coreml.model import CoreMLModel
from edgeseed.export.targets.coreml.tools import load_coremltools

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed"
)
Pixels = npt.NDArray[np.uint8]


def test_int8_layers_read_bytes_and_are_counted(packages: Packages) -> None:
    operators = {f"conv2d_{index}": "conv" for index in range(17)} | {"linear": "linear"}
    record = QuantizationRecord(scheme="coreml", integer_operators=operators)
    assert CoreMLModel(packages["int8"], quantization=record).lint() == ()
    (finding,) = CoreMLModel(packages["fp16"], quantization=record).lint()
    assert str(finding) == "program: 18 layers were meant to be int8, the package has 0"


@pytest.fixture
def bundle(made_coreml: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made_coreml, tmp_path / "coreml"))


def test_the_bundle_is_proven_by_the_interpreter_and_says_so(made_coreml: Path) -> None:
    result = verify(made_coreml)
    assert result.passed
    assert result.runner == "Core ML reference interpreter"
    manifest = read_bundle(made_coreml).manifest
    assert manifest.inputs[0].shape == (1, 3, 32, 32)
    assert manifest.minimum_runtime == {"iOS": "17", "macOS": "14"}


def tamper(bundle: Path, edit: Callable[[Any, Path], None]) -> None:
    """Edits the specification; the digests fit again, as if the exporter had made the mistake."""
    data = bundle / "model.mlpackage" / "Data" / "com.apple.CoreML"
    model = load_coremltools("a test").proto.Model_pb2.Model()
    model.ParseFromString((data / "model.mlmodel").read_bytes())
    edit(model, data / "weights" / "weight.bin")
    (data / "model.mlmodel").write_bytes(model.SerializeToString())
    seal_bundle(bundle, read_bundle(bundle, check=False).manifest)


def swap_colors(model: Any, _: Path) -> None:
    kind = model.description.input[0].type.imageType
    kind.colorSpace = kind.ColorSpace.Value("BGR")


def operations(model: Any) -> Any:
    return model.mlProgram.functions["main"].block_specializations["CoreML7"].operations


def constant_of(model: Any, parameter: str, index: int) -> Any:
    """The literal that a parameter of the convolution with this number is bound to."""
    convolutions = [each for each in operations(model) if each.type == "conv"]
    name = convolutions[index].inputs[parameter].arguments[0].name
    (constant,) = [each for each in operations(model) if each.outputs[0].name == name]
    return constant.attributes["val"]


def edit_weights(weights: Path, value: Any, change: Callable[[Any], Any]) -> None:
    content = bytearray(weights.read_bytes())
    size, start = np.frombuffer(content, "<u8", 2, offset=value.blobFileValue.offset + 8)
    old = np.frombuffer(content, "<f2", int(size) // 2, offset=int(start))
    content[int(start) : int(start + size)] = change(old).astype("<f2").tobytes()
    weights.write_bytes(content)


def double_a_weight(model: Any, weights: Path) -> None:
    edit_weights(weights, constant_of(model, "weight", 3), lambda old: old * 2)


def drop_a_bias(model: Any, weights: Path) -> None:
    edit_weights(weights, constant_of(model, "bias", 3), lambda old: old * 0)


def forget_the_mean(model: Any, _: Path) -> None:
    (subtraction,) = [each for each in operations(model) if each.type == "sub"]
    name = subtraction.inputs["y"].arguments[0].name
    (mean,) = [each for each in operations(model) if each.outputs[0].name == name]
    literal = mean.attributes["val"].immediateValue.tensor.bytes
    literal.values = bytes(len(literal.values))


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (swap_colors, "BGR"),
        (double_a_weight, "conv2d_3"),
        (drop_a_bias, "conv2d_3"),
        (forget_the_mean, "mean is not subtracted"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_planted_fault_is_caught_and_named(
    bundle: Path, edit: Callable[[Any, Path], None], cause: str
) -> None:
    tamper(bundle, edit)
    with pytest.raises(GateError, match=cause):
        verify(bundle)


def shuffle_labels(model: Any, _: Path) -> None:
    values = operations(model)[-1].inputs["classes"].arguments[0].value.immediateValue.list.values
    first = values[0].immediateValue.tensor.strings.values
    second = values[1].immediateValue.tensor.strings.values
    first[0], second[0] = second[0], first[0]


def test_labels_in_another_order_are_refused(bundle: Path) -> None:
    tamper(bundle, shuffle_labels)
    with pytest.raises(ArtifactError, match="its labels are not the manifest's"):
        verify(bundle)


def set_a_bias_to_infinity(model: Any, weights: Path) -> None:
    edit_weights(weights, constant_of(model, "bias", 3), lambda old: np.full_like(old, np.inf))


@pytest.mark.slow
def test_weights_that_are_infinite_in_float16_are_found(bundle: Path) -> None:
    tamper(bundle, set_a_bias_to_infinity)
    (finding,) = CoreMLModel(bundle / "model.mlpackage").lint()
    assert finding.problem == "has weights beyond 65504, where float16 ends; keep it in float32"


class FakeCoreML:
    """Core ML as this machine lacks it: takes an image, as an app would, and answers by name."""

    def __init__(self, model: CoreMLModel, change: Callable[[Pixels], Pixels]) -> None:
        self.model, self.change = model, change

    def predict(self, inputs: dict[str, Any]) -> dict[str, npt.NDArray[np.float32]]:
        pixels = np.asarray(inputs["image"]).transpose(2, 0, 1)[None]
        outputs = self.model.infer(self.change(pixels))
        return {**outputs, "classLabel": np.array(["red"])}


@pytest.fixture
def as_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Pixels], Pixels]], None]:
    def pretend(change: Callable[[Pixels], Pixels]) -> None:
        monkeypatch.setattr("edgeseed.export.targets.coreml.model.sys.platform", "darwin")
        monkeypatch.setattr(
            CoreMLModel, "_core_ml", property(lambda model: FakeCoreML(model, change))
        )

    return pretend


def test_on_a_mac_verify_judges_what_core_ml_itself_predicts(
    made_coreml: Path, as_on_a_mac: Callable[..., None]
) -> None:
    as_on_a_mac(lambda pixels: pixels)
    gates = {gate.name: gate for gate in verify(made_coreml).gates}
    assert gates["top1_agreement on this machine"].value >= 0.98
    assert gates["embedding_cosine on this machine"].passed


@pytest.mark.slow
def test_on_a_mac_a_model_that_predicts_otherwise_than_it_should_fails(
    made_coreml: Path, as_on_a_mac: Callable[..., None]
) -> None:
    as_on_a_mac(lambda pixels: pixels[:, ::-1].copy())
    with pytest.raises(GateError, match="gate top1_agreement on this machine"):
        verify(made_coreml)


@pytest.mark.skipif(sys.platform == "darwin", reason="this is a Mac")
def test_elsewhere_nothing_is_predicted(packages: Packages, pixels: Pixels) -> None:
    assert CoreMLModel(packages["fp16"]).infer_natively(pixels[:1]) is None


@pytest.mark.coreml
@pytest.mark.skipif(sys.platform != "darwin", reason="needs macOS")
def test_core_ml_itself_agrees_with_the_interpreter(packages: Packages, pixels: Pixels) -> None:
    model = CoreMLModel(packages["fp16"])
    found = model.infer_natively(pixels[:8])
    assert found is not None
    assert difference(found, model.infer(pixels[:8])) <= 2e-2
