"""Dataclasses from JSON, strictly: names, types, nesting. Files come from devices and from people.

`read_record` builds a record, or raises an error that names the field. The dataclass's annotations
are the rules: what a file of ours may hold is written down once. A library would need as many lines
for our rules: a record may keep entries of other versions, NaN is refused, and the message is one
line with the path of the field.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, TypeVar, Union

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.errors import ArtifactError

_Record = TypeVar("_Record")
_SHOWN = 60
_MAX_DEPTH = 40
"""Deeper nesting than any of ours; `json.loads` gives up at about a thousand."""
# What device files import for type checkers alone, where Python 3.8 would stumble over it.
_NAMES = {"Any": Any, "Callable": Callable, "NDArray": NDArray, "np": np}
Derived = Mapping[str, tuple[str, ...]]
_NOTHING: Derived = types.MappingProxyType({})


def read_record(
    kind: type[_Record], values: Any, *, what: str, derived: Derived = _NOTHING
) -> _Record:
    """The record of `kind` that a JSON value describes.

    Fields with defaults may be absent. A field with `metadata={"json": NAME}` has that name in the
    file. Where the dataclass has a field `more`, entries that it does not know go there. A nested
    dataclass with a `from_dict(values, what=...)` of its own is read by that.

    Args:
        kind: A dataclass.
        values: As `json.loads` gave them.
        what: What they are, for messages: the path of the file, or `"the measurement"`.
        derived: Entries that a file has besides the fields, by the record's name, because they
            follow from them: `{"Placement": ("share",)}`.

    Raises:
        ArtifactError: If a field is missing, unknown or of another type; it is named.
    """
    record: _Record = _read_dataclass(kind, values, what, derived)
    return record


def json_names(kind: Any) -> dict[str, str]:
    """JSON's name of each field -> the field's own, without `more`."""
    fields = [field for field in dataclasses.fields(kind) if field.name != "more"]
    return {field.metadata.get("json", field.name): field.name for field in fields}


@cache
def annotations(kind: Any) -> dict[str, Any]:
    """A dataclass's annotations as types, also those of files that run on Python 3.8."""
    return typing.get_type_hints(kind, localns=_NAMES)


def _read_dataclass(kind: Any, values: Any, where: str, derived: Derived) -> Any:
    if not isinstance(values, Mapping):
        raise _wrong(where, "an object", values)
    hints, names = annotations(kind), json_names(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    others = {
        name: value
        for name, value in values.items()
        if name not in names and name not in derived.get(kind.__name__, ())
    }
    if others and "more" not in fields:
        raise ArtifactError(
            f"{where} has an unknown field {_shown(min(others, key=str))}; another version of "
            "edgeseed wrote it, or it was edited"
        )
    read: dict[str, Any] = {}
    for json_name, name in names.items():
        field = fields[name]
        if json_name in values:
            read[name] = _read(hints[name], values[json_name], f"{where}: {json_name}", derived)
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ArtifactError(f"{where} has no {json_name}")
    if "more" in fields:
        _check_plain(others, where, depth=0)
        read["more"] = others
    try:
        return kind(**read)
    except ValueError as error:
        raise ArtifactError(f"{where}: {error}") from error


def _read(hint: Any, value: Any, where: str, derived: Derived) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        _check_plain(value, where, depth=0)
        return value
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where, derived)
    if origin is Literal:
        if isinstance(value, bool) or value not in arguments:
            raise _wrong(where, f"one of {', '.join(map(str, arguments))}", value)
        return value
    if dataclasses.is_dataclass(hint):
        own: Callable[..., Any] | None = getattr(hint, "from_dict", None)
        if own is not None:
            return own(value, what=where)
        return _read_dataclass(hint, value, where, derived)
    if origin in (list, tuple, Sequence):
        return _read_sequence(origin, arguments, value, where, derived)
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, "an object", value)
        return {
            _read(arguments[0], key, where, derived): _read(
                arguments[1], item, f"{where}.{_shown(key)}", derived
            )
            for key, item in value.items()
        }
    return _read_scalar(hint, value, where)


def _read_union(options: tuple[Any, ...], value: Any, where: str, derived: Derived) -> Any:
    if value is None and type(None) in options:
        return None
    *others, last = [option for option in options if option is not type(None)]
    for option in others:
        try:
            return _read(option, value, where, derived)
        except ArtifactError:
            continue
    return _read(last, value, where, derived)


def _read_sequence(
    origin: Any, arguments: tuple[Any, ...], value: Any, where: str, derived: Derived
) -> Any:
    if not isinstance(value, list | tuple):
        raise _wrong(where, "a list", value)
    make = list if origin is list else tuple
    if arguments in ((int,), (int, Ellipsis)):
        # A million samples: one look at all of them, without a message for each.
        if not all(type(item) is int for item in value):
            raise ArtifactError(f"{where} is not a list of whole numbers")
        if value and not (_is_finite(min(value)) and _is_finite(max(value))):
            raise ArtifactError(f"{where} has a number of hundreds of digits")
        return make(value)
    hints = [arguments[0]] * len(value)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            raise ArtifactError(f"{where} has {len(value)} entries, {len(arguments)} are expected")
        hints = list(arguments)
    return make(
        _read(hint, item, f"{where}[{index}]", derived)
        for index, (hint, item) in enumerate(zip(hints, value, strict=True))
    )


def _read_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint not in _SCALARS:
        raise TypeError(f"{where}: no rule for {hint}")  # a mistake of ours
    allowed, name = _SCALARS[hint]
    # In Python, True is a number.
    if not isinstance(value, allowed) or isinstance(value, bool) != (hint is bool):
        raise _wrong(where, name, value)
    # NaN and infinity pass `json.loads`, and every limit after it.
    if hint is float:
        if not _is_finite(typing.cast(float, value)):
            raise _wrong(where, name, value)
        return float(typing.cast(float, value))
    if hint is int and not _is_finite(typing.cast(int, value)):
        raise ArtifactError(f"{where} is a number of hundreds of digits")
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON's whole numbers have no end, and no arithmetic takes them
        return False


_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a finite number"),
    str: ((str,), "a text"),
}


def _check_plain(value: Any, where: str, *, depth: int) -> None:
    """What JSON may hold, but NaN and infinity, and nothing nested without end."""
    if depth > _MAX_DEPTH:
        raise ArtifactError(f"{where} is nested more than {_MAX_DEPTH} deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(where, "a finite number", value)
    if isinstance(value, Mapping):
        for item in value.values():
            _check_plain(item, where, depth=depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_plain(item, where, depth=depth + 1)


def _wrong(where: str, expected: str, value: Any) -> ArtifactError:
    return ArtifactError(f"{where} is not {expected}: {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
