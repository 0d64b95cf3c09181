"""`edgeseed methods`: the list, and the settings of one."""

import json

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli
from edgeseed.cli.methods import _value
from edgeseed.distill.methods import METHODS


def test_every_method_is_a_row_and_the_command_is_named() -> None:
    lines = CliRunner().invoke(cli, ["methods"]).output.splitlines()
    rows = {line.split()[0]: line.split()[1] for line in lines[1:] if line.strip()}
    assert set(METHODS.names()) <= set(rows)
    assert rows["regress"] == "distill"
    assert rows["moco"] == "pretrain"


def test_the_settings_of_one_method_have_defaults_and_help() -> None:
    found = json.loads(CliRunner().invoke(cli, ["methods", "seed", "--json"]).output)
    settings = {row["name"]: row for row in found["settings"]}
    assert settings["tau_student"]["default"] == 0.2
    assert all(row["help"] for row in settings.values())
    text = CliRunner().invoke(cli, ["methods", "seed"]).output
    assert "command:  edgeseed distill --method seed" in text
    assert "queue_size" in text


@pytest.mark.parametrize(
    ("default", "shown"),
    [(None, "none"), ([1, 2], "1,2"), ([], "–"), (True, "true"), (0.5, "0.5"), ("auto", "auto")],
)
def test_defaults_are_shown_as_set_takes_them(default: object, shown: str) -> None:
    assert _value(default) == shown
