"""A bundle for TensorRT: types, Q/DQ, the build's recipe, and what is found wrong without a GPU."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.shared import make_once

from edgeseed.core.bundle import read_bundle
from edgeseed.core.errors import ArtifactError, ConfigError, UsageError, WorkError
from edgeseed.core.network import load_student
from edgeseed.export import export, verify
from edgeseed.export.call import Batch
from edgeseed.export.program import build_program, output_names
from edgeseed.export.target import Precision, WriteRequest
from edgeseed.export.targets import TARGETS
from edgeseed.export.targets.tensorrt import support
from edgeseed.export.targets.tensorrt.model import TensorRTModel, lint_quantization
from edgeseed.export.targets.tensorrt.support import MADE_FOR, preflight
from edgeseed.export.targets.tensorrt.target import TensorRTOptions
from edgeseed.runtime.tensorrt_engines import EngineRecipe, sha256


def make(student: Path, photos: Path, out: Path, precision: Precision, **options: Any) -> Path:
    extra: dict[str, Any] = {"quantization": {"max_float_layers": 0}} if precision == "int8" else {}
    export(
        student, target="tensorrt", precision=precision, calibration=photos, out=out,
        options=options, **extra,
    )  # fmt: skip
    return out


@pytest.fixture(scope="session")
def made_int8_trt(
    tmp_path_factory: pytest.TempPathFactory, student: Path, many_photos: Path
) -> Path:
    return make_once(
        tmp_path_factory, "tensorrt-int8", lambda out: make(student, many_photos, out, "int8")
    )


def load(folder: Path) -> ModelProto:
    return onnx.load(folder / "model.onnx")


def types(model: ModelProto) -> Counter[int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return Counter(value.type.tensor_type.elem_type for value in inferred.value_info)


def test_the_graph_says_float16_between_float32_borders(made_tensorrt: Path) -> None:
    model = load(made_tensorrt)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 19)]
    borders = [*model.graph.input, *model.graph.output]
    assert {value.type.tensor_type.elem_type for value in borders} == {TensorProto.FLOAT}
    assert types(model)[TensorProto.FLOAT] == 0
    manifest = read_bundle(made_tensorrt).manifest
    assert manifest.minimum_runtime == {"tensorrt": "10.3"}
    assert {gate.name: gate.passed for gate in manifest.gates}["parity"]


def test_the_builder_reads_what_the_export_writes(made_tensorrt: Path) -> None:
    recipe = EngineRecipe.read(made_tensorrt / "build.json")
    assert recipe.model_sha256 == sha256(made_tensorrt / recipe.model)
    assert recipe.made_for == list(MADE_FOR)
    assert recipe.strongly_typed == {"10": "flag", "11": "always"}
    assert recipe.profiles == [
        {"image": {"min": [1, 3, 32, 32], "opt": [1, 3, 32, 32], "max": [8, 3, 32, 32]}}
    ]
    assert not recipe.tf32
    assert "build.json" in read_bundle(made_tensorrt).manifest.files


@pytest.mark.slow
def test_int8_reads_bytes_and_keeps_gates_and_head_in_float16(made_int8_trt: Path) -> None:
    model = load(made_int8_trt)
    kinds = types(model)
    assert kinds[TensorProto.FLOAT] == kinds[TensorProto.UINT8] == 0
    quantization = read_bundle(made_int8_trt).manifest.quantization
    assert quantization is not None
    convs = [name for name in quantization.float_operators if name.startswith("conv2d")]
    assert Counter(quantization.integer_operators.values())["conv"] + len(convs) == 17
    reasons = {quantization.float_operators[name][:25] for name in convs}
    assert reasons == {"it sees one position only"}
    assert "one position" in quantization.float_operators["linear"]
    scales = {node.input[1] for node in model.graph.node if node.op_type.endswith("quantizeLinear")}
    kept = {item.name: item for item in model.graph.initializer}
    assert {kept[name].data_type for name in scales} <= {TensorProto.FLOAT16}


def test_int8_agrees_with_the_student_and_with_its_simulation(
    made_int8_trt: Path, pixels: npt.NDArray[np.uint8]
) -> None:
    """The gates compare with the float student; the graph must also be the one that was chosen."""
    gates = {gate.name: gate for gate in read_bundle(made_int8_trt).manifest.gates}
    assert gates["top1_agreement"].value >= 0.98
    manifest = read_bundle(made_int8_trt).manifest
    model = TARGETS.load("tensorrt").open(made_int8_trt, manifest)
    student, spec = load_student(made_int8_trt / "reference" / "student.safetensors")
    program = build_program(student, spec.preprocess)
    with torch.no_grad():
        truth = program.module(check_guards=False)(torch.from_numpy(pixels.astype(np.float32)))[1]
    found = model.infer(pixels)["logits"]
    assert (found.argmax(axis=1) == truth.numpy().argmax(axis=1)).mean() >= 0.95
    assert model.lint() == ()


def test_a_copied_bundle_verifies_and_so_does_one_with_an_engine(
    made_int8_trt: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(made_int8_trt, tmp_path / "bundle"))
    (bundle / "engines" / "orin").mkdir(parents=True)
    (bundle / "engines" / "orin" / "model.engine").write_bytes(b"plan")
    assert "not TensorRT" in verify(bundle).runner


def test_an_edited_recipe_and_a_truncated_model_are_caught(
    made_tensorrt: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(made_tensorrt, tmp_path / "bundle"))
    text = (bundle / "build.json").read_text()
    (bundle / "build.json").write_text(text.replace("1024", "2048"))
    with pytest.raises(ArtifactError, match=r"build\.json was changed after the export"):
        verify(bundle)
    (bundle / "build.json").write_text(text)
    content = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(content[:-100])
    with pytest.raises(ArtifactError, match=r"model\.onnx was changed"):
        verify(bundle)


@pytest.mark.parametrize(
    ("precision", "batch", "way_out"),
    [
        ("fp32", 1, "--precision fp16"),
        ("int8", 1, "--precision fp16"),
        ("fp16", "dynamic", "--batch 1"),
    ],
)
def test_what_the_dla_cannot_is_refused_with_the_way_out(
    student: Path, photos: Path, tmp_path: Path, precision: str, batch: Any, way_out: str
) -> None:
    with pytest.raises(UsageError, match=way_out):
        export(
            student, target="tensorrt", precision=precision, batch=batch, calibration=photos,
            out=tmp_path / "out", options={"dla_core": "0"},
        )  # fmt: skip


def test_int8_for_the_dla_is_refused_before_a_photo_is_read(student: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the DLA takes no Q/DQ graph"):
        export(
            student, target="tensorrt", precision="int8", batch=1, out=tmp_path / "out",
            calibration=tmp_path / "none", options={"dla_core": 0},
        )  # fmt: skip


def test_a_profile_says_which_versions_and_which_accelerators_there_are(
    made_tensorrt: Path,
) -> None:
    manifest = read_bundle(made_tensorrt).manifest

    def for_device(name: str, **details: Any) -> TensorRTModel:
        settings = dataclasses.replace(manifest.provenance.export, profile=name)
        provenance = dataclasses.replace(manifest.provenance, export=settings, model=details)
        model = TARGETS.load("tensorrt").open(
            made_tensorrt, dataclasses.replace(manifest, provenance=provenance)
        )
        assert isinstance(model, TensorRTModel)
        return model

    assert for_device("jetson-orin-nano")._versions == ("10.3", "10.16")
    assert for_device("jetson-agx-orin", dla_core=1).lint() == ()
    with pytest.raises(UsageError, match="profile jetson-orin-nano has 0 DLA cores; leave it out"):
        for_device("jetson-orin-nano", dla_core=0)


def write(student: Path, folder: Path, *, batch: Batch = 1, **options: Any) -> Path:
    """The target's own files alone, without golden photos and gates."""
    network, spec = load_student(student)
    program = build_program(network, spec.preprocess, batch=batch)
    target = TARGETS.load("tensorrt")
    request = WriteRequest(
        program=program, output_names=output_names(program), spec=spec, precision="fp16",
        batch=batch, options={**target.options, **options},
    )  # fmt: skip
    folder.mkdir()
    target.write(request, folder)
    return folder


def test_one_batch_needs_no_profile_and_options_reach_the_recipe(
    student: Path, tmp_path: Path
) -> None:
    folder = write(
        student, tmp_path / "out", dla_core="1", gpu_fallback="false", workspace_mib="256"
    )
    recipe = EngineRecipe.read(folder / "build.json")
    assert recipe.profiles == []
    assert (recipe.dla_core, recipe.gpu_fallback, recipe.workspace_mib) == (1, False, 256)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"opset": 18}, "opset=18 is not from 19 to 20"),
        ({"opset": 21}, "opset=21 is not from 19 to 20"),
        ({"opt_batch": 9}, "opt_batch=9 is not between 1 and max_batch=8"),
        ({"workspace_mib": 0}, "workspace_mib=0 is not at least 1"),
    ],
)
def test_options_that_do_not_fit_say_what_does(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        TensorRTOptions(**changes)


# --------------------------------------------------------------------------- pre-flight and lint


def one_node(operator: str, kind: int = TensorProto.FLOAT, *, opset: int = 19) -> ModelProto:
    values = [helper.make_tensor_value_info(name, kind, [1, 4]) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x"], ["y"])], "g", [values[0]], [values[1]]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (one_node("Hardmax"), "y: TensorRT has no operator Hardmax"),
        (one_node("Relu", TensorProto.DOUBLE), "x: TensorRT has no type DOUBLE"),
        (one_node("Relu", opset=21), "opset 21: TensorRT 10.3 reads up to opset 20"),
    ],
)
def test_what_the_parser_would_refuse_is_found_without_it(model: ModelProto, problem: str) -> None:
    assert str(next(iter(preflight(model, versions=["10.3"])))) == problem


def test_a_network_with_an_operator_that_tensorrt_lacks_is_not_exported(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = support._OPERATORS - {"GlobalAveragePool"}
    monkeypatch.setattr(support, "_OPERATORS", known)
    with pytest.raises(WorkError, match=r"cannot build this network: .* GlobalAveragePool"):
        write(student, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def damaged(model: ModelProto, damage: str) -> ModelProto:
    constants = {item.name: item for item in model.graph.initializer}
    reader = next(
        node
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    )
    if damage == "zero point":
        name = reader.input[2]
        values = numpy_helper.to_array(constants[name]) + 1
        constants[name].CopyFrom(numpy_helper.from_array(values.astype(np.int8), name))
    elif damage == "axis":
        (axis,) = [item for item in reader.attribute if item.name == "axis"]
        axis.i = 1
    elif damage == "one scale":
        name = reader.input[1]
        one = numpy_helper.to_array(constants[name]).max().reshape(())
        constants[name].CopyFrom(numpy_helper.from_array(one, name))
    elif damage == "scale of what is read":
        written = {node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
        activation = next(node for node in model.graph.node if node.input[0] in written)
        scale = numpy_helper.to_array(constants[activation.input[1]]) * np.float16(1.1)
        model.graph.initializer.append(numpy_helper.from_array(scale, "damaged"))
        activation.input[1] = "damaged"
    else:
        conv = next(node for node in model.graph.node if node.op_type == "Conv")
        maker = next(node for node in model.graph.node if node.output[0] == conv.input[0])
        source = next(node for node in model.graph.node if node.output[0] == maker.input[0])
        conv.input[0] = source.input[0]  # around Q and DQ
    return model


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("zero point", "its zero point is not 0: TensorRT has no other"),
        ("one scale", "its weights have one scale, not one an output channel"),
        ("axis", "the scales of its weights do not lie along the output channels"),
        ("scale of what is read", "reads integers otherwise than they are written"),
        ("around", "were meant to read int8"),
    ],
)
def test_quantization_that_tensorrt_does_not_take_is_found(
    made_int8_trt: Path, damage: str, problem: str
) -> None:
    quantization = read_bundle(made_int8_trt).manifest.quantization
    assert quantization is not None
    assert list(lint_quantization(load(made_int8_trt), quantization)) == []
    findings = lint_quantization(damaged(load(made_int8_trt), damage), quantization)
    assert any(problem in str(finding) for finding in findings)


def test_float32_in_the_middle_is_found_unless_it_was_asked_for(
    student: Path, tmp_path: Path
) -> None:
    path = write(student, tmp_path / "out", float32="Sigmoid") / "model.onnx"
    assert TensorRTModel(path, batch=1, precision="fp16", float32=["Sigmoid"]).lint() == ()
    found = TensorRTModel(path, batch=1, precision="fp16").lint()
    assert {finding.problem for finding in found} == {"Sigmoid computes in float32"}


def test_a_model_of_another_bundle_is_refused(made_tensorrt: Path) -> None:
    manifest = read_bundle(made_tensorrt).manifest
    wider = dataclasses.replace(manifest.outputs[0], shape=("batch", 5))
    other = dataclasses.replace(manifest, outputs=(wider, *manifest.outputs[1:]))
    with pytest.raises(ArtifactError, match="belongs to another bundle"):
        TARGETS.load("tensorrt").open(made_tensorrt, other)


def test_the_manifest_remembers_how_it_was_written(made_tensorrt: Path) -> None:
    values = json.loads((made_tensorrt / "manifest.json").read_text())
    assert values["provenance"]["model"]["max_batch"] == 8
