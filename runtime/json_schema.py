"""The JSON schema of a record, for runners in other languages: the rules of `read_record`."""

import dataclasses
import types
import typing
from typing import Any, Literal, Union

from edgeseed.core.reading import Derived, annotations


def json_schema(kind: Any, *, title: str, derived: Derived) -> dict[str, Any]:
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


def _schema(hint: Any, definitions: dict[str, Any], derived: Derived) -> dict[str, Any]:
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


def _object_schema(kind: Any, definitions: dict[str, Any], derived: Derived) -> dict[str, Any]:
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
