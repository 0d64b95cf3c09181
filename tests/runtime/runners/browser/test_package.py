"""npm is a script here, so that what it may do wrong can be planted."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from edgeseed.core.errors import ArtifactError, ConfigError, MissingDependencyError, WorkError
from edgeseed.runtime.runners.browser import package
from edgeseed.runtime.runners.browser.package import FILES, SHA256, cache_folder, find_ort_web


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def install_npm(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder) + os.pathsep + os.environ["PATH"])


def archive_with(contents: dict[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def plant_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, content: bytes = b"engine"
) -> Path:
    """An npm that gives an archive whose digests are the pinned ones; returns its log."""
    import base64
    import hashlib

    archive = archive_with(dict.fromkeys(SHA256, content), tmp_path / "made.tgz")
    digest = hashlib.sha512(archive.read_bytes()).digest()
    monkeypatch.setattr(package, "INTEGRITY", f"sha512-{base64.b64encode(digest).decode()}")
    digests = dict.fromkeys(SHA256, hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(package, "SHA256", digests)
    log = tmp_path / "npm.log"
    install_npm(tmp_path / "bin", f'echo "$@" >> {log}; cp {archive} .', monkeypatch)
    return log


def test_the_package_is_fetched_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = plant_package(tmp_path, monkeypatch)

    first = find_ort_web(None, unit="wasm")
    second = find_ort_web(None, unit="webgpu")

    assert first == second
    assert first.folder == cache_folder()
    assert {path.name for path in first.folder.iterdir()} == set(SHA256)
    calls = log.read_text().splitlines()
    assert len(calls) == 1
    assert calls[0].startswith(f"pack onnxruntime-web@{package.VERSION} ")
    assert "fetching onnxruntime-web" in capsys.readouterr().err


def test_a_file_of_the_cache_that_was_changed_is_fetched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = plant_package(tmp_path, monkeypatch)
    found = find_ort_web(None, unit="wasm").folder / FILES["wasm"][0]
    found.write_bytes(b"changed")

    find_ort_web(None, unit="wasm")

    assert found.read_bytes() == b"engine"
    assert len(log.read_text().splitlines()) == 2


def test_another_archive_than_the_pinned_one_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    other = archive_with({"ort.wasm.min.mjs": b"evil"}, tmp_path / "other.tgz")
    install_npm(tmp_path / "bin", f"cp {other} .", monkeypatch)

    with pytest.raises(ArtifactError, match=r"is another archive.*--ort-web DIR"):
        find_ort_web(None, unit="wasm")

    assert not cache.exists()


def test_npm_that_fails_says_why_and_what_else_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_npm(tmp_path / "bin", "echo 'npm error ENOTFOUND' >&2; exit 1", monkeypatch)

    with pytest.raises(WorkError, match=r"\(npm error ENOTFOUND\).*--ort-web DIR"):
        find_ort_web(None, unit="wasm")


def test_no_npm_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(MissingDependencyError, match=r"install Node\.js, or .*--ort-web DIR"):
        find_ort_web(None, unit="wasm")


def test_a_folder_of_ones_own_is_taken_and_its_version_read(tmp_path: Path) -> None:
    dist = tmp_path / "package" / "dist"
    dist.mkdir(parents=True)
    for name in FILES["wasm"]:
        (dist / name).write_bytes(b"engine")
    (tmp_path / "package" / "package.json").write_text(
        json.dumps({"name": "onnxruntime-web", "version": "9.8.7"})
    )

    assert find_ort_web(tmp_path / "package", unit="wasm").version == "9.8.7"
    assert find_ort_web(dist, unit="wasm").folder == dist
    with pytest.raises(ConfigError, match=r"ort\.webgpu\.min\.mjs is not there; give an unpacked"):
        find_ort_web(dist, unit="webgpu")


def test_a_folder_without_a_package_file_has_no_version(tmp_path: Path) -> None:
    for name in FILES["wasm"]:
        (tmp_path / name).write_bytes(b"engine")

    assert find_ort_web(tmp_path, unit="wasm").version == "unknown"


def test_a_call_that_was_slower_than_another_leaves_its_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant_package(tmp_path, monkeypatch)
    first = find_ort_web(None, unit="wasm").folder
    inodes = {path.name: path.stat().st_ino for path in first.iterdir()}

    package._fetch(first)

    assert {path.name: path.stat().st_ino for path in first.iterdir()} == inodes
    assert [path.name for path in first.parent.iterdir()] == [first.name]
