"""Options of a command, made from a dataclass."""

import dataclasses
from typing import Annotated, Any, Literal

import click
import pytest
from click.testing import CliRunner

from edgeseed.cli._fields import options_of
from edgeseed.core.options import Option


@dataclasses.dataclass(frozen=True)
class Bake:
    """Options of a command."""

    cake: Annotated[str, Option("What to bake.")]
    _: dataclasses.KW_ONLY
    out_dir: Annotated[str, Option("Where to.")]
    heat: Annotated[Literal["low", "high"], Option("How hot.")] = "low"
    minutes: Annotated[int, Option("How long.", minimum=1)] = 30
    sugar: Annotated[float | None, Option("Grams.", default_text="as written")] = None
    cool: Annotated[bool, Option("Let it cool.", off_help="Eat it hot.")] = True
    nuts: Annotated[bool, Option("With nuts.")] = False
    layers: Annotated[int | Literal["all"], Option("How many.")] = "all"
    extras: Annotated[tuple[str, ...], Option("More.", flags=("--with",), multiple=True)] = ()
    oven: Annotated[object, Option("Whose.", python_only=True)] = None


@pytest.fixture
def calls() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def bake(calls: list[dict[str, Any]]) -> click.Command:
    @click.command()
    @options_of(Bake)
    def command(**options: Any) -> None:
        calls.append(options)

    return command


def test_what_is_not_said_has_the_fields_default(
    bake: click.Command, calls: list[dict[str, Any]]
) -> None:
    assert CliRunner().invoke(bake, ["plum", "--out-dir", "o"]).exit_code == 0
    assert calls == [
        {
            "cake": "plum", "out_dir": "o", "heat": "low", "minutes": 30, "sugar": None,
            "cool": True, "nuts": False, "layers": "all", "extras": (),
        }
    ]  # fmt: skip


def test_words_become_values_of_the_fields_types(
    bake: click.Command, calls: list[dict[str, Any]]
) -> None:
    words = "plum --out-dir o --heat high --minutes 5 --sugar 1.5 --no-cool --nuts --layers 2"
    found = CliRunner().invoke(bake, [*words.split(), "--with", "cream", "--with", "figs"])
    assert found.exit_code == 0, found.output
    assert calls[0] == {
        "cake": "plum", "out_dir": "o", "heat": "high", "minutes": 5, "sugar": 1.5, "cool": False,
        "nuts": True, "layers": "2", "extras": ("cream", "figs"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plum"], "--out-dir"),
        (["--out-dir", "o"], "CAKE"),
        (["plum", "--out-dir", "o", "--minutes", "0"], "0 is not in the range x>=1"),
        (["plum", "--out-dir", "o", "--heat", "mild"], "'low', 'high'"),
        (["plum", "--out-dir", "o", "--oven", "mine"], "--oven"),
    ],
)
def test_a_wrong_call_is_refused(
    bake: click.Command, calls: list[dict[str, Any]], words: list[str], said: str
) -> None:
    refused = CliRunner().invoke(bake, words)
    assert refused.exit_code == 2
    assert said in refused.output
    assert calls == []


def test_the_help_says_defaults_and_what_a_switch_changes(bake: click.Command) -> None:
    text = " ".join(CliRunner().invoke(bake, ["--help"]).output.split())
    assert "How long. [default: 30; x>=1]" in text
    assert "Grams. [default: as written]" in text
    assert "--no-cool Eat it hot." in text
    assert "oven" not in text
