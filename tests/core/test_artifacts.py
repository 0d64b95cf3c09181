"""Student files, bundles and the atomic writing below them."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgeseed.core import files
from edgeseed.core.bundle import GateResult, Manifest, TensorSpec, read_bundle, seal_bundle
from edgeseed.core.errors import (
    ArtifactError,
    ConfigError,
    SchemaVersionError,
    UnknownNameError,
    UsageError,
    WorkError,
)
from edgeseed.core.network import build_student, load_student, save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.records import Provenance
from edgeseed.core.student import Architecture, StudentSpec


@pytest.fixture
def spec() -> StudentSpec:
    return StudentSpec(
        architecture=Architecture(name="test_efficientnet"),
        preprocess=Preprocess(image_size=32, resize=36, interpolation="bicubic"),
        embedding_dim=256,
        classes=("cat", "dög"),
        provenance={"environment": {"edgeseed": "9.9"}},
        metrics=({"name": "knn", "value": 0.5, "n": 10},),
    )


@pytest.fixture
def student(tmp_path, spec) -> Path:
    path = tmp_path / "student.safetensors"
    save_student(path, build_student(spec.architecture, num_classes=2), spec)
    return path


def rewrite(path: Path, change) -> None:
    """Writes a student file anew with its JSON changed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        metadata = json.loads(file.metadata()["edgeseed"])
    change(metadata, tensors)
    save_file(tensors, path, metadata={"edgeseed": json.dumps(metadata)})


# ------------------------------------------------------------------ student files


def test_a_student_comes_back_as_it_was_saved(student, spec):
    network, loaded = load_student(student)
    assert loaded == spec
    assert not network.training
    output = network(torch.zeros(2, 3, 32, 32))
    assert output.embedding.shape == (2, 256)
    assert output.logits is not None
    assert output.logits.shape == (2, 2)


def test_a_specification_is_read_without_torch(student):
    code = (
        "import sys; from edgeseed.core.student import read_spec; "
        f"assert read_spec({str(student)!r}).architecture.name == 'test_efficientnet'; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_student_says_so(student, keep):
    student.write_bytes(student.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"not a whole safetensors file.*may be truncated"):
        load_student(student)


def test_a_student_of_a_newer_schema_names_the_version_that_reads_it(student):
    rewrite(student, lambda metadata, _: metadata.update(schema_version=99))
    with pytest.raises(
        SchemaVersionError, match=r"schema version 99.*edgeseed 9\.9.*pip install --upgrade"
    ):
        load_student(student)


def test_safetensors_of_another_origin_are_told_apart(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ArtifactError, match=r"not an edgeseed student.*NAME="):
        load_student(path)


def test_a_missing_student_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        load_student(tmp_path / "none.safetensors")


@pytest.mark.parametrize("change", ["drop", "add", "reshape"])
def test_every_weight_must_be_accounted_for(student, change):
    def apply(_, tensors):
        if change == "drop":
            del tensors["head.bias"]
        elif change == "add":
            tensors["extra"] = torch.zeros(1)
        else:
            tensors["head.bias"] = torch.zeros(7)

    rewrite(student, apply)
    with pytest.raises(ArtifactError, match="weights do not fit"):
        load_student(student)


def test_an_unknown_architecture_gets_the_nearest():
    with pytest.raises(
        UnknownNameError, match="unknown student 'mobilenetv3_larg_100'; did you mean"
    ):
        build_student(Architecture(name="mobilenetv3_larg_100"))


def test_arguments_that_a_model_does_not_take_are_an_error():
    with pytest.raises(ConfigError, match="cannot be built"):
        build_student(Architecture(name="test_efficientnet", kwargs={"no_such": 1}))


def test_a_head_without_class_names_is_refused(tmp_path, spec):
    with pytest.raises(ValueError, match="class names"):
        save_student(tmp_path / "x.safetensors", build_student(spec.architecture), spec)


# ------------------------------------------------------------------ bundles


@pytest.fixture
def bundle(tmp_path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "reference").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"model")
    (folder / "reference/student.safetensors").write_bytes(b"student")
    manifest = Manifest(
        name="test", target="onnx", precision="fp32", model="model.onnx",
        inputs=(
            TensorSpec(name="image", shape=("batch", 3, 32, 32), dtype="float32", semantics="RGB"),
        ),
        outputs=(), preprocess=Preprocess(image_size=32, resize=32), embedding_dim=4, classes=None,
        quantization=None,
        gates=(
            GateResult(name="parity", value=1e-6, limit=1e-4, passed=True, unit="relative", n=8),
        ),
        student_sha256="0", minimum_runtime={}, provenance=Provenance(),
    )  # fmt: skip
    seal_bundle(folder, manifest)
    return folder


def test_a_bundle_comes_back_as_it_was_sealed(bundle):
    read = read_bundle(bundle)
    assert read.manifest.inputs[0].shape == ("batch", 3, 32, 32)
    assert read.manifest.gates[0].value == 1e-6
    assert read.model_size_bytes == 5
    roles = {name: entry.role for name, entry in read.manifest.files.items()}
    assert roles == {"model.onnx": "ship", "reference/student.safetensors": "proof"}


def test_one_changed_byte_is_found_and_the_file_named(bundle):
    (bundle / "model.onnx").write_bytes(b"modem")
    with pytest.raises(ArtifactError, match=r"model\.onnx was changed after the export"):
        read_bundle(bundle)


def test_missing_and_added_files_are_found(bundle):
    (bundle / "extra.txt").write_text("x")
    with pytest.raises(ArtifactError, match=r"extra\.txt is not listed"):
        read_bundle(bundle)
    (bundle / "extra.txt").unlink()
    (bundle / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        read_bundle(bundle)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 1}'])
def test_a_manifest_that_is_none_is_an_artifact_error(bundle, content):
    (bundle / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError):
        read_bundle(bundle)


def test_a_newer_bundle_is_refused(bundle):
    values = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**values, "schema_version": 2}))
    with pytest.raises(SchemaVersionError, match="schema version 2, this edgeseed reads up to 1"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 0}, r"schema version 0, .* reads from 1 on; edgeseed==9\.9 reads it"),
        ({"watermark": 1}, r"does not know \(watermark\).* edgeseed==9\.9 reads it, or export"),
        ({"watermark": 1, "provenance": 3}, "the edgeseed that wrote it reads it"),
    ],
)
def test_a_bundle_of_another_version_names_the_one_that_reads_it(bundle, change, message):
    values = json.loads((bundle / "manifest.json").read_text())
    values["provenance"] = {"environment": {"edgeseed": "9.9"}}
    (bundle / "manifest.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(SchemaVersionError, match=message):
        read_bundle(bundle)


def test_the_model_digest_depends_on_the_model_alone(bundle):
    before = read_bundle(bundle)
    seal_bundle(bundle, dataclasses.replace(before.manifest, name="other"))
    assert read_bundle(bundle).digest == before.digest
    (bundle / "model.onnx").write_bytes(b"modem")
    seal_bundle(bundle, before.manifest)
    assert read_bundle(bundle).digest != before.digest


def test_a_folder_that_is_no_bundle_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"has no manifest\.json"):
        read_bundle(tmp_path)


# ------------------------------------------------------------------ writing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.json"]  # noqa: PTH208 - hidden files too


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path, code, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(code, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with (
        pytest.raises(WorkError, match="disk full while writing"),
        files.atomic_file(tmp_path / "a") as temporary,
    ):
        temporary.write_bytes(b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_really_full_disk_is_found():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(WorkError, match="disk full"), files.disk_errors(full):
        full.write_bytes(b"x" * 100)


def test_a_full_disk_is_found_behind_a_librarys_own_error(tmp_path):
    # torch.save: "RuntimeError: unexpected pos", raised while it cleans up after the disk's error.
    def save():
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos")

    with pytest.raises(WorkError, match="disk full"), files.disk_errors(tmp_path):
        save()


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(RuntimeError, match="mine"), files.disk_errors(tmp_path):
        raise RuntimeError("mine")


@pytest.mark.parametrize("below", ["file/new", "file/deep/new"])
def test_a_file_where_a_folder_should_be_is_one_line(tmp_path, below):
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(UsageError, match=r"cannot be made: .* is no folder .* choose another --out"),
        files.atomic_file(tmp_path / below),
    ):
        pass


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with (
        pytest.raises(ZeroDivisionError),
        files.atomic_directory(tmp_path / "out") as folder,
    ):
        (folder / "half").write_text(str(1 / 0))
    assert list(tmp_path.iterdir()) == []
    with files.atomic_directory(tmp_path / "out") as folder:
        (folder / "whole").write_text("x")
    assert (tmp_path / "out/whole").read_text() == "x"


def test_a_folder_in_use_is_not_overwritten_unless_asked(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("x")
    with (
        pytest.raises(UsageError, match="exists already"),
        files.atomic_directory(tmp_path / "out"),
    ):
        pass
    with files.atomic_directory(tmp_path / "out", replace=True) as folder:
        (folder / "new").write_text("y")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
