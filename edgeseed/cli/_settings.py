"""Click options made of the dataclass that describes a call (see `edgeseed.core.settings`)."""

import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from edgeseed.core.settings import SettingHelp, setting_help

_Function = TypeVar("_Function", bound=Callable[..., Any])


def options_of(call: type[Any], *, order: Sequence[str] = ()) -> Callable[[_Function], _Function]:
    """A decorator that gives a command an option for each setting of a call.

    Args:
        call: The dataclass.
        order: Settings that `--help` lists first.
    """
    hints = typing.get_type_hints(call)
    described = {
        field.name: (field, found)
        for field in dataclasses.fields(call)
        if (found := setting_help(field)) is not None
    }
    names = [*order, *(name for name in described if name not in order)]

    def decorate(function: _Function) -> _Function:
        for name in reversed(names):
            function = _option(hints[name], *described[name])(function)
        return function

    return decorate


def _option(hint: Any, field: dataclasses.Field[Any], setting: SettingHelp) -> Any:
    flag = f"--{field.name.replace('_', '-')}"
    if hint is bool:
        # A switch says what changes: what is on by default is switched off.
        if field.default is True:
            flag = flag.replace("--", "--no-", 1)
        return click.option(
            flag, field.name, is_flag=True, flag_value=not field.default,
            default=field.default, help=setting.help,
        )  # fmt: skip
    required = field.default is dataclasses.MISSING
    given: dict[str, Any] = {"required": True} if required else {}
    if typing.get_origin(hint) is Sequence:
        given["multiple"] = True
    elif not required and field.default is not None:
        given |= {"default": field.default, "show_default": True}
    return click.option(
        flag, field.name, type=_type(hint, setting), metavar=setting.metavar, help=setting.help,
        **given,
    )  # fmt: skip


def _type(hint: Any, setting: SettingHelp) -> Any:
    if typing.get_origin(hint) is Literal:
        return click.Choice(list(typing.get_args(hint)))
    alternatives = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if setting.least is not None or setting.most is not None:
        limits: dict[str, Any] = {"min": setting.least, "max": setting.most}
        return click.FloatRange(**limits) if float in alternatives else click.IntRange(**limits)
    return click.Path() if hint == str | Path else None
