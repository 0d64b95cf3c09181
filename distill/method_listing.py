"""What `edgeseed methods` says of each method, read from its docstring: nothing is imported."""

import dataclasses
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
