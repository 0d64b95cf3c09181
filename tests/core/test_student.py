"""Student files: what was saved, and what is none."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from edgeseed.core.errors import (
    ArtifactError,
    SchemaVersionError,
    UsageError,
)
from edgeseed.core.network import build_student, load_student, save_student
from edgeseed.core.preprocess import Preprocess
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
def student(tmp_path: Path, spec: StudentSpec) -> Path:
    path = tmp_path / "student.safetensors"
    save_student(path, build_student(spec.architecture, num_classes=2), spec)
    return path


Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]


def rewrite(path: Path, change: Change) -> None:
    """Writes a student file anew with its JSON changed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        metadata = json.loads(file.metadata()["edgeseed"])
    change(metadata, tensors)
    save_file(tensors, path, metadata={"edgeseed": json.dumps(metadata)})


def test_a_student_comes_back_as_it_was_saved(student: Path, spec: StudentSpec) -> None:
    network, loaded = load_student(student)
    assert loaded == spec
    assert not network.training
    output = network(torch.zeros(2, 3, 32, 32))
    assert output.embedding.shape == (2, 256)
    assert output.logits is not None
    assert output.logits.shape == (2, 2)


def test_a_specification_is_read_without_torch(student: Path) -> None:
    code = (
        "import sys; from edgeseed.core.student import read_spec; "
        f"assert read_spec({str(student)!r}).architecture.name == 'test_efficientnet'; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_student_says_so(student: Path, keep: int) -> None:
    student.write_bytes(student.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match=r"not a whole safetensors file.*may be truncated"):
        load_student(student)


def test_a_student_of_a_newer_schema_names_the_version_that_reads_it(student: Path) -> None:
    rewrite(student, lambda metadata, _: metadata.update(schema_version=99))
    with pytest.raises(
        SchemaVersionError, match=r"schema version 99.*edgeseed 9\.9.*pip install --upgrade"
    ):
        load_student(student)


def test_safetensors_of_another_origin_are_recognized(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ArtifactError, match=r"not an edgeseed student.*NAME="):
        load_student(path)


def test_a_missing_student_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_student(tmp_path / "none.safetensors")


@pytest.mark.parametrize("change", ["drop", "add", "reshape"])
def test_every_weight_must_be_accounted_for(student: Path, change: str) -> None:
    def apply(_: object, tensors: dict[str, torch.Tensor]) -> None:
        if change == "drop":
            del tensors["head.bias"]
        elif change == "add":
            tensors["extra"] = torch.zeros(1)
        else:
            tensors["head.bias"] = torch.zeros(7)

    rewrite(student, apply)
    with pytest.raises(ArtifactError, match="weights do not fit"):
        load_student(student)


def test_a_head_without_class_names_is_refused(tmp_path: Path, spec: StudentSpec) -> None:
    with pytest.raises(ValueError, match="class names"):
        save_student(tmp_path / "x.safetensors", build_student(spec.architecture), spec)
