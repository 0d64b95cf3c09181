"""What the quickstart finds, as JSON, and the commands that it leaves the user with."""

import json
import shlex
from pathlib import Path

import click
import pytest
from support.quickstart import trained

from edgeseed.cli._main import cli
from edgeseed.quickstart_result import QuickstartResult, commands_for_own_photos


def test_it_is_json_without_the_samples() -> None:
    result = QuickstartResult(
        out=Path("out"), report=Path("out/report.html"), teacher=trained("teacher", linear=97.0),
        student=trained("student", linear=90.0), alone=trained("alone", linear=88.0), bundles=(),
        commands=("edgeseed distill",), seconds=100.0, seed=0,
    )  # fmt: skip
    values = json.loads(json.dumps(result.to_dict(), default=str))
    assert values["teacher"]["evaluation"]["metrics"][0]["top1_percent"] == 97.0
    assert values["bundles"] == []
    assert values["environment"]["edgeseed"]


@pytest.mark.parametrize("line", commands_for_own_photos())
def test_the_commands_for_own_photos_are_calls_that_edgeseed_takes(line: str) -> None:
    program, name, *arguments = shlex.split(line)
    assert program == "edgeseed"
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    command.make_context(name, arguments)
