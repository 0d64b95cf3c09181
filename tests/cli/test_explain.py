"""`edgeseed explain`: text, picture and JSON."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    found: list[str | None] = []

    def explain(bundle: str, *, picture: str | None) -> Any:
        found.append(picture)
        return SimpleNamespace(to_text=lambda: f"layers of {bundle}", to_dict=lambda: {"layers": 2})

    monkeypatch.setattr("edgeseed.export.explain", explain)
    return found


def test_the_picture_is_named_where_one_was_drawn(pictures: list[str | None]) -> None:
    drawn = CliRunner().invoke(cli, ["explain", "b", "--picture", "p.svg"])
    assert drawn.output == "layers of b\n\npicture: p.svg\n"
    assert CliRunner().invoke(cli, ["explain", "b"]).output == "layers of b\n"
    assert pictures == ["p.svg", None]


def test_json_is_the_explanation(pictures: list[str | None]) -> None:
    assert json.loads(CliRunner().invoke(cli, ["explain", "b", "--json"]).output) == {"layers": 2}
    assert pictures == [None]
