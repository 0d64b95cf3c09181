"""onnxruntime-web's files: fetched once by npm in a pinned version, or from a folder of one's own.

No content delivery network is asked, neither here nor by the page.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from edgeseed.core.console import say
from edgeseed.core.errors import ArtifactError, ConfigError, MissingDependencyError, WorkError
from edgeseed.core.scratch import scratch_folder

PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
# npm's own integrity value of this version's archive.
INTEGRITY = (
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02V"
    "b7QmRMDs1SigqR4CXAfKYQ=="
)
FILES = {
    "wasm": (
        "ort.wasm.min.mjs",
        "ort-wasm-simd-threaded.mjs",
        "ort-wasm-simd-threaded.wasm",
    ),
    "webgpu": (
        "ort.webgpu.min.mjs",
        "ort-wasm-simd-threaded.asyncify.mjs",
        "ort-wasm-simd-threaded.asyncify.wasm",
    ),
}
"""What a page needs for a unit, the module that it imports first."""
SHA256 = {
    "ort.wasm.min.mjs": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort.webgpu.min.mjs": "3dffff71811bc13a3a3d9591c57ca5ee5735b8f5f3eaf789510b02bb040ae3a0",
    "ort-wasm-simd-threaded.mjs": (
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b"
    ),
    "ort-wasm-simd-threaded.wasm": (
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2"
    ),
    "ort-wasm-simd-threaded.asyncify.mjs": (
        "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28"
    ),
    "ort-wasm-simd-threaded.asyncify.wasm": (
        "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da"
    ),
}
_NPM_SECONDS = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class OrtWeb:
    """onnxruntime-web on disk.

    Attributes:
        folder: holds the files of `FILES`.
        version: of the package; "unknown" where a folder does not tell.
    """

    folder: Path
    version: str


def find_ort_web(folder: str | Path | None, *, unit: str) -> OrtWeb:
    """onnxruntime-web's files for `unit`: from `folder`, the cache, or else npm.

    Args:
        folder: an unpacked package or its `dist`, of any version; None for the pinned one.
        unit: `wasm` or `webgpu`.

    Raises:
        ConfigError: If `folder` lacks a file.
        MissingDependencyError: If npm is needed and absent.
        WorkError: If npm cannot fetch the package.
        ArtifactError: If what npm fetched is not the pinned package.
    """
    if folder is not None:
        return _own_folder(Path(folder), unit=unit)
    cached = cache_folder()
    if not _is_complete(cached):
        _fetch(cached)
    return OrtWeb(folder=cached, version=VERSION)


def cache_folder() -> Path:
    """Where the pinned package is kept: `$XDG_CACHE_HOME` or `~/.cache`, then edgeseed."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edgeseed" / f"{PACKAGE}-{VERSION}"


def _own_folder(folder: Path, *, unit: str) -> OrtWeb:
    dist = folder / "dist" if (folder / "dist").is_dir() else folder
    for name in FILES[unit]:
        if not (dist / name).is_file():
            raise ConfigError(
                f"--ort-web {folder}: {name} is not there; give an unpacked {PACKAGE} package "
                f"(npm pack {PACKAGE}, then tar xzf) or its dist folder"
            )
    return OrtWeb(folder=dist, version=_version_of(dist.parent) or "unknown")


def _version_of(package: Path) -> str | None:
    try:
        values = json.loads((package / "package.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_it = isinstance(values, dict) and values.get("name") == PACKAGE
    return str(values.get("version")) if is_it else None


def _is_complete(folder: Path) -> bool:
    return all(
        (folder / name).is_file() and _sha256(folder / name) == digest
        for name, digest in SHA256.items()
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(destination: Path) -> None:
    say(f"fetching {PACKAGE} {VERSION} by npm (33 MB, once; kept in {destination})")
    with scratch_folder() as folder:
        archive = _npm_pack(folder)
        _check_integrity(archive)
        destination.parent.mkdir(parents=True, exist_ok=True)
        # A folder beside it, then a rename: an interrupted call leaves no half of a package.
        partial = Path(tempfile.mkdtemp(prefix=f".{PACKAGE}-", dir=destination.parent))
        try:
            _extract(archive, partial)
            # Another call may have been faster, and its page may be reading these very files.
            if not _is_complete(destination):
                shutil.rmtree(destination, ignore_errors=True)
                partial.rename(destination)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _npm_pack(folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise MissingDependencyError(
            f"npm is not installed, and {PACKAGE} {VERSION} is not in the cache; install Node.js, "
            f"or give an unpacked {PACKAGE} package by --ort-web DIR"
        )
    command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_NPM_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise WorkError(
            f"npm did not fetch {PACKAGE} within {_NPM_SECONDS} s; try again, or give an unpacked "
            "package by --ort-web DIR"
        ) from error
    archives = list(folder.glob("*.tgz"))
    if done.returncode != 0 or len(archives) != 1:
        last = done.stderr.strip().rpartition("\n")[2] or f"it ended with {done.returncode}"
        raise WorkError(
            f"npm could not fetch {PACKAGE}@{VERSION} ({last}); try again, or give an unpacked "
            "package by --ort-web DIR"
        )
    return archives[0]


def _check_integrity(archive: Path) -> None:
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    found = f"sha512-{base64.b64encode(digest).decode()}"
    if found != INTEGRITY:
        raise ArtifactError(
            f"what npm fetched as {PACKAGE}@{VERSION} is another archive ({found[:20]}... instead "
            f"of {INTEGRITY[:20]}...): check npm's registry setting, or give a package by "
            "--ort-web DIR"
        )


def _extract(archive: Path, folder: Path) -> None:
    """Take the files we serve, by name; nothing else is unpacked."""
    with tarfile.open(archive) as opened:
        for name, digest in SHA256.items():
            source = opened.extractfile(f"package/dist/{name}")
            assert source is not None  # the archive's digest was compared
            with source, (folder / name).open("wb") as file:
                shutil.copyfileobj(source, file)
            assert _sha256(folder / name) == digest
