"""What a number depends on besides the code: machine, versions, commit."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import tomllib
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch", "torchvision", "timm", "numpy", "pillow", "safetensors", "onnx", "onnxruntime",
    "onnxscript", "coremltools", "tensorrt", "ai-edge-litert",
)  # fmt: skip


def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that results depend on; absent ones are left out."""
    versions = {name: _installed_version(name) for name in LIBRARIES}
    return {name: version for name, version in versions.items() if version is not None}


@functools.cache  # every result and bundle asks for a dozen, and each is parsed from a file
def _installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def edgeseed_version() -> str:
    """The version of edgeseed that runs: of the checkout, else of the installed package."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    return importlib.metadata.version("edgeseed")


@functools.cache
def commit() -> str | None:
    """The git commit of a checkout, `+changes` if the tree is dirty; None if installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()


def cpu_name() -> str:
    """The processor's marketing name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may use, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gib() -> float | None:
    """Physical memory in GiB, or None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def environment() -> dict[str, Any]:
    """The machine, the versions and the commit, as a block for every artefact and result."""
    return {
        "edgeseed": edgeseed_version(),
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory_gib": memory_gib(),
        "libraries": library_versions(),
    }
