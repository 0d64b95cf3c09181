"""Mistakes that have ruined deployed models, made on purpose, the digests put right again."""

import copy
import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgeseed.core.bundle import Manifest, read_bundle, seal_bundle
from edgeseed.core.errors import ArtifactError, GateError, WorkError
from edgeseed.core.network import StudentNetwork, load_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.export import verify
from edgeseed.export.golden import golden_inputs, read_golden
from edgeseed.export.graph import DeployableStudent, build_program, example_input, trace
from edgeseed.export.targets.onnx import convert_program

Constants = dict[str, np.ndarray]


def reseal(
    bundle: Path, change: Callable[[Manifest], Manifest] = lambda manifest: manifest
) -> None:
    """Digests that fit again, as if the exporter itself had made the mistake."""
    seal_bundle(bundle, change(read_bundle(bundle, check=False).manifest))


def edit_model(bundle: Path, edit: Callable[[onnx.GraphProto, Constants], None]) -> None:
    model = onnx.load(bundle / "model.onnx")
    constants = {
        item.name: onnx.numpy_helper.to_array(item).copy() for item in model.graph.initializer
    }
    edit(model.graph, constants)
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)


def replace_model(
    bundle: Path, change: Callable[[torch.nn.Module], None], preprocess: Preprocess | None = None
) -> None:
    """Exports the student again, with a mistake."""
    network, spec = load_student(bundle / "reference/student.safetensors")
    change(network)
    program = build_program(network, preprocess or spec.preprocess)
    model = convert_program(program, output_names=("embedding", "logits"), opset=18)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)


def nothing(network: torch.nn.Module) -> None:
    pass


def named(constants: Constants, *parts: str) -> str:
    return next(name for name in constants if all(part in name for part in parts))


def swap_channels(graph: onnx.GraphProto, constants: Constants) -> None:
    for name in (named(constants, "offset"), named(constants, "factor")):
        constants[name] = constants[name][:, ::-1].copy()
    stem = next(node for node in graph.node if node.op_type == "Conv").input[1]
    constants[stem] = constants[stem][:, ::-1].copy()


def drop_bias(graph: onnx.GraphProto, constants: Constants) -> None:
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    constants[convolutions[3].input[2]][:] = 0


def double_a_weight(graph: onnx.GraphProto, constants: Constants) -> None:
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    constants[convolutions[3].input[1]] *= 2
    constants[convolutions[3].input[2]] *= 2


def shuffle_head(graph: onnx.GraphProto, constants: Constants) -> None:
    head = next(node for node in graph.node if node.op_type == "Gemm")
    order = [1, 2, 3, 0]
    for name in head.input[1:]:
        constants[name] = constants[name][order]


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (swap_channels, "BGR in place of RGB"),
        (drop_bias, "conv2d_3: each channel is off by a constant, so a bias was dropped"),
        (double_a_weight, "conv2d_3: it is 2 times too large, so a scale is wrong"),
        (shuffle_head, "the head or the labels were shuffled"),
    ],
)
def test_a_fault_in_the_float_model_is_caught_and_named(
    fp32_bundle: Path, edit: Callable[[onnx.GraphProto, Constants], None], cause: str
) -> None:
    edit_model(fp32_bundle, edit)
    with pytest.raises(GateError, match="parity") as caught:
        verify(fp32_bundle)
    assert cause in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, "mean and std are 0.5"),
        ({"mean": (0.0, 0.0, 0.0)}, "mean is not subtracted"),
        ({"std": (1.0, 1.0, 1.0)}, "std is not divided by"),
        ({"mean": (0.406, 0.456, 0.485), "std": (0.225, 0.224, 0.229)}, "in the order BGR"),
        (
            {"mean": (0.001902, 0.001788, 0.001592), "std": (0.000898, 0.000878, 0.000882)},
            "no division by 255",
        ),
    ],
)  # fmt: skip
def test_wrong_normalisation_is_caught_and_named(
    fp32_bundle: Path, changes: dict[str, tuple[float, ...]], cause: str
) -> None:
    own = read_bundle(fp32_bundle).manifest.preprocess
    replace_model(fp32_bundle, nothing, dataclasses.replace(own, **changes))
    with pytest.raises(GateError, match="parity") as caught:
        verify(fp32_bundle)
    assert cause in str(caught.value)


def forget_statistics(network: torch.nn.Module) -> None:
    """Without running statistics a batch norm uses the batch's, also in eval mode."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = module.running_var = None


def test_batch_norm_in_training_mode_is_refused_by_the_export(network: StudentNetwork) -> None:
    network = copy.deepcopy(network)
    forget_statistics(network)
    with pytest.raises(WorkError, match=r"training mode.*call .eval"):
        build_program(network, Preprocess(image_size=32, resize=32))


def test_batch_norm_in_training_mode_is_caught_and_named(fp32_bundle: Path) -> None:
    student, spec = load_student(fp32_bundle / "reference/student.safetensors")
    forget_statistics(student)
    example = example_input(spec.preprocess.image_size, batch="dynamic")
    program = trace(DeployableStudent(student, spec.preprocess), example, batch="dynamic")
    model = convert_program(program, output_names=("embedding", "logits"), opset=18)
    (fp32_bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(fp32_bundle)
    with pytest.raises(GateError, match="parity") as caught:
        verify(fp32_bundle)
    assert "training mode" in str(caught.value)


def test_a_doubled_scale_in_an_int8_model_is_caught_and_named(int8_bundle: Path) -> None:
    def edit(graph: onnx.GraphProto, constants: Constants) -> None:
        readers = {node.output[0]: node for node in graph.node}
        convolution = [node for node in graph.node if node.op_type == "Conv"][3]
        for name in convolution.input[1:]:
            scale = readers[name].input[1]
            constants[scale] = constants[scale] * np.float32(2)

    edit_model(int8_bundle, edit)
    with pytest.raises(GateError) as caught:
        verify(int8_bundle)
    message = str(caught.value)
    assert re.search(r"conv2d_3: it is (1.9\d*|2|2.0\d*) times too large, so a scale", message), (
        message
    )


def test_stale_calibration_is_caught_and_names_the_layers(int8_bundle: Path) -> None:
    """Ranges from dark photos: every stored tensor saturates on bright ones."""

    def edit(graph: onnx.GraphProto, constants: Constants) -> None:
        names = {node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}
        for name in names:
            if constants[name] < 0.9:
                constants[name] = constants[name] * np.float32(0.15)

    edit_model(int8_bundle, edit)
    with pytest.raises(GateError, match=r"top1_agreement|embedding_cosine") as caught:
        verify(int8_bundle)
    assert "conv2d" in str(caught.value)
    assert "calibration photos" in str(caught.value)


def test_another_resize_mode_in_the_golden_inputs_is_caught(fp32_bundle: Path) -> None:
    own = read_bundle(fp32_bundle).manifest.preprocess
    golden = read_golden(fp32_bundle)
    other = golden_inputs(golden.photos, dataclasses.replace(own, interpolation="nearest"))
    np.save(fp32_bundle / "golden/inputs.npy", other)
    reseal(fp32_bundle)
    with pytest.raises(GateError, match=r"golden.*resize mode"):
        verify(fp32_bundle)


def test_another_resize_mode_in_the_manifest_is_caught(fp32_bundle: Path) -> None:
    def change(manifest: Manifest) -> Manifest:
        other = dataclasses.replace(manifest.preprocess, interpolation="bilinear")
        return dataclasses.replace(manifest, preprocess=other)

    reseal(fp32_bundle, change)
    with pytest.raises(
        GateError, match=r"preprocess.interpolation is bilinear in the manifest, bicubic"
    ):
        verify(fp32_bundle)


def test_shuffled_labels_are_caught(fp32_bundle: Path) -> None:
    (fp32_bundle / "labels.txt").write_text("green\nblue\nplain\nred\n")
    reseal(fp32_bundle)
    with pytest.raises(GateError, match=r"labels.txt is not the student's"):
        verify(fp32_bundle)


def test_an_edited_gate_is_caught(int8_bundle: Path) -> None:
    def change(manifest: Manifest) -> Manifest:
        better = tuple(dataclasses.replace(gate, limit=0.5) for gate in manifest.gates)
        return dataclasses.replace(manifest, gates=better)

    reseal(int8_bundle, change)
    with pytest.raises(GateError, match=r"recorded.*limit 0.5 recorded, 0.98 is in force"):
        verify(int8_bundle)


def test_one_changed_byte_is_caught_by_its_digest(fp32_bundle: Path) -> None:
    content = bytearray((fp32_bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (fp32_bundle / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model.onnx was changed"):
        verify(fp32_bundle)


def test_a_truncated_model_with_a_fitting_digest_is_caught(fp32_bundle: Path) -> None:
    content = (fp32_bundle / "model.onnx").read_bytes()
    (fp32_bundle / "model.onnx").write_bytes(content[: len(content) // 2])
    reseal(fp32_bundle)
    with pytest.raises(ArtifactError, match="truncated"):
        verify(fp32_bundle)


def test_another_student_in_the_bundle_is_caught(fp32_bundle: Path) -> None:
    path = fp32_bundle / "reference/student.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)
    reseal(fp32_bundle)
    with pytest.raises(GateError, match="is not the student that was exported"):
        verify(fp32_bundle)


def test_a_bundle_of_a_newer_edgeseed_is_refused(fp32_bundle: Path) -> None:
    path = fp32_bundle / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "schema_version": 99}))
    with pytest.raises(ArtifactError, match="schema version 99"):
        verify(fp32_bundle)
