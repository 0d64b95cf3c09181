"""`edgeseed convert`: what is written, and the line that loads it."""

from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli


def test_the_line_that_loads_it_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []

    def convert(student: str, **options: Any) -> Any:
        calls.append({"student": student, **options})
        return SimpleNamespace(out="mine.safetensors", code="timm.create_model(...)")

    monkeypatch.setattr("edgeseed.convert.convert", convert)
    printed = CliRunner().invoke(
        cli, ["convert", "s.safetensors", "--to", "timm", "--out", "mine.safetensors"]
    )
    assert calls == [{"student": "s.safetensors", "to": "timm", "out": "mine.safetensors"}]
    assert printed.output == "mine.safetensors\nload it: timm.create_model(...)\n"


def test_another_form_is_refused_with_those_that_there_are() -> None:
    refused = CliRunner().invoke(cli, ["convert", "s", "--to", "keras", "--out", "o"])
    assert refused.exit_code == 2
    assert "'timm', 'hub', 'student'" in refused.output
