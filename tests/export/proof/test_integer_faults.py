"""Integers planted wrong in Core ML and TensorRT files: scales, zero points, axes, biases.

As in `test_own_faults`, golden outputs and digests are made anew behind each fault.
"""

import importlib.util
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from support.faults import (
    Edit,
    Package,
    change,
    constants,
    edit_onnx,
    edit_package,
    integer_convolutions,
)

from edgeseed.core.errors import ArtifactError, EdgeseedError, GateError, WorkError
from edgeseed.export import export, verify
from edgeseed.export.proof.verify import VerifyResult

SLOW = [pytest.mark.slow]
LAYER = 4
"""The number of the layer that is damaged, among those with integer weights."""


def failed_gates(bundle: Path) -> tuple[set[str], str]:
    """Names of the gates that do not hold, or `runs` for a file that cannot be; the message."""
    with pytest.raises(EdgeseedError) as caught:
        verify(bundle)
    if isinstance(caught.value, ArtifactError | WorkError):
        return {"runs"}, str(caught.value)
    assert isinstance(caught.value, GateError)
    result = caught.value.result
    assert isinstance(result, VerifyResult)
    return {gate.name for gate in result.gates if not gate.passed}, str(caught.value)


# ------------------------------------------------------------------------------- TensorRT


@pytest.fixture(scope="module")
def made_trt(once: Callable[..., Path], student: Path, photos: Path) -> Path:
    return once(
        "integer-faults-trt",
        lambda out: export(
            student, target="tensorrt", precision="int8", calibration=photos, out=out,
            min_agreement=0.9, quantization={"max_float_layers": 0, "calibrator": "minmax"},
        ),
    )  # fmt: skip


def edit_scales(edit: Callable[[np.ndarray], np.ndarray]) -> Edit:
    def apply(model: onnx.ModelProto) -> None:
        _, reading = integer_convolutions(model)[LAYER]
        tensor = constants(model)[reading.input[1]]
        change(tensor, edit(numpy_helper.to_array(tensor).copy()))

    return apply


def one_channel(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    def edit(scales: np.ndarray) -> np.ndarray:
        scales[3] *= factor
        return scales

    return edit


def weight_zero_point(model: onnx.ModelProto) -> None:
    _, reading = integer_convolutions(model)[LAYER]
    tensor = constants(model)[reading.input[2]]
    zeros = numpy_helper.to_array(tensor).copy()
    zeros.reshape(-1)[0] = 1
    # Its own: zero points of several layers are one tensor in the file.
    model.graph.initializer.append(numpy_helper.from_array(zeros, "damaged"))
    reading.input[2] = "damaged"


def weight_axis(model: onnx.ModelProto) -> None:
    _, reading = integer_convolutions(model)[LAYER]
    (axis,) = [item for item in reading.attribute if item.name == "axis"]
    axis.i = 1


def edit_bias(edit: Callable[[np.ndarray], np.ndarray]) -> Edit:
    def apply(model: onnx.ModelProto) -> None:
        layer, _ = integer_convolutions(model)[LAYER]
        tensor = constants(model)[layer.input[2]]
        change(tensor, edit(numpy_helper.to_array(tensor).copy()))

    return apply


def shift_one(bias: np.ndarray) -> np.ndarray:
    bias[2] += 3 * np.abs(bias).max()
    return bias


def activation_written_otherwise(model: onnx.ModelProto) -> None:
    """A scale that is larger where an activation is written than where it is read."""
    node = [node for node in model.graph.node if node.op_type == "QuantizeLinear"][LAYER]
    scale = numpy_helper.to_array(constants(model)[node.input[1]])
    model.graph.initializer.append(
        numpy_helper.from_array(np.asarray(scale * 1.1, scale.dtype), "damaged")
    )
    node.input[1] = "damaged"


def activation_zero_point(model: onnx.ModelProto) -> None:
    node = [node for node in model.graph.node if node.op_type == "QuantizeLinear"][LAYER]
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, np.int8), "damaged"))
    node.input[2] = "damaged"


def clipped_weights(model: onnx.ModelProto) -> None:
    """Integers of seven bits where eight were meant."""
    _, reading = integer_convolutions(model)[LAYER]
    tensor = constants(model)[reading.input[0]]
    change(tensor, np.clip(numpy_helper.to_array(tensor), -64, 63))


TENSORRT: dict[str, tuple[Edit, str]] = {
    "all scales of a layer's weights": (edit_scales(lambda scales: scales * 1.1), "rounding"),
    "one scale of a layer's weights": (edit_scales(one_channel(2)), "rounding"),
    "a zero point of weights": (weight_zero_point, "lint"),
    "the axis of weights": (weight_axis, "runs"),
    "no bias": (edit_bias(lambda bias: bias * 0), "rounding"),
    "one channel's bias": (edit_bias(shift_one), "rounding"),
    "an activation written otherwise than read": (activation_written_otherwise, "lint"),
    "a zero point of an activation": (activation_zero_point, "lint"),
    "weights of seven bits": (clipped_weights, "rounding"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("edit", "gate"), TENSORRT.values(), ids=TENSORRT)
def test_a_wrong_integer_in_a_tensorrt_graph_is_caught(
    made_trt: Path, tmp_path: Path, edit: Edit, gate: str
) -> None:
    bundle = Path(shutil.copytree(made_trt, tmp_path / "trt"))
    edit_onnx(bundle, edit)
    failed, message = failed_gates(bundle)
    assert gate in failed, message


# -------------------------------------------------------------------------------- Core ML


@pytest.fixture(scope="module")
def made_affine(workplace: Path, student: Path, photos: Path) -> Path:
    if importlib.util.find_spec("coremltools") is None:
        pytest.skip("needs coremltools")
    out = workplace / "integer-faults-affine"
    export(
        student, target="coreml", precision="int8", scheme="coreml-affine", calibration=photos,
        out=out, min_agreement=0.9,
        quantization={"max_float_layers": 0, "calibrator": "minmax"},
    )  # fmt: skip
    return out


def edit_part(part: str, edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Package], None]:
    """Edits `scale`, `zero_point`, `axis` or `quantized_data` of a layer's weights."""

    def apply(package: Package) -> None:
        _, weights = package.integer_layers()[LAYER]
        literal = package.literal(weights, part)
        package.write(literal, edit(package.read(literal)))

    return apply


def package_bias(edit: Callable[[np.ndarray], np.ndarray]) -> Callable[[Package], None]:
    def apply(package: Package) -> None:
        layer, _ = package.integer_layers()[LAYER]
        literal = package.literal(layer, "bias")
        package.write(literal, edit(package.read(literal)))

    return apply


def read_with(parameter: str, edit: Callable[[np.ndarray], np.ndarray]) -> Callable[..., None]:
    """Edits what one stored activation is read with, not what it is written with."""

    def apply(package: Package) -> None:
        operation = package.of_type("dequantize")[LAYER]
        own = package.literal(operation, parameter)
        value = edit(package.read(own))
        argument = operation.inputs[parameter].arguments[0]
        # Its own: equal numbers of several operations are one constant in the file.
        argument.value.CopyFrom(own)
        package.write(argument.value, value)

    return apply


COREML: dict[str, tuple[Callable[[Package], None], str]] = {
    "all scales of a layer's weights": (edit_part("scale", lambda old: old * 1.1), "rounding"),
    "one scale of a layer's weights": (edit_part("scale", one_channel(2)), "rounding"),
    "a zero point of weights": (edit_part("zero_point", lambda old: old + 1), "lint"),
    "the axis of weights": (edit_part("axis", lambda old: old + 1), "runs"),
    "no bias": (package_bias(lambda bias: bias * 0), "rounding"),
    "one channel's bias": (package_bias(shift_one), "rounding"),
    "weights of seven bits": (
        edit_part("quantized_data", lambda old: np.clip(old, -64, 63)), "rounding",
    ),
    "an activation read otherwise than written": (
        read_with("scale", lambda old: old * 1.1), "lint",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("edit", "gate"),
    [
        # Another export is not needed here, and yet each takes seconds: two stand for all.
        pytest.param(
            *fault,
            id=name,
            marks=[] if name in ("one channel's bias", "a zero point of weights") else SLOW,
        )
        for name, fault in COREML.items()
    ],
)
def test_a_wrong_integer_in_a_core_ml_package_is_caught(
    made_int8_coreml: Path, tmp_path: Path, edit: Callable[[Package], None], gate: str
) -> None:
    bundle = Path(shutil.copytree(made_int8_coreml, tmp_path / "coreml"))
    edit_package(bundle, edit)
    failed, message = failed_gates(bundle)
    assert gate in failed, message


@pytest.mark.slow
def test_zero_points_of_a_sound_package_are_those_of_its_ranges(made_affine: Path) -> None:
    package = Package(made_affine / "model.mlpackage")
    zeros = [
        int(package.read(package.literal(each, "zero_point")))
        for each in package.of_type("dequantize")
    ]
    assert len(set(zeros)) > 1
    assert verify(made_affine).passed


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, -1])
def test_a_zero_point_off_by_one_in_a_core_ml_package_is_named(
    made_affine: Path, tmp_path: Path, step: int
) -> None:
    # It costs about as much as all rounding together, which the limits have to let pass here.
    bundle = Path(shutil.copytree(made_affine, tmp_path / "affine"))
    edit_package(bundle, read_with("zero_point", lambda old: old + step))
    failed, message = failed_gates(bundle)
    assert "lint" in failed
    assert re.search(r"its zero point is -?\d+ where the manifest's range gives -?\d+", message)
