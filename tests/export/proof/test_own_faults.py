"""Twenty faults of our own, over ONNX, TensorRT and Core ML, float and int8, and what is beyond.

Each is planted in a sound bundle whose golden outputs and digests are made anew, as if the exporter
itself had made the mistake. `docs/bundle.md` says which faults no gate can find, and why.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from support.faults import (
    Edit,
    Package,
    change,
    constants,
    convolution,
    edit_onnx,
    edit_package,
    seal_again,
    weights_of,
)

from edgeseed.core.bundle import Manifest, read_bundle, seal_bundle
from edgeseed.core.errors import ArtifactError, GateError
from edgeseed.export import verify


def insert_behind(model: onnx.ModelProto, output: str, *nodes: onnx.NodeProto) -> None:
    """Operators between a graph and its output; they read `before` and write the output."""
    for node in model.graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
        node.input[:] = ["before" if name == output else name for name in node.input]
    model.graph.node.extend(nodes)


# ----------------------------------------------------------------------------- ONNX, float


def padding_on_the_other_side(model: onnx.ModelProto) -> None:
    (pads,) = [item for item in convolution(model, 0).attribute if item.name == "pads"]
    pads.ints[:] = [pads.ints[0] + 1, pads.ints[1] + 1, pads.ints[2] - 1, pads.ints[3] - 1]


def normalised_embedding(model: onnx.ModelProto) -> None:
    insert_behind(
        model, "embedding", helper.make_node("LpNormalization", ["before"], ["embedding"], axis=1)
    )


def hard_activation(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Sigmoid")
    node.op_type = "HardSigmoid"


def small_weights_to_zero(model: onnx.ModelProto) -> None:
    tensor = weights_of(model, 5)
    value = numpy_helper.to_array(tensor)
    change(tensor, np.where(np.abs(value) < 0.05 * np.abs(value).max(), 0, value))


def batch_statistics(model: onnx.ModelProto) -> None:
    """Every photo's embedding has a thousandth of the batch's mean in it."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "axes"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(1e-2, np.float32), "little"))
    insert_behind(
        model, "embedding",
        helper.make_node("ReduceMean", ["before", "axes"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "little"], ["some"]),
        helper.make_node("Add", ["before", "some"], ["embedding"]),
    )  # fmt: skip


def outputs_swapped(model: onnx.ModelProto) -> None:
    first, second = model.graph.output
    first.name, second.name = second.name, first.name


# What another fault's gate finds.
SLOW = {
    "another activation in one layer", "a hundredth of the batch's mean", "one more output",
    "two channels of a layer swapped", "another predicted feature",
}  # fmt: skip


def by_name(faults: Mapping[str, object]) -> list[Any]:
    """Parameters of a test, with the faults' names as ids."""
    return [
        pytest.param(
            *(fault if isinstance(fault, tuple) else (fault,)), id=name,
            marks=[pytest.mark.slow] if name in SLOW else [],
        )
        for name, fault in faults.items()
    ]  # fmt: skip


ONNX_FLOAT: dict[str, Edit] = {
    "padding on the other side": padding_on_the_other_side,
    "normalised embedding": normalised_embedding,
    "another activation in one layer": hard_activation,
    "small weights of one layer zeroed": small_weights_to_zero,
    "a hundredth of the batch's mean": batch_statistics,
    "outputs swapped by name": outputs_swapped,
}


@pytest.mark.parametrize("edit", by_name(ONNX_FLOAT))
def test_a_fault_in_a_float_onnx_file_is_caught(fp32_bundle: Path, edit: Edit) -> None:
    edit_onnx(fp32_bundle, edit)
    with pytest.raises((GateError, ArtifactError)):
        verify(fp32_bundle)


# ----------------------------------------------------------------------------- ONNX, int8


def negated_channel(model: onnx.ModelProto) -> None:
    tensor = weights_of(model, -1)
    value = numpy_helper.to_array(tensor).copy()
    value[7] = -np.maximum(value[7], -127)
    change(tensor, value)


def two_channels_swapped(model: onnx.ModelProto) -> None:
    """Of one layer's weights, not of their scales."""
    tensor = weights_of(model, 8)
    value = numpy_helper.to_array(tensor).copy()
    value[[0, 1]] = value[[1, 0]]
    change(tensor, value)


def floor_in_place_of_round(model: onnx.ModelProto) -> None:
    """Each stored activation is rounded down: a shift by half a step everywhere."""
    found = constants(model)
    for number, node in enumerate(list(model.graph.node)):
        if node.op_type != "QuantizeLinear":
            continue
        scale = float(numpy_helper.to_array(found[node.input[1]]).reshape(-1)[0])
        name = f"half_{number}"
        model.graph.initializer.append(
            numpy_helper.from_array(np.array(0.49 * scale, np.float32), name)
        )
        index = list(model.graph.node).index(node)
        model.graph.node.insert(
            index, helper.make_node("Sub", [node.input[0], name], [f"{name}_less"])
        )
        model.graph.node[index + 1].input[0] = f"{name}_less"


def head_in_four_bits(model: onnx.ModelProto) -> None:
    tensor = weights_of(model, -1)
    change(tensor, np.round(numpy_helper.to_array(tensor) / 16.0) * 16)


ONNX_INTEGER: dict[str, Edit] = {
    "one channel of the last layer negated": negated_channel,
    "two channels of a layer swapped": two_channels_swapped,
    "rounded down": floor_in_place_of_round,
    "the last layer in four bits": head_in_four_bits,
}


@pytest.mark.parametrize("edit", by_name(ONNX_INTEGER))
def test_a_fault_in_an_integer_onnx_file_is_caught(int8_bundle: Path, edit: Edit) -> None:
    edit_onnx(int8_bundle, edit)
    with pytest.raises(GateError):
        verify(int8_bundle)


# ------------------------------------------------------------------------------- TensorRT


@pytest.fixture
def trt(made_tensorrt: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_tensorrt, tmp_path / "trt"))


def unasked_float32(model: onnx.ModelProto) -> None:
    """A float32 island between two casts: exact, and slow where nobody asked for it."""
    node = convolution(model, 2)
    name = node.output[0]
    node.output[0] = "island"
    model.graph.node.extend([
        helper.make_node("Cast", ["island"], ["island_32"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Relu", ["island_32"], ["island_relu"]),
        helper.make_node("Cast", ["island_relu"], [name], to=onnx.TensorProto.FLOAT16),
    ])  # fmt: skip
    order = list(model.graph.node)
    moved = order[-3:]
    del model.graph.node[-3:]
    at = next(index for index, each in enumerate(model.graph.node) if each.output[0] == "island")
    for offset, each in enumerate(moved):
        model.graph.node.insert(at + 1 + offset, each)


def a_weight_of_infinity(model: onnx.ModelProto) -> None:
    tensor = weights_of(model, 4)
    value = numpy_helper.to_array(tensor).copy()
    value.reshape(-1)[0] = np.inf
    change(tensor, value)


@pytest.mark.parametrize("edit", [unasked_float32, a_weight_of_infinity])
def test_a_fault_in_a_tensorrt_graph_is_caught(trt: Path, edit: Edit) -> None:
    model = onnx.load(trt / "model.onnx")
    edit(model)
    (trt / "model.onnx").write_bytes(model.SerializeToString())
    seal_bundle(trt, read_bundle(trt, check=False).manifest)
    with pytest.raises(GateError):
        verify(trt)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workspace_mib", 65536),
        pytest.param("gpu_fallback", False, marks=pytest.mark.slow),
        pytest.param("tf32", True, marks=pytest.mark.slow),
    ],
)
def test_a_changed_build_setting_is_caught(trt: Path, name: str, value: object) -> None:
    path = trt / "build.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    seal_bundle(trt, read_bundle(trt, check=False).manifest)
    with pytest.raises(GateError, match=rf"build\.json: {name}"):
        verify(trt)


# -------------------------------------------------------------------------------- Core ML


def probabilities_are_logits(package: Package) -> None:
    (classify,) = package.of_type("classify")
    classify.inputs["probabilities"].arguments[0].name = "logits"


def predicted_feature(package: Package) -> None:
    package.model.description.predictedFeatureName = "embedding"


def labels_in_metadata(package: Package) -> None:
    package.model.description.metadata.userDefined["edgeseed.labels"] = '["a", "b"]'


def one_more_output(package: Package) -> None:
    model = package.model
    (classify,) = package.of_type("classify")
    name = classify.inputs["probabilities"].arguments[0].name
    block = model.mlProgram.functions["main"].block_specializations["CoreML7"]
    block.outputs.append(name)
    logits = next(each for each in model.description.output if each.name == "logits")
    model.description.output.add().CopyFrom(logits)
    model.description.output[-1].name = name


def another_description(package: Package) -> None:
    package.model.description.input[0].shortDescription = "A photo of 512 pixels, BGR."


COREML = {
    "probabilities without a softmax": (probabilities_are_logits, "classLabel_probs"),
    "another predicted feature": (predicted_feature, "predictedFeatureName"),
    "labels in the metadata alone": (labels_in_metadata, "metadata edgeseed.labels"),
    "one more output": (one_more_output, "outputs: are"),
    "another description": (another_description, "description of image"),
}


@pytest.mark.parametrize(("edit", "cause"), by_name(COREML))
def test_a_fault_in_a_core_ml_package_is_caught(
    made_coreml: Path, tmp_path: Path, edit: Callable[[Package], None], cause: str
) -> None:
    bundle = Path(shutil.copytree(made_coreml, tmp_path / "coreml"))
    edit_package(bundle, edit)
    with pytest.raises(GateError, match=cause):
        verify(bundle)


# --------------------------------------------------------------------------- the manifest


@pytest.mark.parametrize("field", ["dtype", "semantics"])
def test_an_input_described_otherwise_is_caught(fp32_bundle: Path, field: str) -> None:
    def edit(manifest: Manifest) -> Manifest:
        (image,) = manifest.inputs
        changed = {
            "dtype": dataclasses.replace(image, dtype="uint8"),
            "semantics": dataclasses.replace(image, semantics="BGR pixels 0..1"),
        }[field]
        return dataclasses.replace(manifest, inputs=(changed,))

    seal_again(fp32_bundle, edit)
    # The file itself has a type, and is asked first.
    kind, text = {
        "dtype": (ArtifactError, r"its inputs are .*float32.* the manifest says .*uint8"),
        "semantics": (GateError, r"student .*failed: inputs in the manifest"),
    }[field]
    with pytest.raises(kind, match=text):
        verify(fp32_bundle)
