"""Options of a command, made from the dataclass that its Python call takes."""

import types
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar, Union

import click

from edgeseed.core.options import OptionField, option_fields

_Function = TypeVar("_Function", bound=Callable[..., Any])
_UNLIMITED = {"min": None, "max": None}


def options_of(options: type[Any]) -> Callable[[_Function], _Function]:
    """Adds an option, or an argument, for each field of a class of options.

    Args:
        options: A dataclass whose fields are annotated with `edgeseed.core.options.Option`.
    """

    def decorate(function: _Function) -> _Function:
        fields = [field for field in option_fields(options) if not field.option.python_only]
        for field in reversed(fields):
            function = _parameter(field)(function)
        return function

    return decorate


def _parameter(field: OptionField) -> Callable[[_Function], _Function]:
    if field.is_positional:
        return click.argument(field.name)
    option = field.option
    # A switch says what changes: what is on by default is switched off.
    negative = "no-" if field.default is True else ""
    flags = option.flags or (f"--{negative}{field.name.replace('_', '-')}",)
    settings: dict[str, Any] = {"help": _help(field), "metavar": option.metavar}
    if field.type is bool:
        settings |= {"is_flag": True, "flag_value": not field.default, "default": field.default}
    elif option.multiple:
        settings["multiple"] = True
    else:
        settings["type"] = _click_type(field)
        settings["required"] = field.is_required
        if not field.is_required and field.default is not None:
            settings |= {"default": field.default, "show_default": True}
    return click.option(*flags, field.name, **settings)


def _help(field: OptionField) -> str:
    if field.default is True and field.option.off_help is not None:
        return field.option.off_help
    default = field.option.default_text
    # Two blanks, as click writes its own defaults.
    return field.option.help if default is None else f"{field.option.help}  [default: {default}]"


def _click_type(field: OptionField) -> Any:
    kinds = _alternatives(field.type)
    choices = [value for kind in kinds if typing.get_origin(kind) is Literal
               for value in typing.get_args(kind)]  # fmt: skip
    if choices:
        # A word or a number: the command itself tells them apart.
        return click.Choice(choices) if int not in kinds else str
    if str in kinds:
        return str
    limits: dict[str, Any] = {"min": field.option.minimum, "max": field.option.maximum}
    if int in kinds:
        return int if limits == _UNLIMITED else click.IntRange(**limits)
    if float in kinds:
        return float if limits == _UNLIMITED else click.FloatRange(**limits)
    return str


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (Union, types.UnionType):
        return tuple(kind for kind in typing.get_args(hint) if kind is not type(None))
    return (hint,)
