"""Options and output that several subcommands share."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from edgeseed.core.console import printable, quiet

_Function = TypeVar("_Function", bound=Callable[..., Any])


def json_option(function: _Function) -> _Function:
    """`--json`: the result as one JSON value on stdout, nothing but notes and warnings on stderr."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print the result as JSON; notes and warnings go to stderr.",
    )(function)


@contextlib.contextmanager
def silence(as_json: bool) -> Iterator[None]:
    """Keeps stderr to notes and warnings under `--json`."""
    with quiet(as_json):
        yield


def emit(value: Any, *, as_json: bool, text: str) -> None:
    """Prints a command's result: `value` as JSON, or `text` for a person."""
    if as_json:
        click.echo(
            json.dumps(
                value.to_dict() if hasattr(value, "to_dict") else value, indent=2, default=str
            )
        )
    else:
        click.echo(printable(text))


def emit_once(value: Any, *, as_json: bool, text: str) -> None:
    """As `emit`, but of the processes that torchrun started, the first alone prints."""
    if os.environ.get("RANK", "0") == "0":
        emit(value, as_json=as_json, text=text)


def table(rows: Sequence[tuple[str, ...]], *, header: tuple[str, ...]) -> str:
    """Aligned columns under a header, two spaces apart; no trailing blanks."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def gate_lines(gates: Any) -> str:
    """One line a gate: whether it holds, what was measured, and against what."""
    return "\n".join(
        f"  {'ok  ' if gate.passed else 'FAIL'}  {gate.name}: {gate.value:.6g} {gate.unit} "
        f"(limit {gate.limit:.6g}, n={gate.n})" + (f"  {gate.detail}" if gate.detail else "")
        for gate in gates
    )
