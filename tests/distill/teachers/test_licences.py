"""Every teacher says its licence."""

from pathlib import Path

import pytest

from edgeseed.distill.teachers import list_teachers, load_teacher


def test_the_licence_is_said_aloud(plain_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_teacher(f"test_resnet={plain_file}")
    assert "licence not stated in the file" in capsys.readouterr().err


def test_every_teacher_says_its_licence_and_whether_it_may_be_sold() -> None:
    for row in list_teachers():
        assert row.licence
        non_commercial = "NC" in row.licence or "non-commercial" in row.licence
        assert (row.commercial_ok is False) == non_commercial
        assert row.to_dict()["name"] == row.name
