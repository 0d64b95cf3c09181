"""What `verify` says of bundles that another edgeseed made."""

import copy
import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from support.export import save_tiny_student
from torch import nn

from edgeseed.core.bundle import (
    MODEL_CARD,
    PHOTOS_FILE,
    SIMULATED_FILE,
    GateResult,
    read_bundle,
    seal_bundle,
)
from edgeseed.core.errors import ArtifactError, GateError, SchemaVersionError, UsageError
from edgeseed.core.network import StudentNetwork, build_student, load_student, save_student
from edgeseed.export import verify
from edgeseed.export.bundling.writer import seal, write_photos
from edgeseed.export.proof.verify import VerifyResult, advice, read_proof
from edgeseed.export.samples import Photos
from edgeseed.export.targets import TARGETS


def made_by(bundle: Path, version: str, **changes: Any) -> None:
    manifest = read_bundle(bundle, check=False).manifest
    environment = {**manifest.provenance.environment, "edgeseed": version}
    provenance = dataclasses.replace(manifest.provenance, environment=environment)
    seal_bundle(bundle, dataclasses.replace(manifest, provenance=provenance, **changes))


@pytest.mark.parametrize("changes", [{"target": "webnn"}, {"precision": "int4"}])
def test_a_target_or_precision_of_another_version_is_named_with_it(
    fp32_bundle: Path, changes: dict[str, str]
) -> None:
    made_by(fp32_bundle, "9.9", **changes)
    with pytest.raises(SchemaVersionError, match=r"has no target .* made by edgeseed 9\.9"):
        verify(fp32_bundle)


def test_another_version_that_this_one_understands_is_verified(fp32_bundle: Path) -> None:
    made_by(fp32_bundle, "0.0.9")
    assert verify(fp32_bundle).passed


def test_a_gate_that_fails_says_if_another_version_made_the_bundle(fp32_bundle: Path) -> None:
    gates = read_bundle(fp32_bundle).manifest.gates
    edited = tuple(dataclasses.replace(gate, limit=gate.limit + 1) for gate in gates)
    made_by(fp32_bundle, "0.0.9", gates=edited)
    with pytest.raises(GateError, match=r"made by edgeseed 0\.0\.9, this is .*edgeseed==0\.0\.9"):
        verify(fp32_bundle)


def test_a_bundle_is_held_to_a_student_from_outside(
    int8_bundle: Path, student: Path, many_photos: Path
) -> None:
    result = verify(int8_bundle, against=student, data=many_photos)
    assert result.passed
    assert result.notes == ()
    names = {gate.name for gate in result.gates}
    assert {"logits_rms", "logits_kl", "low_cosine", "scale", "channels"} <= names
    # What the bundle says of itself is not asked.
    assert "recorded" not in names


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ("cat", "dog")}, "values of logits"),
        ({"channels": 1}, "it takes photos of"),
        ({"width": 8}, "it takes photos of"),
    ],
    ids=["classes", "channels", "width"],
)
def test_a_student_of_another_form_is_one_line(
    int8_bundle: Path, student: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    # It was a traceback of shapes that do not go together.
    network, spec = load_student(student)
    if "classes" in changes:
        network.head = nn.Linear(spec.embedding_dim, len(changes["classes"]))
        spec = dataclasses.replace(spec, classes=changes["classes"])
    elif "width" in changes:
        spec = dataclasses.replace(
            spec, preprocess=dataclasses.replace(spec.preprocess, width=changes["width"])
        )
    else:
        architecture = dataclasses.replace(
            spec.architecture, kwargs={**spec.architecture.kwargs, "in_chans": 1}
        )
        assert spec.classes is not None
        network = build_student(architecture, num_classes=len(spec.classes))
        preprocess = dataclasses.replace(spec.preprocess, mean=(0.5,), std=(0.5,))
        spec = dataclasses.replace(spec, architecture=architecture, preprocess=preprocess)
    save_student(tmp_path / "other.safetensors", network, spec)
    with pytest.raises(ArtifactError, match=f"was not made from .*{said}"):
        verify(int8_bundle, against=tmp_path / "other.safetensors")


def test_another_student_is_not_the_bundles(
    int8_bundle: Path, network: StudentNetwork, tmp_path: Path
) -> None:
    other = copy.deepcopy(network)
    assert other.head is not None
    with torch.no_grad():
        other.head.weight.mul_(3)
    path = save_tiny_student(tmp_path / "other.safetensors", other)
    with pytest.raises(GateError, match="is not the student that was exported"):
        verify(int8_bundle, against=path)


@pytest.mark.slow
def test_limits_that_were_lowered_everywhere_do_not_hold_against_a_student(
    int8_bundle: Path, student: Path
) -> None:
    """Whoever lowers a limit in the gates and in the settings alike is told, and no more."""
    manifest = read_bundle(int8_bundle).manifest
    settings = dataclasses.replace(manifest.provenance.export, min_agreement=0.5)
    gates = tuple(
        dataclasses.replace(gate, limit=0.5) if gate.name == "top1_agreement" else gate
        for gate in manifest.gates
    )
    provenance = dataclasses.replace(manifest.provenance, export=settings)
    seal(int8_bundle, dataclasses.replace(manifest, gates=gates, provenance=provenance))
    assert "--min-agreement 0.5" in verify(int8_bundle).notes[0]
    (agreement,) = [
        gate for gate in verify(int8_bundle, against=student).gates if gate.name == "top1_agreement"
    ]
    assert agreement.limit == 0.98


def test_a_student_from_outside_comes_with_limits_from_outside(
    int8_bundle: Path, student: Path
) -> None:
    # A sound EfficientNet-Lite0 that was exported with --min-agreement 0.85 could not be held to
    # its student at all: the limit was 0.98 for everyone.
    result = verify(int8_bundle, against=student, min_agreement=0.5, max_drop=3)
    limits = {gate.name: gate.limit for gate in result.gates}
    assert limits["top1_agreement"] == 0.5
    assert "judged by --min-agreement 0.5, as you asked; the default is 0.98" in result.notes
    assert "judged by --max-drop 3, as you asked; the default is 1" in result.notes


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"min_agreement": 0.9}, "--min-agreement belongs to --against STUDENT"),
        ({"max_drop": 2.0}, "--max-drop belongs to --against STUDENT"),
        ({"against": "s", "min_agreement": 95.0}, "--min-agreement is 95; it is a share"),
        ({"against": "s", "min_agreement": float("nan")}, "--min-agreement is nan"),
        ({"against": "s", "max_drop": -1.0}, "--max-drop is -1; it is points"),
    ],
)
def test_a_limit_that_makes_no_sense_is_one_line(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        verify("no such bundle", **limits)


def test_an_agreement_is_not_asked_of_a_float_bundle(made_fp32: Path, student: Path) -> None:
    with pytest.raises(UsageError, match=r"is for w8 and int8; this bundle is fp32, .* leave it"):
        verify(made_fp32, against=student, min_agreement=0.9)
    assert verify(made_fp32, against=student, max_drop=2.0).passed


def test_fewer_proof_photos_than_were_recorded_are_told(int8_bundle: Path) -> None:
    proof = read_proof(int8_bundle)
    few = Photos(pixels=proof.pixels[:20], labels=None)
    write_photos(int8_bundle / PHOTOS_FILE, few)
    with np.load(int8_bundle / SIMULATED_FILE) as arrays:
        np.savez(int8_bundle / SIMULATED_FILE, **{name: arrays[name][:20] for name in arrays})
    seal_bundle(int8_bundle, read_bundle(int8_bundle, check=False).manifest)
    with pytest.raises(GateError) as caught:
        verify(int8_bundle)
    assert isinstance(caught.value.result, VerifyResult)
    (recorded,) = [gate for gate in caught.value.result.gates if gate.name == "recorded"]
    assert "top1_agreement: n=32 recorded, 20 found" in recorded.detail
    assert "accuracy_drop is recorded, and cannot be computed any more" in recorded.detail


def test_an_edited_model_card_is_told(fp32_bundle: Path) -> None:
    card = fp32_bundle / MODEL_CARD
    text = card.read_text()
    card.write_text(text.replace("| parity |", "| parity of another |"))
    seal_bundle(fp32_bundle, read_bundle(fp32_bundle, check=False).manifest)
    with pytest.raises(
        GateError, match=r"contents .*failed: MODEL_CARD.md lacks the row '\| parity"
    ):
        verify(fp32_bundle)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("../outside.onnx", "is no path inside the bundle"),
        ("/etc/hostname", "is no path inside the bundle"),
        ("missing.onnx", "is none of the bundle's files"),
    ],
)
def test_a_model_outside_the_bundle_is_refused(fp32_bundle: Path, model: str, problem: str) -> None:
    # verify passed, and profile measured a model of size 0 with the digest of nothing.
    manifest = read_bundle(fp32_bundle).manifest
    shutil.copy(fp32_bundle / "model.onnx", fp32_bundle.parent / "outside.onnx")
    seal_bundle(fp32_bundle, dataclasses.replace(manifest, model=model))
    with pytest.raises(ArtifactError, match=rf"'{re.escape(model)}',? {problem}"):
        verify(fp32_bundle)


def test_a_link_in_a_bundle_is_refused(fp32_bundle: Path) -> None:
    model = fp32_bundle / "model.onnx"
    model.rename(fp32_bundle.parent / "elsewhere.onnx")
    model.symlink_to(fp32_bundle.parent / "elsewhere.onnx")
    with pytest.raises(ArtifactError, match=r"model\.onnx is a symbolic link"):
        verify(fp32_bundle)


def edit_onnx(bundle: Path, edit: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(bundle / "model.onnx")
    edit(model)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    seal_bundle(bundle, read_bundle(bundle, check=False).manifest)


def _labels(model: onnx.ModelProto) -> None:
    item = next(item for item in model.metadata_props if item.key == "edgeseed.labels")
    item.value = '["a", "b", "c", "d"]'


def _unread_weight(model: onnx.ModelProto) -> None:
    weight = np.ones(4, np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "watermark"))


def _ir_version(model: onnx.ModelProto) -> None:
    model.ir_version = 9


def _preprocess(model: onnx.ModelProto) -> None:
    item = next(item for item in model.metadata_props if item.key == "edgeseed.preprocess")
    item.value = item.value.replace("bicubic", "bilinear")


def _identity_that_nothing_reads(model: onnx.ModelProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Identity", ["embedding"], ["copy"]))


def _domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (_labels, "metadata edgeseed.labels: is"),
        (_preprocess, "metadata edgeseed.preprocess: is"),
        (_unread_weight, "watermark: is a weight that nothing reads"),
        (_ir_version, "IR version: is 9, the manifest says 8"),
        (_identity_that_nothing_reads, "computes what nothing reads"),
        (_domain, "com.microsoft: is a domain"),
    ],
)
def test_what_a_file_says_beside_its_numbers_is_compared(
    fp32_bundle: Path, edit: Callable[[onnx.ModelProto], None], problem: str
) -> None:
    edit_onnx(fp32_bundle, edit)
    with pytest.raises(GateError, match=rf"contents .*failed: .*{re.escape(problem)}"):
        verify(fp32_bundle)


def test_a_minimum_runtime_that_the_file_does_not_have_is_told(fp32_bundle: Path) -> None:
    manifest = read_bundle(fp32_bundle).manifest
    older = dataclasses.replace(manifest, minimum_runtime={"onnxruntime": "1.2"})
    seal_bundle(fp32_bundle, older)
    with pytest.raises(GateError, match=r"minimum runtime: is .*the manifest says"):
        verify(fp32_bundle)


@pytest.mark.parametrize(("precision", "learns"), [("int8", True), ("w8", False), ("fp16", False)])
def test_only_int8_is_advised_to_learn(precision: str, learns: bool) -> None:
    gate = GateResult(
        name="top1_agreement", value=0.9, limit=0.98, passed=False, unit="share of photos", n=256
    )
    said = advice(gate, TARGETS.load("onnx"), precision)
    assert said.startswith("let int8 learn with --recover, try more" if learns else "try more")
