"""Dataclasses from JSON, strictly; the schema says the same."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import jsonschema
import pytest

from edgeseed.core.errors import ArtifactError
from edgeseed.core.reading import read_record
from edgeseed.runtime.json_schema import json_schema


@dataclass(frozen=True)
class Part:
    size: int
    unit: str = "mm"

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"size={self.size} must not be negative")


@dataclass(frozen=True)
class Whole:
    text: str
    number: float
    is_on: bool
    kind: Literal["a", "b"]
    part: Part
    maybe: Part | None
    either: int | str
    samples: list[int]
    pair: tuple[int, str]
    parts: list[Part]
    table: dict[str, float]
    anything: Any = None
    names: list[str] = field(default_factory=list)


VALUES: dict[str, Any] = {
    "text": "t", "number": 2, "is_on": False, "kind": "b", "part": {"size": 3}, "maybe": None,
    "either": "x", "samples": [1, 2], "pair": [1, "a"], "parts": [{"size": 1, "unit": "m"}],
    "table": {"a": 1.5},
}  # fmt: skip
DERIVED = {"Part": ("area",)}


def read(**changes: Any) -> Whole:
    return read_record(Whole, {**VALUES, **changes}, what="it", derived=DERIVED)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in VALUES.items() if key != name}


def test_a_record_has_the_types_of_its_annotations() -> None:
    whole = read()
    assert whole == Whole(
        text="t", number=2.0, is_on=False, kind="b", part=Part(3), maybe=None, either="x",
        samples=[1, 2], pair=(1, "a"), parts=[Part(1, "m")], table={"a": 1.5},
    )  # fmt: skip
    assert type(whole.number) is float
    assert read(maybe={"size": 1}).maybe == Part(1)
    assert read(either=4).either == 4


def test_what_follows_from_the_fields_may_stand_in_a_file() -> None:
    assert read(part={"size": 3, "area": 9}).part == Part(3)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"text": 1}, "it: text is not a text: 1"),
    ({"number": math.nan}, "it: number is not a finite number: nan"),
    ({"number": True}, "it: number is not a finite number: True"),
    ({"is_on": 0}, "it: is_on is not true or false: 0"),
    ({"kind": "c"}, "it: kind is not one of a, b: 'c'"),
    ({"part": []}, "it: part is not an object: []"),
    ({"part": {"size": 1.0}}, "it: part: size is not a whole number: 1.0"),
    ({"part": {"unit": "m"}}, "it: part has no size"),
    ({"either": 1.5}, "it: either is not a text: 1.5"),
    ({"samples": [1, 2.0]}, "it: samples is not a list of whole numbers"),
    ({"samples": [True]}, "it: samples is not a list of whole numbers"),
    ({"pair": [1]}, "it: pair has 1 entries, 2 are expected"),
    ({"pair": [1, 2]}, "it: pair[1] is not a text: 2"),
    ({"parts": [{"size": "x"}]}, "it: parts[0]: size is not a whole number: 'x'"),
    ({"table": {"a": None}}, "it: table.'a' is not a finite number: None"),
    ({"table": [1]}, "it: table is not an object: [1]"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_what_does_not_fit_is_named_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        read(**changes)
    assert str(caught.value) == message


def test_a_field_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ArtifactError, match="it has an unknown field 'later'; another version"):
        read(later=1)


def test_a_missing_field_is_named_unless_it_has_a_default() -> None:
    with pytest.raises(ArtifactError, match="it has no samples"):
        read_record(Whole, without("samples"), what="it")
    assert read_record(Whole, VALUES, what="it").names == []


def test_a_record_that_refuses_its_values_says_why() -> None:
    with pytest.raises(ArtifactError, match="it: part: size=-1 must not be negative"):
        read(part={"size": -1})


def schema() -> dict[str, Any]:
    return json_schema(Whole, title="Whole", derived=DERIVED)


def test_the_schema_is_one_and_takes_what_is_read() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    jsonschema.validate(VALUES, schema())
    jsonschema.validate({**VALUES, "part": {"size": 3, "area": 9}}, schema())
    assert set(schema()["$defs"]["Whole"]["properties"]) == {
        each.name for each in dataclasses.fields(Whole)
    }


# JSON knows no NaN, and to its schemas 1.0 is a whole number.
BEYOND_JSON = ({"number": math.nan}, {"part": {"size": 1.0}}, {"samples": [1, 2.0]})


@pytest.mark.parametrize("changes", [c for c, _ in WRONG if c not in BEYOND_JSON])
def test_the_schema_refuses_what_is_not_read(changes: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**VALUES, **changes}, schema())
