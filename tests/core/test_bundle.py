"""Bundles: what was sealed, and what was changed since."""

import dataclasses
import json
from pathlib import Path

import pytest

from edgeseed.core.bundle import GateResult, Manifest, TensorSpec, read_bundle, seal_bundle
from edgeseed.core.errors import (
    ArtifactError,
    SchemaVersionError,
    UsageError,
)
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.records import Provenance


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
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


def test_a_bundle_comes_back_as_it_was_sealed(bundle: Path) -> None:
    read = read_bundle(bundle)
    assert read.manifest.inputs[0].shape == ("batch", 3, 32, 32)
    assert read.manifest.gates[0].value == 1e-6
    assert read.model_size_bytes == 5
    roles = {name: entry.role for name, entry in read.manifest.files.items()}
    assert roles == {"model.onnx": "ship", "reference/student.safetensors": "proof"}


def test_one_changed_byte_is_found_and_the_file_named(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"modem")
    with pytest.raises(ArtifactError, match=r"model\.onnx was changed after the export"):
        read_bundle(bundle)


def test_missing_and_added_files_are_found(bundle: Path) -> None:
    (bundle / "extra.txt").write_text("x")
    with pytest.raises(ArtifactError, match=r"extra\.txt is not listed"):
        read_bundle(bundle)
    (bundle / "extra.txt").unlink()
    (bundle / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx is missing"):
        read_bundle(bundle)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"schema_version": 1}'])
def test_a_manifest_that_is_none_is_an_artifact_error(bundle: Path, content: str) -> None:
    (bundle / "manifest.json").write_text(content)
    with pytest.raises(ArtifactError):
        read_bundle(bundle)


def test_a_newer_bundle_is_refused(bundle: Path) -> None:
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
def test_a_bundle_of_another_version_names_the_one_that_reads_it(
    bundle: Path, change: dict[str, int], message: str
) -> None:
    values = json.loads((bundle / "manifest.json").read_text())
    values["provenance"] = {"environment": {"edgeseed": "9.9"}}
    (bundle / "manifest.json").write_text(json.dumps({**values, **change}))
    with pytest.raises(SchemaVersionError, match=message):
        read_bundle(bundle)


def test_the_model_digest_depends_on_the_model_alone(bundle: Path) -> None:
    before = read_bundle(bundle)
    seal_bundle(bundle, dataclasses.replace(before.manifest, name="other"))
    assert read_bundle(bundle).digest == before.digest
    (bundle / "model.onnx").write_bytes(b"modem")
    seal_bundle(bundle, before.manifest)
    assert read_bundle(bundle).digest != before.digest


def test_a_folder_that_is_no_bundle_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no manifest\.json"):
        read_bundle(tmp_path)
