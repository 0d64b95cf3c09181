"""`edgeseed students`: the usual students with size and published accuracy."""

import json

import pytest
from click.testing import CliRunner

from edgeseed.cli._main import cli
from edgeseed.distill.networks.students import list_students


@pytest.mark.slow
def test_a_row_has_the_students_own_numbers() -> None:
    printed = CliRunner().invoke(cli, ["students"]).output
    rows = {line.split()[0]: line for line in printed.splitlines()[1:] if line.strip()}
    for info in list_students():
        row = rows[info.name]
        assert f"{info.num_parameters / 1e6:.2f} M" in row
        assert (f"{info.name} *" in row) == info.first_class
        published = info.supervised_top1_percent
        assert row.endswith("–" if published is None else f"{published:.1f}")


def test_json_has_every_student() -> None:
    found = json.loads(CliRunner().invoke(cli, ["students", "--json"]).output)
    assert [row["name"] for row in found] == [info.name for info in list_students()]
