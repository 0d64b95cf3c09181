"""Settings: frozen dataclasses, filled from TOML and from `--set field=value`."""

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from edgeseed.core.errors import ConfigError
from edgeseed.core.files import write_text
from edgeseed.core.names import split_names
from edgeseed.core.registry import unknown_name

_Config = TypeVar("_Config")
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def build_config(
    config_class: type[_Config],
    *,
    values: Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    what: str,
) -> _Config:
    """Makes a config from defaults, then `values`, then `overrides`.

    Args:
        config_class: A dataclass; its annotations decide how strings are read.
        values: Field -> value, as from a TOML file.
        overrides: `"field=value"` strings, as from `--set`.
        what: What the settings are of, for messages: `"method seed"`.

    Raises:
        ConfigError: If a field is unknown, a value does not fit its type, or the config refuses it.
    """
    merged: dict[str, Any] = dict(values or {})
    merged.update(split_override(text) for text in overrides)
    hints = typing.get_type_hints(config_class)
    names = [
        field.name for field in dataclasses.fields(typing.cast(Any, config_class)) if field.init
    ]
    for name in merged:
        if name not in names:
            raise ConfigError(str(unknown_name(f"setting of {what}", name, names)))
    missing = [
        field.name
        for field in dataclasses.fields(typing.cast(Any, config_class))
        if field.init
        and field.name not in merged
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{what}: {', '.join(missing)} must be set")
    typed = {name: _coerce(hints[name], value, name, what) for name, value in merged.items()}
    try:
        return config_class(**typed)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{what}: {error}") from error


def split_override(text: str) -> tuple[str, str]:
    """Splits `"field=value"`."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {text!r} is not of the form field=value")
    return name.strip().replace("-", "_"), value.strip()


def _coerce(hint: Any, value: Any, name: str, what: str) -> Any:
    try:
        return _read(hint, value)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{what}: {name}={value!r} is not {_describe(hint)}") from error


def _read(hint: Any, value: Any) -> Any:
    origin = typing.get_origin(hint)
    if origin is Literal:
        for allowed in typing.get_args(hint):
            if value == allowed or str(allowed) == value:
                return allowed
        raise ValueError
    if origin in (Union, types.UnionType):
        return _read_union(typing.get_args(hint), value)
    if origin is tuple:
        return _read_tuple(typing.get_args(hint), value)
    if hint is bool:
        return _read_bool(value)
    if hint is int:
        return _read_int(value)
    if hint is float:
        # nan passes every `value <= 0`, and would be found out in the middle of the work.
        if isinstance(value, bool) or not math.isfinite(float(value)):
            raise ValueError
        return float(value)
    if hint is str:
        if not isinstance(value, str):
            raise ValueError
        return value
    return value


def _read_union(options: tuple[Any, ...], value: Any) -> Any:
    if type(None) in options and (value is None or value == "none"):
        return None
    for option in options:
        if option is not type(None):
            try:
                return _read(option, value)
            except (ValueError, TypeError):
                continue
    raise ValueError


def _read_tuple(arguments: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    items = split_names(value) if isinstance(value, str) else list(value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_read(arguments[0], item) for item in items)
    if len(items) != len(arguments):
        raise ValueError
    return tuple(_read(argument, item) for argument, item in zip(arguments, items, strict=True))


def _read_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError


def _read_int(value: Any) -> int:
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, str):
        return int(value.replace("_", ""))
    if value != int(value):
        raise ValueError
    return int(value)


def _describe(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if origin in (Union, types.UnionType):
        return " or ".join(
            "none" if option is type(None) else _describe(option)
            for option in typing.get_args(hint)
        )
    if origin is tuple:
        return "a list such as 1,2,3"
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        str: "text",
    }.get(hint, str(hint))


def to_plain(value: Any) -> Any:
    """Turns dataclasses, tuples and paths into what JSON and TOML can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        ConfigError: If the file is missing or not TOML.
    """
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def write_toml(path: Path, values: Mapping[str, Any]) -> None:
    """Writes nested settings as TOML, whole or not at all. None, having no form, is left out."""
    import tomli_w

    write_text(path, tomli_w.dumps(_without_none(to_plain(values))))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return value
