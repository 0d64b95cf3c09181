"""`edgeseed recommend`: how words become a call, and the exit code."""

from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli


@pytest.mark.parametrize(("best", "code"), [("a network", 0), (None, 1)])
def test_it_fails_where_nothing_fits(
    monkeypatch: pytest.MonkeyPatch, best: str | None, code: int
) -> None:
    calls: list[dict[str, Any]] = []

    def recommend(**options: Any) -> Any:
        calls.append(options)
        return SimpleNamespace(table=lambda: "the table", best=best, to_dict=dict)

    monkeypatch.setattr("edgeseed.recommend.recommend", recommend)
    printed = CliRunner().invoke(
        cli, ["recommend", "--budget-ms", "8", "--students", "a, b", "--html", "p.html"]
    )
    assert printed.exit_code == code
    assert printed.output == "the table\n\npage: p.html\n"
    assert calls[0]["budget_ms"] == 8
    assert list(calls[0]["students"]) == ["a", "b"]
    assert calls[0]["precisions"] is None
