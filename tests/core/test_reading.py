"""Records from JSON: what is taken, and what the one line says that is not."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest

from edgeseed.core.errors import ArtifactError
from edgeseed.core.reading import json_names, read_record


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    share: float
    name: str = "whole"

    def __post_init__(self) -> None:
        if self.share > 1:
            raise ValueError(f"share={self.share} is above 1")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tolerant:
    kept: Mapping[str, str] = dataclasses.field(default_factory=dict, metadata={"json": "float"})
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    count: int
    mode: Literal["a", "b"] = "a"
    size: int | str = 1
    on: bool = False
    part: Part | None = None
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = dataclasses.field(default_factory=dict)
    range: tuple[float, float] = (0.0, 1.0)
    samples: tuple[int, ...] = ()
    words: Sequence[str] = ()
    anything: Any = None
    block: Tolerant = dataclasses.field(default_factory=Tolerant)


def read(**values: Any) -> Whole:
    return read_record(Whole, {"count": 1, **values}, what="file.json")


def test_a_record_and_those_in_it_are_read_by_their_annotations() -> None:
    found = read(
        size="batch", part={"share": 1}, parts=[{"share": 0.5, "name": "x"}],
        by_name={"p": {"share": 0.25}}, range=[0, 2], samples=[3, 4], words=["u"],
        anything={"deep": [1, None]}, block={"float": {"layer": "why"}},
    )  # fmt: skip
    assert found == Whole(
        count=1, size="batch", part=Part(share=1.0), parts=(Part(share=0.5, name="x"),),
        by_name={"p": Part(share=0.25)}, range=(0.0, 2.0), samples=(3, 4), words=("u",),
        anything={"deep": [1, None]}, block=Tolerant(kept={"layer": "why"}),
    )  # fmt: skip
    assert found.part is not None
    assert isinstance(found.part.share, float)


def test_what_may_be_left_out_has_its_default() -> None:
    assert read() == Whole(count=1)


def test_what_another_version_has_besides_is_kept_where_the_record_says_so() -> None:
    found = read(block={"float": {}, "later": [1]})
    assert found.block.more == {"later": [1]}
    assert json_names(Tolerant) == {"float": "kept"}


def test_entries_that_follow_from_others_may_be_there() -> None:
    values = {"share": 0.5, "percent": 50}
    found = read_record(Part, values, what="it", derived={"Part": ("percent",)})
    assert found == Part(share=0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": "1"}, "file.json: count is not a whole number: '1'"),
        ({"count": 1.0}, "file.json: count is not a whole number: 1.0"),
        ({"count": True}, "file.json: count is not a whole number: True"),
        ({"on": 1}, "file.json: on is not true or false: 1"),
        ({"mode": "c"}, "file.json: mode is not one of a, b: 'c'"),
        ({"size": 1.5}, "file.json: size is not a text: 1.5"),
        ({"part": []}, "file.json: part is not an object: []"),
        ({"part": {}}, "file.json: part has no share"),
        ({"part": {"share": math.nan}}, "file.json: part: share is not a finite number: nan"),
        ({"part": {"share": 10**400}}, "file.json: part: share is not a finite number: 1000"),
        ({"part": {"share": 2}}, "file.json: part: share=2.0 is above 1"),
        ({"part": {"share": 1, "x": 2}}, "file.json: part has an unknown field 'x'"),
        ({"parts": [{"share": None}]}, "file.json: parts[0]: share is not a finite number: None"),
        ({"by_name": {"p": 3}}, "file.json: by_name.'p' is not an object: 3"),
        ({"range": [1]}, "file.json: range has 1 entries, 2 are expected"),
        ({"samples": [1, True]}, "file.json: samples is not a list of whole numbers"),
        ({"words": "abc"}, "file.json: words is not a list: 'abc'"),
        ({"anything": [math.inf]}, "file.json: anything is not a finite number: inf"),
        ({"block": {"later": math.nan}}, "file.json: block is not a finite number: nan"),
        ({"block": {"float": {"layer": 3}}}, "file.json: block: float.'layer' is not a text: 3"),
    ],
)
def test_the_error_names_file_and_field(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        read(**values)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_is_nested_without_end_is_refused() -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ArtifactError, match="nested more than 40 deep"):
        read(anything=deep)


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_what_is_no_object_is_no_record(values: Any) -> None:
    with pytest.raises(ArtifactError, match=r"file\.json is not an object"):
        read_record(Whole, values, what="file.json")


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ArtifactError) as caught:
        read(count="x" * 1000)
    assert len(str(caught.value)) < 120
