"""Papers of engines: which engine belongs to this device, and why others do not."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgeseed.runtime.engine import EngineError
from edgeseed.runtime.tensorrt_engines import (
    ENGINE_FILE,
    ENGINES_FOLDER,
    RECIPE,
    RECORD_FILE,
    EngineRecipe,
    Record,
    find_engine,
    make_logger,
    sha256,
    version_of,
)

from .conftest import recipe

CUDA = SimpleNamespace(name="Orin", compute_capability="8.7")
VERSION = "10.3.0.30"


def place(bundle: Path, **changes: Any) -> Path:
    """An engine with its papers; returns its folder."""
    content = b"engine of " + str(changes).encode()
    record = Record(
        gpu="Orin", compute_capability="8.7", tensorrt=VERSION, cuda="12.6", driver=None,
        system="aarch64", model_sha256=sha256(bundle / "model.onnx"),
        recipe_sha256=sha256(bundle / RECIPE), engine_sha256="", size_bytes=len(content),
        precision="fp32", dla_core=None, strongly_typed="flag", layers=None, num_layers=3,
        timing_cache_reused=False, seconds=1.0,
    )  # fmt: skip
    record = dataclasses.replace(record, **changes)
    folder = bundle / ENGINES_FOLDER / record.name
    folder.mkdir(parents=True)
    (folder / ENGINE_FILE).write_bytes(content)
    dataclasses.replace(record, engine_sha256=sha256(folder / ENGINE_FILE)).write(
        folder / RECORD_FILE
    )
    return folder


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A bundle for TensorRT without engines."""
    (tmp_path / "model.onnx").write_bytes(b"a network")
    (tmp_path / RECIPE).write_text(json.dumps(recipe(tmp_path)))
    return tmp_path


def find(bundle: Path) -> Path:
    return find_engine(bundle, cuda=CUDA, version=VERSION)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10.3.0.30", (10, 3)), ("11", (11, 0)), ("10.13+cuda12", (10, 13)), ("8.6.1+cuda11", (8, 6))],
)
def test_versions_are_read(text: str, expected: tuple[int, int]) -> None:
    assert version_of(text) == expected


def test_papers_come_back_as_they_were_written(built: Path) -> None:
    folder = place(built)
    record = Record.read(folder / RECORD_FILE)
    assert record.name == folder.name == "orin-sm8.7-trt10.3.0.30"
    assert EngineRecipe.read(built / RECIPE).model == "model.onnx"


def test_the_engine_of_this_device_is_found_among_others(built: Path) -> None:
    place(built, gpu="NVIDIA L4", compute_capability="8.9")
    own = place(built)
    assert find(built) == own / ENGINE_FILE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "Xavier"}, "it was built for GPU Xavier, here is Orin"),
        ({"compute_capability": "7.2"}, "compute capability 7.2, here is 8.7"),
        ({"tensorrt": "10.4.0"}, "TensorRT 10.4.0, here is 10.3.0.30"),
        ({"model_sha256": "0" * 64}, "it was built from another model"),
        ({"recipe_sha256": "0" * 64}, "build.json has changed since it was built"),
        ({"size_bytes": 5}, "model.engine is missing or truncated"),
    ],
)
def test_an_engine_of_another_kind_is_refused_with_the_reason(
    built: Path, changes: dict[str, Any], reason: str
) -> None:
    place(built, **changes)
    with pytest.raises(EngineError, match=r"has no engine for Orin .*edgeseed build") as caught:
        find(built)
    assert reason in str(caught.value)


def test_an_engine_that_was_changed_is_refused(built: Path) -> None:
    file = place(built) / ENGINE_FILE
    file.write_bytes(b"E" + file.read_bytes()[1:])
    with pytest.raises(EngineError, match=r"model\.engine was changed after it was built"):
        find(built)
    file.unlink()
    with pytest.raises(EngineError, match=r"model\.engine is missing or truncated"):
        find(built)


def test_a_bundle_without_engines_says_how_to_build_one(built: Path) -> None:
    with pytest.raises(EngineError, match=r"it has no engine at all.*edgeseed build BUNDLE"):
        find(built)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is missing or damaged .*export the bundle anew"),
        ("[]", "is missing or damaged"),
        ('{"schema_version": 9}', "has schema 9, this edgeseed reads 1; use a newer edgeseed"),
        ('{"schema_version": 1}', "is missing or damaged"),
    ],
)
def test_a_recipe_that_is_none_is_one_line(built: Path, content: str, message: str) -> None:
    (built / RECIPE).write_text(content)
    with pytest.raises(EngineError, match=message):
        EngineRecipe.read(built / RECIPE)


def test_of_many_complaints_the_first_is_the_reason() -> None:
    base = type("ILogger", (), {"ERROR": 1, "INTERNAL_ERROR": 0, "WARNING": 2})
    logger = make_logger(SimpleNamespace(ILogger=base))
    assert logger.reason == "TensorRT gave no reason"
    logger.log(2, "a warning")
    logger.log(1, "no\n  memory")
    logger.log(0, "so nothing works")
    assert logger.reason == "no memory"


def test_versions_are_compared_as_numbers() -> None:
    assert version_of("10.16") > version_of("10.3")


def test_a_record_of_a_newer_edgeseed_is_refused(tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text('{"schema_version": 2}')
    with pytest.raises(EngineError, match="has schema 2, this edgeseed reads 1"):
        Record.read(tmp_path / RECORD_FILE)
