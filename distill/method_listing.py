"""The methods and their settings, as `edgeseed methods` lists them.

The list of methods is read from docstrings, without importing one; the settings of a method are
those of its config, with the help that the config's docstring states.
"""

import dataclasses
import inspect
import re
from collections.abc import Iterator
from typing import Any

from edgeseed.distill.methods import METHODS

_FIELDS = {"takes": "Takes: ", "best_for": "Best for: "}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MethodInfo:
    """One row of `edgeseed methods`.

    Attributes:
        name: As `--method` takes it.
        summary: What it does, in a line.
        takes: What it cannot do without, and which labels it uses.
        best_for: When to choose it.
    """

    name: str
    summary: str
    takes: str
    best_for: str

    @property
    def command(self) -> str:
        """The command that runs it."""
        return "pretrain" if self.takes == "photos alone" else "distill"

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**dataclasses.asdict(self), "command": self.command}


def list_methods() -> tuple[MethodInfo, ...]:
    """All methods, by name."""
    return tuple(_describe(name) for name in METHODS.names())


def _describe(name: str) -> MethodInfo:
    lines = METHODS.docstring(name).splitlines()
    fields = {
        field: next((line[len(start) :] for line in lines if line.startswith(start)), "")
        for field, start in _FIELDS.items()
    }
    # A method of another's may say less; the listing is still to be had.
    texts = {field: text.rstrip(".") or "not said" for field, text in fields.items()}
    return MethodInfo(name=name, summary=METHODS.summary(name), **texts)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SettingInfo:
    """One row of `edgeseed methods NAME`.

    Attributes:
        name: As `--set NAME=VALUE` takes it.
        default: What it is unless set.
        help: What it does.
    """

    name: str
    default: Any
    help: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)


def list_settings(method: str) -> tuple[SettingInfo, ...]:
    """All settings of a run of a method: its own first, then the groups that all methods share.

    Args:
        method: A name that `list_methods` has.

    Raises:
        UnknownNameError: If there is no such method.
    """
    from edgeseed.core.config import to_plain
    from edgeseed.distill.data.views import ViewSettings
    from edgeseed.distill.methods import load_method
    from edgeseed.distill.training.settings import StudentSettings
    from edgeseed.distill.training.trainer import TrainingConfig

    found = load_method(method)
    groups = {
        "": found.Config(), "recipe.": found.RECIPE, "views.": ViewSettings(),
        "training.": TrainingConfig(), "student.": StudentSettings(),
    }  # fmt: skip
    return tuple(
        SettingInfo(name=prefix + name, default=value, help=helps.get(name, ""))
        for prefix, config in groups.items()
        for helps in [dict(_field_helps(type(config)))]
        for name, value in to_plain(config).items()
    )


def _field_helps(config: type[Any]) -> Iterator[tuple[str, str]]:
    """(field, help) from the `Attributes:` of a config's docstring and its bases'."""
    for kind in reversed(config.__mro__):
        text = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
        section = text.partition("\nAttributes:\n")[2]
        for match in re.finditer(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
            yield match[1], " ".join(match[2].split())
