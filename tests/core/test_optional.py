"""Packages that only some commands need."""

import sys
from pathlib import Path

import pytest

from edgeseed.core.errors import (
    MissingDependencyError,
)
from edgeseed.core.optional import require


def test_a_missing_package_says_the_command_that_installs_it() -> None:
    with pytest.raises(
        MissingDependencyError,
        match=r"--target x needs no_such_package.*pip install 'edgeseed\[x\]'",
    ):
        require("no_such_package", extra="x", why="--target x")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError('libx.so: version GLIBC_9.9 not found')", "GLIBC_9.9 not found"),
        ("raise OSError('libx.so: cannot open shared object file')", "cannot open shared object"),
        ("import no_such_part_of_it", "No module named 'no_such_part_of_it'"),
        ("from . import no_such_name", "cannot import name 'no_such_name'"),
    ],
)
def test_a_package_that_is_there_and_broken_says_why_and_how_to_install_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    package = tmp_path / "broken_package"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "part.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    # Of the case before, which Python keeps.
    monkeypatch.delitem(sys.modules, "broken_package", raising=False)
    with pytest.raises(MissingDependencyError, match=rf"cannot be imported \(.*{reason}") as found:
        require("broken_package.part", extra="x", why="--target x")
    assert "--force-reinstall 'edgeseed[x]'" in str(found.value)
