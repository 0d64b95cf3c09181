"""Options and output that several subcommands share."""

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import click

from edgeseed.core.console import quiet

_Function = TypeVar("_Function", bound=Callable[..., Any])


def json_option(function: _Function) -> _Function:
    """`--json`: the result as one JSON value on stdout, nothing but notes and warnings on stderr."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print the result as JSON; notes and warnings go to stderr.",
    )(function)


def training_options(function: _Function) -> _Function:
    """What `distill` and `pretrain` have in common."""
    options = (
        click.option("--data", required=True, metavar="D", help="A folder of photos, tar shards (train-{000..127}.tar, https://, s3://), or digits."),
        click.option("--out", required=True, type=click.Path(), metavar="RUN", help="Folder of the run."),
        click.option("--epochs", type=click.IntRange(min=1), help="Passes over the photos.  [default: the method's]"),
        click.option("--batch-size", type=click.IntRange(min=1), help="Photos a step, over all devices.  [default: the method's]"),
        click.option("--image-size", type=click.IntRange(min=8), help="Side of the input, in pixels.  [default: the network's]"),
        click.option("--lr", type=float, help="Peak learning rate at recipe.lr_batch_size photos a step; another --batch-size scales it, as recipe.lr_scaling says.  [default: the method's]"),
        click.option("--seed", type=click.IntRange(min=0), help="Of all that is drawn.  [default: 0]"),
        click.option("--devices", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N, mps, or the number of processes under torchrun."),
        click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="Of the arithmetic.  [default: auto]"),
        click.option("--set", "settings", multiple=True, metavar="FIELD=VALUE", help="Any other setting; may be given several times."),
        click.option("--config", type=click.Path(), metavar="F.toml", help="Settings from a file, such as another run's config.toml; also its image size, seed and precision."),
        click.option("--resume", is_flag=True, help="Go on with the run in RUN."),
        click.option("--during", type=click.IntRange(min=1), metavar="N", help="Measure kNN accuracy every N epochs; the photos need labels for it."),
        json_option,
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def student_options(function: _Function) -> _Function:
    """How the trained network is built: what quantizes badly may be left out from the start."""
    options = (
        click.option("--activation", type=click.Choice(["keep", "relu6"]), default="keep", show_default=True, help="relu6 in place of SiLU and hard-swish: quantizes better."),
        click.option("--drop-se", is_flag=True, help="Leave out squeeze-and-excitation: quantizes better."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


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
        click.echo(text)


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
