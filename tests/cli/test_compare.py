"""`edgeseed compare`: limits, and what is printed when one is broken."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli, main
from edgeseed.core.errors import GateError


class BrokenLimit:
    """A comparison of which one result breaks a limit."""

    def to_dict(self) -> dict[str, Any]:
        return {"groups": []}

    def table(self) -> str:
        return "the table"

    def check(self, limits: Sequence[str]) -> None:
        raise GateError(f"new.json breaks {limits[0]}")


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `compare` was called with."""
    calls: list[Any] = []

    def compare(*arguments: Any, **options: Any) -> BrokenLimit:
        calls.append((arguments, options))
        return BrokenLimit()

    monkeypatch.setattr("edgeseed.runtime.compare", compare)
    return calls


def test_a_broken_limit_is_in_the_one_json_value_that_compare_prints(
    compared: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    # It was a second value behind the first: no JSON reader took both.
    with pytest.raises(SystemExit) as caught:
        main(["compare", "a.json", "--fail-if", "p90>+5%", "--json"])
    assert caught.value.code == 1
    output = capsys.readouterr()
    assert json.loads(output.out) == {"groups": [], "failed": "new.json breaks p90>+5%"}
    assert output.err == "edgeseed: error: new.json breaks p90>+5%\n"


def test_without_a_limit_nothing_is_checked(compared: list[Any]) -> None:
    result = CliRunner().invoke(cli, ["compare", "a.json", "--html", "p.html"])
    assert result.exit_code == 0
    assert result.output == "the table\n\npage: p.html\n"
    assert compared == [((("a.json",),), {"baseline": None, "html": "p.html"})]


def test_a_mistyped_limit_costs_nothing(compared: list[Any]) -> None:
    result = CliRunner().invoke(cli, ["compare", "a.json", "--fail-if", "p9>5"])
    assert result.exception is not None
    assert compared == []
