"""The command group: a subcommand is one file here, found by its name and imported when it is used."""

import contextlib
import importlib
import io
import json
import os
import pkgutil
import re
import sys
from pathlib import Path
from typing import Any

import click

from edgeseed.core.console import printable
from edgeseed.core.errors import EdgeseedError, WorkError
from edgeseed.core.registry import unknown_name
from edgeseed.core.signals import ended_by_exception, ending_code

# In the order in which a user meets them; what is not named here follows in alphabetical order.
_ORDER = (
    "quickstart", "pretrain", "distill", "finetune", "evaluate",
    "export", "convert", "verify", "explain", "build", "profile", "compare",
    "embed", "gallery",
    "methods", "teachers", "students", "targets", "devices", "doctor",
)  # fmt: skip

_SHOWN = 200
_INTERRUPTED = 130
"""As a shell reports a program that Ctrl-C ended."""


class _LazyGroup(click.Group):
    """Imports a subcommand's file when the subcommand is called or its help is shown."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        found = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])}
        names = {name for name in found if not name.startswith("_")}
        known = [name for name in _ORDER if name in names]
        return known + sorted(names - set(known))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"edgeseed.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in names:
            ctx.fail(str(unknown_name("command", args[0], names)))
        _refuse_empty_words(ctx, args)
        return super().resolve_command(ctx, args)


def _refuse_empty_words(ctx: click.Context, args: list[str]) -> None:
    """An empty value is a shell's variable that was not set; as a path it would mean this folder."""
    for before, word in zip(["", *args], args, strict=False):
        if word == "" or re.fullmatch(r"--[a-z][a-z-]*=", word):
            named = word[:-1] or (before if before.startswith("--") else "an argument")
            ctx.fail(f"{named} is empty; give a value (is a variable of your shell not set?)")


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from edgeseed.core.environment import edgeseed_version

        click.echo(f"edgeseed {edgeseed_version()}")
        ctx.exit()


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help=(
        "From unlabelled photos and a big self-supervised teacher to a small model on your device.\n\n"
        "\b\nphotos + teacher -> distill -> student.safetensors -> export -> bundle/ -> profile -> result.json"
    ),
    epilog="Start with: edgeseed quickstart",
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
    help="Print the version.",
)  # fmt: skip
def cli() -> None:
    """The command `edgeseed`."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command; an error becomes one line on stderr and its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    try:
        # Of several processes, torchrun ends the others; in a collective they would not listen.
        with contextlib.nullcontext() if _is_one_of_many() else ended_by_exception():
            code = cli.main(args=arguments, prog_name="edgeseed", standalone_mode=False)
    except EdgeseedError as error:
        # A library that a signal interrupts may fail in a way of its own: that is not the cause.
        ended = ending_code(error)
        code = error.exit_code if ended is None else ended
        if (ended is None or _is_of_signal(error)) and _is_first_to_say(str(error)):
            _report(error, as_json=as_json)
    except click.ClickException as error:
        code = error.exit_code
        if _is_first_to_say(error.format_message()):
            _say_json(error, error.format_message(), as_json=as_json)
            _show(error)
    except (click.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
        click.echo("edgeseed: interrupted", err=True)
    except OSError as error:
        if error.filename is None:
            raise
        # What the system refuses of a path that was given: too long a name, a loop of links.
        told = WorkError(f"{str(error.filename)[:_SHOWN]}: {error.strerror}")
        code = told.exit_code
        if _is_first_to_say(str(told)):
            _report(told, as_json=as_json)
    except Exception as error:
        ended = ending_code(error)
        if ended is not None:
            code = ended
        # A collective fails where another process is gone; that one has said why.
        elif isinstance(error, RuntimeError) and _has_another_failed():
            code = EdgeseedError.exit_code
        else:
            raise
    # Commands return nothing; what a context was left with is an exit code.
    sys.exit(code if isinstance(code, int) else 0)


def _is_of_signal(error: EdgeseedError) -> bool:
    """Whether an error of ours was raised because a signal came, to say what was kept."""
    return isinstance(error.__cause__ or error.__context__, SystemExit | KeyboardInterrupt)


def _is_one_of_many() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def _is_first_to_say(message: str) -> bool:
    """Whether none of the processes that train together has said the same."""
    if not _is_one_of_many():
        return True
    from edgeseed.distill import distributed

    return distributed.is_first_to_fail(message)


def _has_another_failed() -> bool:
    if not _is_one_of_many():
        return False
    from edgeseed.distill import distributed

    return distributed.has_another_failed()


def _report(error: EdgeseedError, *, as_json: bool) -> None:
    message = " ".join(printable(str(error)).split())
    _say_json(error, message, as_json=as_json)
    click.echo(f"edgeseed: error: {message}", err=True)


def _show(error: click.ClickException) -> None:
    """As click shows it, with what the user typed made harmless."""
    shown = io.StringIO()
    error.show(shown)
    click.echo(printable(shown.getvalue()), err=True, nl=False)


def _say_json(error: Exception, message: str, *, as_json: bool) -> None:
    if as_json:
        described: dict[str, Any] = {"type": type(error).__name__, "message": message}
        click.echo(json.dumps({"error": described}))
