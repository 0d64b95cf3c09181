"""A dataclass of options as a signature, a docstring and a command line."""

import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner

from edgeseed.cli._fields import options_of
from edgeseed.cli._options import emit_once
from edgeseed.core.options import Option, option_fields, takes


@dataclass(frozen=True, kw_only=True)
class OvenOptions:
    """What every oven takes."""

    degrees: Annotated[int | None, Option("Heat.", minimum=50, default_text="200")] = None


@dataclass(frozen=True, kw_only=True)
class BakeOptions(OvenOptions):
    """What `bake` takes."""

    dough: Annotated[str | Path, Option("What is baked.")] = field(kw_only=False)
    flour: Annotated[str, Option("Kind of flour.", metavar="F")]
    crust: Annotated[Literal["thin", "thick"] | None, Option("Of the loaf.")] = None
    steam: Annotated[bool, Option("Whether to add steam.")] = False
    extras: Annotated[
        Mapping[str, Any] | Sequence[str],
        Option("Seeds.", flags=("--seed-of", "--grain"), multiple=True),
    ] = ()


@takes(BakeOptions)
def bake(options: BakeOptions) -> BakeOptions:
    """Bakes a loaf.

    Returns:
        The loaf.
    """
    return options


def test_fields_are_arguments() -> None:
    assert bake("rye", flour="dark") == BakeOptions("rye", flour="dark")
    with pytest.raises(TypeError, match="flour"):
        bake("rye")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="sugar"):
        bake("rye", flour="dark", sugar=1)  # type: ignore[call-arg]


def test_signature_and_docstring_come_from_the_fields() -> None:
    parameters = inspect.signature(bake).parameters
    assert set(parameters) == {field.name for field in option_fields(BakeOptions)}
    assert parameters["flour"].default is inspect.Parameter.empty
    assert parameters["dough"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert bake.__name__ == "bake"
    text = bake.__doc__ or ""
    assert text.index("Bakes a loaf.") < text.index("Args:") < text.index("Returns:")
    assert "    degrees: Heat. By default 200." in text


@click.command()
@options_of(BakeOptions)
def command(**options: Any) -> None:
    click.echo(repr(bake(**options)))


def run(*arguments: str) -> Any:
    return CliRunner().invoke(command, arguments)


def test_the_command_line_takes_the_same() -> None:
    result = run(
        "rye", "--flour", "dark", "--crust", "thin", "--steam", "--grain", "oats", "--seed-of",
        "flax", "--degrees", "220",
    )  # fmt: skip
    expected = BakeOptions(
        "rye", flour="dark", crust="thin", steam=True, extras=("oats", "flax"), degrees=220
    )
    assert result.output.strip() == repr(expected)
    assert run("rye", "--flour", "dark").output.strip() == repr(BakeOptions("rye", flour="dark"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rye",), "Missing option '--flour'"),
        (("--flour", "dark"), "Missing argument 'DOUGH'"),
        (("rye", "--flour", "dark", "--degrees", "20"), "20 is not in the range x>=50"),
        (("rye", "--flour", "dark", "--crust", "none"), "'none' is not one of 'thin', 'thick'"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_help_has_own_options_first_and_defaults_in_words() -> None:
    text = run("--help").output
    assert text.index("--flour") < text.index("--degrees")
    assert "[default: 200]" in " ".join(text.split())


def test_of_several_processes_the_first_alone_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two ranks printed two summaries, and two JSON documents one after the other.
    for rank, expected in (("0", "done\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        emit_once({}, as_json=False, text="done")
        assert capsys.readouterr().out == expected


@dataclass(frozen=True, kw_only=True)
class TasteOptions:
    """What `taste` takes."""

    salt: Annotated[float, Option("Share of salt.", minimum=0, maximum=1)] = 0.1
    slices: Annotated[Literal["all"] | int, Option("How many.", metavar="N")] = "all"
    hot: Annotated[bool, Option("Whether it is hot.", off_help="Let it cool down.")] = True
    notes: Annotated[Mapping[str, Any], Option("Anything else.", python_only=True)] = field(
        default_factory=dict
    )


@click.command()
@options_of(TasteOptions)
def taste(**options: Any) -> None:
    click.echo(repr(options))


def test_what_is_on_is_switched_off_and_numbers_keep_their_limits() -> None:
    text = CliRunner().invoke(taste, ["--help"]).output
    assert "--no-hot" in text
    assert "Let it cool down." in text
    assert "notes" not in text
    given = CliRunner().invoke(taste, ["--no-hot", "--slices", "3", "--salt", "1"]).output
    assert ast.literal_eval(given) == {"salt": 1.0, "slices": "3", "hot": False}
    assert "'hot': True" in CliRunner().invoke(taste, []).output
    assert CliRunner().invoke(taste, ["--salt", "1.5"]).exit_code == 2
