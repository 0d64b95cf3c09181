"""Fields of the dataclass that describes a call: default, help and limits in one place.

A call such as `export` is described by one frozen dataclass. Its constructor is the signature that
type checkers see, its fields are the options on the command line (`edgeseed.cli._settings`) and the
arguments in the docstring (`describe_arguments`).
"""

import dataclasses
import textwrap
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SettingHelp:
    """What a command line needs to know of a field, besides its name, type and default."""

    help: str
    metavar: str | None = None
    least: float | None = None
    most: float | None = None


def setting(
    default: Any,
    *,
    help: str,  # the word that every command line uses
    metavar: str | None = None,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of a call's dataclass.

    Args:
        default: Its default. (A required field is `dataclasses.field(metadata=help_for(...))`: type
            checkers take whatever another function returns for a default.)
        help: What it does, for `--help` and the docstring.
        metavar: What stands for its value in `--help`.
        least: Its least value.
        most: Its largest value.
    """
    return dataclasses.field(
        default=default, metadata=help_for(help, metavar=metavar, least=least, most=most)
    )


def help_for(
    text: str,
    *,
    metavar: str | None = None,
    least: float | None = None,
    most: float | None = None,
) -> dict[str, SettingHelp]:
    """The metadata that makes a field an option; see `setting`."""
    return {"setting": SettingHelp(help=text, metavar=metavar, least=least, most=most)}


def setting_help(field: dataclasses.Field[Any]) -> SettingHelp | None:
    """What `setting` was told of a field; None for a field that is no option."""
    found: SettingHelp | None = field.metadata.get("setting")
    return found


def describe_arguments(call: type[Any]) -> str:
    """The arguments of a call's dataclass, as the `Args` section of a docstring."""
    lines = []
    for field in dataclasses.fields(call):
        described = setting_help(field)
        if described is not None:
            text = f"{field.name}: {described.help}"
            lines.append(
                textwrap.fill(text, 96, initial_indent=" " * 8, subsequent_indent=" " * 12)
            )
    return "\n".join(["    Args:", *lines])
