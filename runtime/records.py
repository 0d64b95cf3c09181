"""Dataclasses from JSON, strictly: names, types, nesting. Files come from devices and from people.

`read_record` builds a record or raises an error that names the field; `json_schema` publishes the
same rules for runners in other languages. Both read the dataclass's annotations.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.errors import ArtifactError

_Record = TypeVar("_Record")
_TEXT_SHOWN = 60
# What device files import for type checkers alone, where Python 3.8 would stumble over it.
_NAMES = {"Any": Any, "Callable": Callable, "NDArray": NDArray, "np": np}


def read_record(
    kind: type[_Record],
    values: Any,
    *,
    what: str,
    derived: Mapping[str, tuple[str, ...]] = types.MappingProxyType({}),
) -> _Record:
    """The record of `kind` that a JSON value describes.

    Args:
        kind: a dataclass; fields with defaults may be absent.
        values: as `json.loads` gave them.
        what: what they are, for messages: `"the measurement"`.
        derived: entries that a file has besides the fields, by the record's name, because they
            follow from them: `{"Placement": ("share",)}`.

    Raises:
        ArtifactError: If a field is missing, unknown or of another type; it is named.
    """
    record: _Record = _read_dataclass(kind, values, what, derived)
    return record


def _read_dataclass(kind: Any, values: Any, where: str, derived: Mapping[str, Any]) -> Any:
    if not isinstance(values, dict):
        raise _wrong(where, "an object", values)
    hints = annotations(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}
    known = {*fields, *derived.get(kind.__name__, ())}
    for name in values.keys() - known:
        raise ArtifactError(
            f"{where} has an unknown field {_shown(name)}; another version of edgeseed wrote it, "
            "or it was edited"
        )
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING
        if name not in values and required and field.default_factory is dataclasses.MISSING:
            raise ArtifactError(f"{where} has no {name}")
    read = {
        name: _read(hints[name], values[name], f"{where}: {name}", derived)
        for name in fields
        if name in values
    }
    try:
        return kind(**read)
    except ValueError as error:
        raise ArtifactError(f"{where}: {error}") from error


def _read(hint: Any, value: Any, where: str, derived: Mapping[str, Any]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where, derived)
    if origin is Literal:
        if value not in arguments or isinstance(value, bool):
            raise _wrong(where, f"one of {', '.join(map(str, arguments))}", value)
        return value
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(hint, value, where, derived)
    if origin in (list, tuple):
        return _read_sequence(origin, arguments, value, where, derived)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, "an object", value)
        return {
            key: _read(arguments[1], item, f"{where}.{_shown(key)}", derived)
            for key, item in value.items()
        }
    return _read_scalar(hint, value, where)


def _read_union(options: tuple[Any, ...], value: Any, where: str, derived: Any) -> Any:
    if value is None and type(None) in options:
        return None
    left = [option for option in options if option is not type(None)]
    for option in left[:-1]:
        try:
            return _read(option, value, where, derived)
        except ArtifactError:
            continue
    return _read(left[-1], value, where, derived)


def _read_sequence(
    origin: type, arguments: tuple[Any, ...], value: Any, where: str, derived: Any
) -> Any:
    if not isinstance(value, list | tuple):
        raise _wrong(where, "a list", value)
    if arguments == (int,) or arguments == (int, Ellipsis):
        # A million samples: one look at all of them, without a message for each.
        if not all(type(item) is int for item in value):
            raise ArtifactError(f"{where} is not a list of whole numbers")
        if value and not (_is_finite(min(value)) and _is_finite(max(value))):
            raise ArtifactError(f"{where} has a number of hundreds of digits")
        return origin(value)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            raise ArtifactError(f"{where} has {len(value)} entries, {len(arguments)} are expected")
        pairs = zip(arguments, value, strict=True)
        return tuple(
            _read(hint, item, f"{where}[{index}]", derived)
            for index, (hint, item) in enumerate(pairs)
        )
    return origin(
        _read(arguments[0], item, f"{where}[{index}]", derived) for index, item in enumerate(value)
    )


def _read_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is bool:
        if type(value) is not bool:
            raise _wrong(where, "true or false", value)
        return value
    if hint is int:
        if type(value) is not int:
            raise _wrong(where, "a whole number", value)
        if not _is_finite(value):
            raise ArtifactError(f"{where} is a number of hundreds of digits")
        return value
    if hint is float:
        # NaN and infinity pass `json.loads`, and every limit after it.
        if type(value) not in (int, float) or not _is_finite(value):
            raise _wrong(where, "a finite number", value)
        return float(value)
    if hint is str:
        if type(value) is not str:
            raise _wrong(where, "a text", value)
        return value
    raise TypeError(f"{where}: no rule for {hint}")  # a mistake of ours


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON's whole numbers have no end, and no arithmetic takes them
        return False


def _wrong(where: str, expected: str, value: Any) -> ArtifactError:
    return ArtifactError(f"{where} is not {expected}: {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _TEXT_SHOWN else f"{text[:_TEXT_SHOWN]}..."


@cache
def annotations(kind: Any) -> dict[str, Any]:
    """A dataclass's annotations as types, also those of files that run on Python 3.8."""
    return typing.get_type_hints(kind, localns=_NAMES)


def json_schema(kind: Any, *, title: str, derived: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of what `read_record` takes.

    Args:
        kind: a dataclass.
        title: of the schema.
        derived: as for `read_record`; the schema allows these entries and does not ask for them.
    """
    definitions: dict[str, Any] = {}
    root = _schema(kind, definitions, derived)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        **root,
        "$defs": dict(sorted(definitions.items())),
    }


def _schema(hint: Any, definitions: dict[str, Any], derived: Mapping[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if dataclasses.is_dataclass(hint):
        name = typing.cast(Any, hint).__name__
        if name not in definitions:
            definitions[name] = {}  # before its fields, which may name it
            definitions[name] = _object_schema(hint, definitions, derived)
        return {"$ref": f"#/$defs/{name}"}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(option, definitions, derived) for option in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is dict:
        return {
            "type": "object",
            "additionalProperties": _schema(arguments[1], definitions, derived),
        }
    if origin is tuple and Ellipsis not in arguments:
        items = [_schema(option, definitions, derived) for option in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "items": False}
    if origin in (list, tuple):
        return {"type": "array", "items": _schema(arguments[0], definitions, derived)}
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return {"type": names[hint]}


def _object_schema(
    kind: Any, definitions: dict[str, Any], derived: Mapping[str, Any]
) -> dict[str, Any]:
    hints = annotations(kind)
    properties = {
        field.name: _schema(hints[field.name], definitions, derived)
        for field in dataclasses.fields(kind)
    }
    properties |= {name: {} for name in derived.get(kind.__name__, ())}
    required = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
