"""Checks a record that was read from a file: every field has the type that its annotation says.

A dataclass takes any value, and a wrong one is found out far from the file that it came from.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union

from edgeseed.core.errors import ArtifactError

_SHOWN = 60
_MAX_DEPTH = 40
"""Deeper nesting than any of ours; `json.loads` gives up at about a thousand."""


def check_types(record: Any, *, what: str) -> None:
    """Compares all fields of a dataclass, and of those in it, with their annotations.

    Args:
        record: The dataclass.
        what: Where it comes from, for messages: the path of the file.

    Raises:
        ArtifactError: If a field has another type, or a number is NaN or infinite; it is named.
    """
    _check_dataclass(record, what)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _check_dataclass(record: Any, where: str) -> None:
    kind: Any = type(record)
    hints = _hints(kind)
    for field in dataclasses.fields(record):
        _check(hints[field.name], getattr(record, field.name), f"{where}: {field.name}")


def _check(hint: Any, value: Any, where: str) -> None:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        _check_plain(value, where, depth=0)
    elif origin in (Union, types.UnionType):
        _check_union(arguments, value, where)
    elif origin is Literal:
        if isinstance(value, bool) or value not in arguments:
            raise _wrong(where, f"one of {', '.join(map(str, arguments))}", value)
    elif dataclasses.is_dataclass(hint):
        if not isinstance(value, typing.cast(type, hint)):
            raise _wrong(where, "an object", value)
        _check_dataclass(value, where)
    elif origin in (tuple, list, Sequence):
        _check_sequence(origin, arguments, value, where)
    elif origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, "an object", value)
        for key, item in value.items():
            _check(arguments[0], key, where)
            _check(arguments[1], item, f"{where}.{_short(key)}")
    else:
        _check_scalar(hint, value, where)


def _check_union(options: tuple[Any, ...], value: Any, where: str) -> None:
    for option in options[:-1]:
        try:
            return _check(option, value, where)
        except ArtifactError:
            continue
    # The message of the last option, or of the first where the last is None.
    last = options[0] if options[-1] is type(None) and value is not None else options[-1]
    return _check(last, value, where)


def _check_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, where: str) -> None:
    if not isinstance(value, list | tuple):
        raise _wrong(where, "a list", value)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(value) != len(arguments):
            raise ArtifactError(f"{where} has {len(value)} entries, {len(arguments)} are expected")
        for index, (hint, item) in enumerate(zip(arguments, value, strict=True)):
            _check(hint, item, f"{where}[{index}]")
        return
    for index, item in enumerate(value):
        _check(arguments[0], item, f"{where}[{index}]")


_SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    type(None): ((type(None),), "empty"),
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a finite number"),
    str: ((str,), "a text"),
    Path: ((Path, str), "a path"),
}


def _check_scalar(hint: Any, value: Any, where: str) -> None:
    allowed, name = _SCALARS[hint]
    is_bool_for_number = isinstance(value, bool) and bool not in allowed
    if not isinstance(value, allowed) or is_bool_for_number:
        raise _wrong(where, name, value)
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(where, "a finite number", value)


def _check_plain(value: Any, where: str, *, depth: int) -> None:
    """What JSON may hold; NaN passes `json.loads`, and every limit after it."""
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
    return ArtifactError(f"{where} is not {expected}: {_short(value)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
