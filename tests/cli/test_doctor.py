"""`edgeseed doctor`."""

import json

from click.testing import CliRunner

from edgeseed.cli._main import cli


def test_doctor_says_what_works() -> None:
    result = CliRunner().invoke(cli, ["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(result.output)["checks"]}
    assert checks["torch"]["status"] == "ok"
    assert all(check["fix"] for check in checks.values() if check["status"] != "ok")
