"""`edgeseed teachers`."""

from click.testing import CliRunner

from edgeseed.cli._main import cli


def test_teachers_are_listed_by_what_to_write() -> None:
    # Rows of files stood there by a bare name: unknown to --teacher, or another network's.
    lines = CliRunner().invoke(cli, ["teachers"]).output.splitlines()
    assert lines[0].split()[:2] == ["--teacher", "family"]
    rows = [line.split()[:2] for line in lines]
    assert ["simclrv2_r50_1x_sk0=CHECKPOINT", "SimCLRv2"] in rows
    families = [row[1] for row in rows if row and row[0] == "resnet50=CHECKPOINT"]
    assert families == ["SwAV", "MoCo-v2", "MoCo-v3"]
    assert not any(row and row[0] == "resnet50" for row in rows)
