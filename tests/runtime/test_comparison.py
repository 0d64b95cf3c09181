"""Results are compared: which files, against which first one, and on which page."""

from pathlib import Path
from typing import Any

import pytest

from edgeseed.core.errors import ConfigError, GateError, UsageError
from edgeseed.runtime import Comparison, compare


def labels(comparison: Comparison) -> list[list[str]]:
    return [[row.label for row in group.rows] for group in comparison.groups]


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {row.label: row.verdict for group in comparison.groups for row in group.rows}


def test_a_file_that_is_given_twice_is_compared_once(
    make_result: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_result(folder="a").write(tmp_path / "a.json")

    assert labels(compare([tmp_path / "a.json", f"{tmp_path}/./a.json"])) == [["a"]]
    assert "a.json is given more than once; it is compared once" in capsys.readouterr().err


def test_files_can_be_compared(make_result: Any, tmp_path: Path) -> None:
    make_result(folder="a").write(tmp_path / "a.json")

    assert labels(compare([tmp_path / "a.json"])) == [["a"]]


def test_nothing_to_compare_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="edgeseed profile"):
        compare([])


def test_a_mistyped_limit_costs_no_page(make_result: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        compare([make_result()], html=tmp_path / "page.html", fail_if="p90>")

    assert not (tmp_path / "page.html").exists()


def test_the_page_is_there_when_a_limit_breaks(make_result: Any, tmp_path: Path) -> None:
    with pytest.raises(GateError):
        compare([make_result()], html=tmp_path / "page.html", fail_if="p90>1ms")

    assert (tmp_path / "page.html").exists()


def test_the_page_is_never_written_over_a_result(make_result: Any, tmp_path: Path) -> None:
    # `compare --html a.json b.json`: the name was forgotten, and a.json was gone.
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    for file in files:
        make_result().write(file)
    kept = files[0].read_bytes()

    with pytest.raises(UsageError, match="is one of the results"):
        compare(files, html=files[0])
    with pytest.raises(UsageError, match="exists and is no page"):
        compare(files[1:], html=files[0])
    with pytest.raises(UsageError, match="is a folder"):
        compare(files, html=tmp_path)

    assert files[0].read_bytes() == kept


def test_a_page_is_written_over_the_page_before(make_result: Any, tmp_path: Path) -> None:
    compare([make_result()], html=tmp_path / "page.html")
    compare([make_result(folder="second")], html=tmp_path / "page.html")

    assert "second" in (tmp_path / "page.html").read_text()


def test_a_baseline_is_what_the_others_are_compared_with(make_result: Any) -> None:
    release = make_result(median_ms=5.0, folder="release")
    slow, fast = make_result(median_ms=6.0, folder="slow"), make_result(median_ms=4.0, folder="new")

    comparison = compare([slow, fast], baseline=release)

    assert verdicts(comparison) == {"release": "first", "slow": "slower", "new": "faster"}
    with pytest.raises(GateError, match="slow: p90 is"):
        comparison.check("p90>+5%")
