"""Output that several subcommands share."""

import json
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner

from edgeseed.cli._options import emit, emit_once, gate_lines, json_option, silence, table
from edgeseed.core.bundle import GateResult
from edgeseed.core.console import say, warn


@click.command()
@json_option
def talkative(as_json: bool) -> None:
    with silence(as_json):
        say("how far it is")
        warn("what to know")
    emit({"a": 1}, as_json=as_json, text="for a person")


def test_json_is_the_only_thing_on_stdout_and_warnings_stay() -> None:
    plain, as_json = (CliRunner().invoke(talkative, words) for words in ([], ["--json"]))
    assert plain.stdout == "for a person\n"
    assert "how far it is" in plain.stderr
    assert json.loads(as_json.stdout) == {"a": 1}
    assert "how far it is" not in as_json.stderr
    assert "what to know" in as_json.stderr


def test_a_result_says_itself_how_it_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    emit(SimpleNamespace(to_dict=lambda: {"path": 3}), as_json=True, text="")
    assert json.loads(capsys.readouterr().out) == {"path": 3}


@pytest.mark.parametrize(("rank", "printed"), [(None, True), ("0", True), ("1", False)])
def test_of_several_processes_the_first_prints(
    rank: str | None, printed: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    emit_once({}, as_json=False, text="once")
    assert capsys.readouterr().out == ("once\n" if printed else "")


def test_columns_are_aligned_without_blanks_at_the_end() -> None:
    text = table([("a", "long cell"), ("bbb", "")], header=("x", "y"))
    assert text == "x    y\na    long cell\nbbb"
    assert table([], header=("x", "y")) == "x  y"


def test_a_gate_is_a_line_with_value_limit_and_count() -> None:
    gates = [
        GateResult(name="parity", value=1e-5, limit=1e-4, passed=True, unit="relative", n=8),
        GateResult(
            name="lint", value=2, limit=0, passed=False, unit="problems", n=1, detail="two floats"
        ),
    ]
    assert gate_lines(gates).splitlines() == [
        "  ok    parity: 1e-05 relative (limit 0.0001, n=8)",
        "  FAIL  lint: 2 problems (limit 0, n=1)  two floats",
    ]
