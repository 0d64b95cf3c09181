"""`python -m edgeseed` is the command `edgeseed`, by the same name in its messages."""

import runpy
import sys
from pathlib import Path

import pytest

import edgeseed


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> object:
    """The exit code."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/edgeseed/__main__.py", *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("edgeseed", run_name="__main__")
    return ended.value.code


def test_it_is_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "export", "--help") == 0
    assert capsys.readouterr().out.startswith("Usage: edgeseed export ")


def test_a_usage_error_keeps_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "exprot") == 2
    assert "exprot" in capsys.readouterr().err


def test_an_import_of_it_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    main = Path(edgeseed.__file__).with_name("__main__.py")
    runpy.run_path(str(main), run_name="edgeseed.__main__")
    assert capsys.readouterr().out == ""
