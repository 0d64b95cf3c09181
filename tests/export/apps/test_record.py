import json
from typing import Any

import pytest

from edgeseed.core.bundle import TensorSpec
from edgeseed.core.errors import ArtifactError, SchemaVersionError
from edgeseed.core.preprocess import Preprocess
from edgeseed.export.apps.contents import ModelFacts
from edgeseed.export.apps.record import ModuleFile, ModuleRecord


def record() -> ModuleRecord:
    image = TensorSpec(name="image", shape=("batch", 3, 16, 16), dtype="float32", semantics="RGB")
    facts = ModelFacts(
        module="birds",
        architecture="tiny",
        target="onnx",
        precision="fp32",
        scheme=None,
        model="model.onnx",
        input=image,
        outputs=(image,),
        preprocess=Preprocess(image_size=16, resize=16),
        embedding_dim=8,
        num_classes=0,
        golden_tolerance=1e-4,
        minimum_runtime={"onnxruntime": "1.14"},
        bundle_digest="0" * 64,
        student_sha256="1" * 64,
        edgeseed="0.1.0",
    )
    return ModuleRecord(
        platform="web",
        model=facts,
        manifest_sha256="2" * 64,
        sealed={"model.onnx": "3" * 64},
        files={"assets/model.onnx": ModuleFile(role="model", sha256="3" * 64, size_bytes=7)},
    )


def test_a_record_survives_its_json() -> None:
    plain = json.loads(json.dumps(record().to_dict()))
    assert ModuleRecord.from_dict(plain, what="module.json") == record()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("platform",), 3),
        (("bundle", "files"), []),
        (("bundle", "files", "model.onnx"), None),
        (("files", "assets/model.onnx"), {"role": "model"}),
        (("files", "assets/model.onnx", "sha256"), 5),
        (("model", "preprocess"), None),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_file_named(
    place: tuple[str, ...], value: Any
) -> None:
    plain = record().to_dict()
    owner = plain
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = value
    with pytest.raises(ArtifactError, match=r"module\.json"):
        ModuleRecord.from_dict(plain, what="module.json")


def test_a_record_of_another_version_is_refused_with_its_version() -> None:
    with pytest.raises(SchemaVersionError, match="schema version 9"):
        ModuleRecord.from_dict({**record().to_dict(), "schema_version": 9}, what="module.json")
