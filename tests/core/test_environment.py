"""What a number depends on besides the code."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeseed.core import environment as module
from edgeseed.core.environment import (
    commit,
    edgeseed_version,
    environment,
    library_versions,
    memory_gib,
    usable_cores,
)


def forget() -> None:
    for remembered in (commit, edgeseed_version, module._installed_version):
        remembered.cache_clear()


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    forget()
    yield
    forget()


def test_versions_are_of_what_is_installed_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LIBRARIES", ("numpy", "no-such-package-of-anyone"))
    assert set(library_versions()) == {"numpy"}


def test_a_block_for_a_file_is_json_and_says_where_it_was_made() -> None:
    block = json.loads(json.dumps(environment()))
    assert block["edgeseed"] == edgeseed_version()
    assert block["libraries"]["torch"]
    assert block["cores"] >= 1
    assert block["cpu"]


def checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own, in which the module seems to lie."""
    (folder / "edgeseed/core").mkdir(parents=True)
    (folder / "file").write_text("one")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words], cwd=folder, check=True
        )
    monkeypatch.setattr(module, "__file__", str(folder / "edgeseed/core/environment.py"))
    return folder


def test_the_commit_of_a_checkout_says_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkout(tmp_path / "checkout", monkeypatch)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, check=True, capture_output=True, text=True
    ).stdout
    assert commit() == head[:12]
    (folder / "file").write_text("two")
    commit.cache_clear()
    assert commit() == f"{head[:12]}+changes"


def test_an_installed_package_has_no_commit_and_its_own_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "edgeseed/core").mkdir(parents=True)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "edgeseed/core/environment.py"))
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{name} 9")
    assert commit() is None
    assert edgeseed_version() == "edgeseed 9"


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout(tmp_path / "checkout", monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() is None


def test_cores_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    # A container may have two of 96.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 7}, raising=False)
    assert usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_memory_is_none_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**20}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert memory_gib() == 4.0

    def refuse(_: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "sysconf", refuse)
    assert memory_gib() is None
