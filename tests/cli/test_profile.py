"""`edgeseed profile`: one bundle, several in turns, and what is printed of them."""

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli, main


class Compared:
    """Stands in for a comparison."""

    def __init__(self, results: Sequence[Any]) -> None:
        self.results = results

    def table(self, *, notes: bool) -> str:
        return f"the table of {len(self.results)}" + (" and the notes" if notes else "")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was called, and with what."""
    found: list[tuple[str, Any]] = []
    result = SimpleNamespace(to_dict=lambda: {"n": 1})

    def profile(**options: Any) -> Any:
        found.append(("profile", options))
        return result

    def profile_in_turns(bundles: Sequence[str], **options: Any) -> Any:
        found.append(("profile_in_turns", {"bundles": bundles, **options}))
        return [result, result]

    monkeypatch.setattr("edgeseed.runtime.profile", profile)
    monkeypatch.setattr("edgeseed.runtime.profile_in_turns", profile_in_turns)
    monkeypatch.setattr("edgeseed.runtime.compare", Compared)
    return found


def test_profile_says_each_warning_once(
    calls: list[tuple[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    # They were warnings on stderr and notes below the table as well.
    with pytest.raises(SystemExit) as caught:
        main(["profile", "bundle", "--out", "r.json"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == "the table of 1\n\nwritten to r.json\n"
    assert [name for name, _ in calls] == ["profile"]
    assert calls[0][1]["bundle"] == "bundle"


@pytest.mark.parametrize("words", [("a", "b"), ("a", "--repeat", "2")])
def test_several_bundles_or_rounds_are_measured_in_turns(
    calls: list[tuple[str, Any]], words: tuple[str, ...]
) -> None:
    result = CliRunner().invoke(cli, ["profile", *words, "--out", "folder", "--json"])
    assert json.loads(result.output) == [{"n": 1}, {"n": 1}]
    ((name, options),) = calls
    assert name == "profile_in_turns"
    assert options["bundles"] == tuple(word for word in words if len(word) == 1 and word != "2")
    assert "measurement" not in options


def test_a_measurement_from_elsewhere_is_of_one_bundle(calls: list[tuple[str, Any]]) -> None:
    result = CliRunner().invoke(
        cli, ["profile", "a", "b", "--out", "folder", "--measurement", "m.json"]
    )
    assert "--measurement is of one bundle; leave --repeat" in str(result.exception)
    assert calls == []
