"""The facts of a model that a module carries, and what may be its name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from support.manifests import some_manifest

from edgeseed.core.bundle import Bundle, TensorSpec
from edgeseed.core.errors import ArtifactError, UsageError
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.reading import read_record
from edgeseed.export.apps.contents import ModelFacts, model_facts


def facts(module: str | None = None, **changes: Any) -> ModelFacts:
    return model_facts(Bundle(path=Path("b"), manifest=some_manifest(**changes)), module=module)


def test_facts_survive_their_json() -> None:
    found = facts("birds")
    assert read_record(ModelFacts, json.loads(json.dumps(found.to_dict())), what="it") == found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": None}, "it: input is not an object: None"),
        ({"extra": 1}, "it has an unknown field 'extra'"),
        ({"preprocess": {}}, "it: preprocess has no image_size"),
    ],
)
def test_facts_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    values = json.loads(json.dumps(facts("birds").to_dict()))
    with pytest.raises(ArtifactError, match=message):
        read_record(ModelFacts, {**values, **change}, what="it")
    del values["outputs"]
    with pytest.raises(ArtifactError):
        read_record(ModelFacts, values, what="it")


def test_a_module_reads_no_outputs_but_the_students_own() -> None:
    outputs = some_manifest().outputs
    added = TensorSpec(name="top5_indices", shape=(1, 5), dtype="int32", semantics="")
    assert facts("birds", outputs=(*outputs, added)).outputs == outputs


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("int8", 5e-2)])
def test_golden_outputs_are_held_to_what_the_precision_keeps(
    precision: str, tolerance: float
) -> None:
    assert facts("birds", precision=precision).golden_tolerance == tolerance


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        ("test_efficientnet", "testefficientnet"), ("MobileNetV3-L", "mobilenetv3l"),
        ("3net", "model3net"), ("class", "modelclass"), ("x" * 60, "x" * 40),
    ],
)  # fmt: skip
def test_a_module_is_named_after_the_student(architecture: str, name: str) -> None:
    found = facts(name=architecture)
    assert found.module == name
    assert found.module_title == name[0].upper() + name[1:]


@pytest.mark.parametrize("name", ["", "Birds", "two words", "9birds", "class", "vite", "a" * 41])
def test_a_name_that_no_language_takes_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a module in every language"):
        facts(name)


def test_photos_of_four_channels_are_for_no_app() -> None:
    four = Preprocess(image_size=32, resize=36, mean=(0.5,) * 4, std=(0.5,) * 4)
    with pytest.raises(UsageError, match="takes photos of four channels, and cameras"):
        facts("birds", preprocess=dataclasses.replace(four))
