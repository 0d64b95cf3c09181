"""Probabilities and best classes beside the logits, and files that compute them wrongly."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from support.export import CLASSES, save_tiny_student, tiny_student

from edgeseed.cli._main import cli
from edgeseed.core.bundle import read_bundle, seal_bundle
from edgeseed.core.errors import ArtifactError, GateError, UsageError
from edgeseed.export import embed, export, verify, verify_module
from edgeseed.export.added_outputs import added_problems, parse_added

BundleOf = Callable[[str, str], Path]


def outputs_of(logits: Any) -> dict[str, Any]:
    """What a sound file gives for `probabilities` and `top2`."""
    logits = np.asarray(logits, np.float32)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :2].astype(np.int32)
    return {
        "logits": logits, "probabilities": shares, "top2_indices": order,
        "top2_probabilities": np.take_along_axis(shares, order.astype(np.int64), axis=1),
    }  # fmt: skip


ADDED = parse_added(["probabilities,top2"])


def test_what_follows_from_the_logits_has_no_problem() -> None:
    assert added_problems(outputs_of([[1, 3, 2], [0, -1, 5]]), ADDED) == []


def test_either_of_two_equal_classes_may_come_first() -> None:
    outputs = outputs_of([[2, 2, 0], [200, 0, 1]])
    outputs["top2_indices"] = np.array([[1, 0], [0, 1]], np.int32)  # e^-199 and e^-200 are both 0
    assert added_problems(outputs, ADDED) == []


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("probabilities", lambda v: v.T @ v, "not the softmax of each photo's logits"),
        ("probabilities", lambda v: v * np.nan, "not the softmax"),
        ("top2_probabilities", lambda v: v[:, ::-1], "not the 2 largest probabilities"),
        ("top2_indices", lambda v: v[:, ::-1], "has the largest last"),
        ("top2_indices", lambda v: v + 1, "counts classes from 1"),
        ("top2_indices", lambda v: v * 0, "photo 0 has [0, 0], meant were [1, 2]"),
        ("top2_indices", lambda v: v - 7, "does not name the 2 likeliest classes"),
    ],
)
def test_each_mistake_is_named(name: str, change: Any, problem: str) -> None:
    outputs = outputs_of([[1, 3, 2], [0, -1, 5], [9, 1, 2]])
    outputs[name] = change(outputs[name])
    (found,) = added_problems(outputs, ADDED)
    assert found.startswith(f"{name} ")
    assert problem in found


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["scores"], "'scores' is none of probabilities and topK, such as top5"),
        (["logits"], "embedding and logits are always there"),
        (["top0"], "'top0' is none of"),
        ([","], "',' is none of"),
        ([""], "'' is none of"),
        (["top2", "probabilities,top2"], "top2 is given twice"),
        (["top5"], "this student has 4 classes; ask for top4 at most"),
    ],
)
def test_outputs_that_cannot_be_are_refused_in_one_line(
    student: Path, tmp_path: Path, asked: list[str], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        export(student, out=tmp_path / "out", add_outputs=asked)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_student_without_classes_has_no_probabilities(tmp_path: Path) -> None:
    student = save_tiny_student(tmp_path / "student.safetensors", tiny_student(head=False))
    with pytest.raises(UsageError, match="this student has no classes, it gives an embedding"):
        export(student, out=tmp_path / "out", add_outputs=["top1"])


def test_the_command_takes_several_with_commas_and_explain_reads_such_a_bundle(
    student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    command = ["export", str(student), "--add-outputs", "top1,probabilities", "--out", str(out)]
    assert CliRunner().invoke(cli, [*command, "--batch", "1", "--json"]).exit_code == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["provenance"]["export"]["add_outputs"] == ["top1", "probabilities"]
    outputs = [(each["name"], each["shape"], each["dtype"]) for each in manifest["outputs"][2:]]
    assert outputs == [
        ("top1_probabilities", [1, 1], "float32"), ("top1_indices", [1, 1], "int32"),
        ("probabilities", [1, len(CLASSES)], "float32"),
    ]  # fmt: skip
    card = (out / "MODEL_CARD.md").read_text()
    assert "| `top1_indices` | [1, 1] | int32 | their classes: lines of labels.txt" in card
    assert verify(out, against=student).passed
    assert CliRunner().invoke(cli, ["explain", str(out)]).exit_code == 0


# ------------------------------------------------------------------ planted faults


def node_of(model: onnx.ModelProto, kind: str) -> onnx.NodeProto:
    found: list[onnx.NodeProto] = [each for each in model.graph.node if each.op_type == kind]
    return found[-1]


def set_attribute(node: onnx.NodeProto, name: str, value: int) -> None:
    (attribute,) = [each for each in node.attribute if each.name == name]
    attribute.i = value


def softmax_over_photos(model: onnx.ModelProto) -> None:
    set_attribute(node_of(model, "Softmax"), "axis", 0)


def smallest_first(model: onnx.ModelProto) -> None:
    set_attribute(node_of(model, "TopK"), "largest", 0)


def count_from_one(model: onnx.ModelProto) -> None:
    cast = node_of(model, "Cast")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.int64), "one"))
    model.graph.node.remove(cast)
    model.graph.node.append(onnx.helper.make_node("Add", [cast.input[0], "one"], ["moved"]))
    cast.input[0] = "moved"
    model.graph.node.append(cast)


def no_softmax(model: onnx.ModelProto) -> None:
    softmax = node_of(model, "Softmax")
    softmax.op_type = "Sigmoid"
    del softmax.attribute[:]


def swap_the_labels(model: onnx.ModelProto) -> None:
    """Two classes change places in what is read as probabilities alone."""
    order = onnx.numpy_helper.from_array(np.array([1, 0, 2, 3], np.int64), "order")
    model.graph.initializer.append(order)
    gather = onnx.helper.make_node("Gather", ["logits", "order"], ["swapped"], axis=1)
    softmax = node_of(model, "Softmax")
    softmax.input[0] = "swapped"
    model.graph.node.insert(list(model.graph.node).index(softmax), gather)


def long_indices(model: onnx.ModelProto) -> None:
    set_attribute(node_of(model, "Cast"), "to", onnx.TensorProto.INT64)
    model.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.INT64


ONNX_FAULTS = [
    (softmax_over_photos, "probabilities is not the softmax of each photo's logits"),
    (smallest_first, "top3_probabilities is not the 3 largest probabilities"),
    (count_from_one, "top3_indices counts classes from 1"),
    (no_softmax, "probabilities is not the softmax"),
    (swap_the_labels, "probabilities is not the softmax"),
    (long_indices, "'int64'.* the manifest says .*'int32'"),
]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("edit", "message"), ONNX_FAULTS, ids=[edit.__name__ for edit, _ in ONNX_FAULTS]
)
def test_a_fault_in_an_onnx_file_is_caught_and_named(
    added_of: BundleOf, tmp_path: Path, precision: str, edit: Any, message: str
) -> None:
    bundle = Path(shutil.copytree(added_of("onnx", precision), tmp_path / "bundle"))
    model = onnx.load(bundle / "model.onnx")
    edit(model)
    onnx.save(model, bundle / "model.onnx")
    seal_bundle(bundle, read_bundle(bundle, check=False).manifest)
    with pytest.raises((GateError, ArtifactError), match=message):
        verify(bundle)
    with pytest.raises((GateError, ArtifactError), match=message):
        verify(bundle, against=bundle / "reference/student.safetensors")


@pytest.mark.parametrize("batch", ["dynamic", 1])
def test_a_softmax_over_photos_is_caught_also_where_there_is_one_photo(
    student: Path, tmp_path: Path, batch: Any
) -> None:
    bundle = tmp_path / "bundle"
    export(student, out=bundle, add_outputs=["top2"], batch=batch)
    model = onnx.load(bundle / "model.onnx")
    softmax_over_photos(model)
    onnx.save(model, bundle / "model.onnx")
    seal_bundle(bundle, read_bundle(bundle, check=False).manifest)
    with pytest.raises(GateError, match="top2_probabilities is not the 2 largest probabilities"):
        verify(bundle)


def change_file(bundle: Path, edit: Callable[[Any], None]) -> None:
    """Changes a LiteRT file, and puts the digests right."""
    from edgeseed.export.targets.litert.flatbuffer import File, pack

    file = File((bundle / "model.tflite").read_bytes())
    edit(file)
    (bundle / "model.tflite").write_bytes(pack(file.model))
    seal_bundle(bundle, read_bundle(bundle, check=False).manifest)


def operator_of(file: Any, kind: str) -> Any:
    at = [number for number, each in enumerate(file.operators) if each.kind == kind][-1]
    return file.graph.operators[at]


def half_the_temperature(file: Any) -> None:
    operator_of(file, "SOFTMAX").builtinOptions.beta = 2.0


def best_of_the_logits(file: Any) -> None:
    """The scores of the best classes are read as their probabilities."""
    top, softmax = operator_of(file, "TOPK_V2"), operator_of(file, "SOFTMAX")
    top.inputs = np.array([softmax.inputs[0], top.inputs[1]], np.int32)


def another_softmax(file: Any) -> None:
    """The one axis that LiteRT's softmax takes, of a tensor whose axes were swapped."""
    softmax = operator_of(file, "SOFTMAX")
    logits, shares = file.tensors[softmax.inputs[0]], file.tensors[softmax.outputs[0]]
    count = int(logits.shape[1])
    copies: list[int] = []
    for source, shape in ((logits, [count, 1]), (shares, [count, 1])):
        tensor = type(source)()
        tensor.name, tensor.type, tensor.buffer = f"turned{len(copies)}", source.type, 0
        tensor.shape, tensor.hasRank = np.array(shape, np.int32), True
        file.tensors.append(tensor)
        copies.append(len(file.tensors) - 1)
    kind = file.operators[0].kind
    assert kind != "RESHAPE"
    schema = __import__("ai_edge_litert.schema_py_generated", fromlist=["OperatorCodeT"])
    number = schema.BuiltinOperator.RESHAPE
    code = schema.OperatorCodeT(deprecatedBuiltinCode=number, builtinCode=number, version=1)
    file.model.operatorCodes.append(code)

    def reshape(source: int, result: int, shape: list[int]) -> Any:
        made = schema.OperatorT()
        made.opcodeIndex = len(file.model.operatorCodes) - 1
        made.inputs, made.outputs = np.array([source], np.int32), np.array([result], np.int32)
        made.builtinOptionsType = schema.BuiltinOptions.ReshapeOptions
        made.builtinOptions = schema.ReshapeOptionsT()
        made.builtinOptions.newShape = np.array(shape, np.int32)
        return made

    source, result = int(softmax.inputs[0]), int(softmax.outputs[0])
    softmax.inputs, softmax.outputs = np.array(copies[:1]), np.array(copies[1:])
    at = file.graph.operators.index(softmax)
    file.graph.operators.insert(at + 1, reshape(copies[1], result, [1, count]))
    file.graph.operators.insert(at, reshape(source, copies[0], [count, 1]))


def swap_values_and_scores(file: Any) -> None:
    maps = file.model.signatureDefs[0].outputs
    by_name = {each.name.decode(): each for each in maps}
    first, second = by_name["top3_probabilities"], by_name["top3_indices"]
    first.tensorIndex, second.tensorIndex = second.tensorIndex, first.tensorIndex


LITERT_FAULTS = [
    (half_the_temperature, "probabilities is not the softmax"),
    (another_softmax, "probabilities is not the softmax .*add up to 4"),
    (best_of_the_logits, "top3_probabilities is not the 3 largest probabilities"),
    (swap_values_and_scores, "the manifest says"),
]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("edit", "message"), LITERT_FAULTS, ids=[edit.__name__ for edit, _ in LITERT_FAULTS]
)
def test_a_fault_in_a_litert_file_is_caught_and_named(
    added_of: BundleOf, tmp_path: Path, precision: str, edit: Any, message: str
) -> None:
    bundle = Path(shutil.copytree(added_of("litert", precision), tmp_path / "bundle"))
    change_file(bundle, edit)
    with pytest.raises((GateError, ArtifactError), match=message):
        verify(bundle)


def drop_from_the_settings(manifest: Any) -> Any:
    export = dataclasses.replace(manifest.provenance.export, add_outputs=["probabilities"])
    return dataclasses.replace(
        manifest, provenance=dataclasses.replace(manifest.provenance, export=export)
    )


def ask_for_what_there_is_not(manifest: Any) -> Any:
    export = dataclasses.replace(manifest.provenance.export, add_outputs=["bottom3"])
    return dataclasses.replace(
        manifest, provenance=dataclasses.replace(manifest.provenance, export=export)
    )


def drop_an_output(manifest: Any) -> Any:
    return dataclasses.replace(manifest, outputs=manifest.outputs[:-1])


def rename_a_meaning(manifest: Any) -> Any:
    last = dataclasses.replace(manifest.outputs[-1], semantics="scores")
    return dataclasses.replace(manifest, outputs=(*manifest.outputs[:-1], last))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_from_the_settings, "outputs in the manifest are"),
        (ask_for_what_there_is_not, "the manifest's provenance: --add-outputs 'bottom3'"),
        (drop_an_output, "the manifest says"),
        (rename_a_meaning, "outputs in the manifest are"),
    ],
)
def test_a_manifest_that_says_other_outputs_is_caught(
    added_of: BundleOf, tmp_path: Path, change: Any, message: str
) -> None:
    bundle = Path(shutil.copytree(added_of("onnx", "fp32"), tmp_path / "bundle"))
    seal_bundle(bundle, change(read_bundle(bundle).manifest))
    with pytest.raises((GateError, ArtifactError), match=message):
        verify(bundle)


def without_indices(arrays: dict[str, Any]) -> None:
    del arrays["top3_indices"]


def other_indices(arrays: dict[str, Any]) -> None:
    arrays["top3_indices"] = np.roll(arrays["top3_indices"], 1, axis=1)


@pytest.mark.parametrize("change", [without_indices, other_indices])
def test_golden_outputs_that_are_not_the_files_are_caught(
    added_of: BundleOf, tmp_path: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    bundle = Path(shutil.copytree(added_of("onnx", "fp32"), tmp_path / "bundle"))
    arrays = dict(np.load(bundle / "golden/model.npz"))
    change(arrays)
    np.savez(bundle / "golden/model.npz", **arrays)
    seal_bundle(bundle, read_bundle(bundle, check=False).manifest)
    with pytest.raises(GateError, match=r"golden/model.npz is not the model's output"):
        verify(bundle)


@pytest.mark.parametrize("platform", ["web", "android"])
def test_a_module_reads_what_it_knows_and_leaves_the_rest(
    added_of: BundleOf, tmp_path: Path, platform: str
) -> None:
    module = tmp_path / "birds"
    embed(added_of("onnx", "fp32"), platform=platform, out=module, name="birds")
    assert verify_module(module)
    facts = json.loads((module / "module.json").read_text())["model"]
    assert [each["name"] for each in facts["outputs"]] == ["embedding", "logits"]
    (description,) = module.rglob("golden.json")
    assert list(json.loads(description.read_text())["outputs"]) == ["embedding", "logits"]
    assert not list(module.rglob("top3_indices.npy"))


def test_a_comma_at_the_end_asks_for_nothing_more() -> None:
    # `--target onnx,` and all other lists of names were read so, and this one was refused.
    assert parse_added(["top5,"]) == parse_added(["top5"])
