"""`edgeseed devices`: kinds of device, and profiles with what was measured."""

import json

from click.testing import CliRunner

from edgeseed.cli._main import cli
from edgeseed.profiles import load, names
from edgeseed.runtime.devices import DEVICES


def test_every_kind_and_every_profile_is_a_row() -> None:
    kinds, profiles = CliRunner().invoke(cli, ["devices"]).output.split("\n\n")
    assert [line.split()[0] for line in kinds.splitlines()[1:]] == list(DEVICES.names())
    assert [line.split()[0] for line in profiles.splitlines()[1:]] == list(names())


def test_a_profile_says_whether_its_device_was_measured() -> None:
    rows = CliRunner().invoke(cli, ["devices"]).output.split("\n\n")[1].splitlines()[1:]
    for row in rows:
        profile = load(row.split()[0])
        assert row.endswith("yes" if profile.measured else "not yet")
        for engine in profile.engines:
            assert f"{engine.target} {'/'.join(engine.precisions)}" in row
    found = json.loads(CliRunner().invoke(cli, ["devices", "--json"]).output)
    assert {row["name"]: row["measured"] for row in found["profiles"]} == {
        name: load(name).measured for name in names()
    }
