"""`edgeseed targets`: a row for each folder of `export/targets/`."""

import json

from click.testing import CliRunner

from edgeseed.cli._main import cli
from edgeseed.export.targets import TARGETS


def test_every_target_is_a_row_with_what_it_makes() -> None:
    rows = CliRunner().invoke(cli, ["targets"]).output.splitlines()[1:]
    assert [row.split()[0] for row in rows] == list(TARGETS.names())
    assert all(len(row.split()) > 2 for row in rows)
    found = json.loads(CliRunner().invoke(cli, ["targets", "--json"]).output)
    assert found == [{"name": name, "summary": TARGETS.summary(name)} for name in TARGETS.names()]
