"""Records that were read from files: every field has the type that its annotation says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from edgeseed.core.errors import ArtifactError
from edgeseed.core.typecheck import check_types


@dataclass(frozen=True)
class Inner:
    size: int = 1


@dataclass(frozen=True)
class Record:
    text: str = "a"
    number: float = 1.5
    count: int = 2
    is_on: bool = True
    path: Path = Path("a")
    kind: Literal["x", "y", 3] = "x"
    maybe: int | None = None
    either: int | str = "b"
    inner: Inner = field(default_factory=Inner)
    pair: tuple[int, str] = (1, "a")
    numbers: tuple[float, ...] = (1.0, 2)
    names: Sequence[str] = ("a",)
    items: list[Inner] = field(default_factory=lambda: [Inner()])
    table: Mapping[str, int] = field(default_factory=lambda: {"a": 1})
    plain: Any = None


def test_what_fits_passes() -> None:
    check_types(Record(), what="a.json")
    check_types(
        Record(maybe=3, either=4, kind=3, number=2, names=["a", "b"], plain={"a": [1.0, None]}),
        what="a.json",
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": 1}, "a.json: text is not a text: 1"),
        ({"number": "1"}, "a.json: number is not a finite number: '1'"),
        ({"number": math.nan}, "a.json: number is not a finite number: nan"),
        ({"number": -math.inf}, "a.json: number is not a finite number: -inf"),
        ({"count": 1.5}, "a.json: count is not a whole number: 1.5"),
        # JSON's true is 1 to Python.
        ({"count": True}, "a.json: count is not a whole number: True"),
        ({"is_on": 1}, "a.json: is_on is not true or false: 1"),
        ({"path": 3}, "a.json: path is not a path: 3"),
        ({"kind": "z"}, "a.json: kind is not one of x, y, 3: 'z'"),
        ({"maybe": "a"}, "a.json: maybe is not a whole number: 'a'"),
        ({"either": 1.5}, "a.json: either is not a text: 1.5"),
        ({"inner": {"size": 1}}, "a.json: inner is not an object: {'size': 1}"),
        ({"inner": Inner(size="b")}, "a.json: inner: size is not a whole number: 'b'"),  # type: ignore[arg-type]
        ({"pair": (1,)}, "a.json: pair has 1 entries, 2 are expected"),
        ({"pair": (1, 2)}, "a.json: pair[1] is not a text: 2"),
        ({"numbers": (1.0, math.inf)}, "a.json: numbers[1] is not a finite number: inf"),
        ({"names": "abc"}, "a.json: names is not a list: 'abc'"),
        ({"items": [Inner(), 3]}, "a.json: items[1] is not an object: 3"),
        ({"table": [1]}, "a.json: table is not an object: [1]"),
        ({"table": {"a": None}}, "a.json: table.'a' is not a whole number: None"),
        ({"plain": {"a": [math.nan]}}, "a.json: plain is not a finite number: nan"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        check_types(replace(Record(), **changes), what="a.json")
    assert str(caught.value) == message


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ArtifactError) as caught:
        check_types(replace(Record(), count="x" * 1000), what="a.json")  # type: ignore[arg-type]
    assert len(str(caught.value)) < 120


def test_what_is_nested_without_end_is_one_line() -> None:
    nested: Any = 1
    for _ in range(100):
        nested = [nested]
    with pytest.raises(ArtifactError, match="plain is nested more than 40 deep"):
        check_types(Record(plain=nested), what="a.json")
