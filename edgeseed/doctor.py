"""What is installed and reachable here, and the command that mends what is not."""

import dataclasses
import importlib
import importlib.metadata
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from edgeseed.core.environment import environment

Status = Literal["ok", "missing", "broken"]
_MIN_FREE_GB = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    fix: str = ""
    """What to do, where there is something to do."""
    required: bool = False
    """Whether edgeseed's main job fails without it."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """All checks."""

    checks: tuple[Check, ...]
    environment: dict[str, Any]

    @property
    def healthy(self) -> bool:
        """Whether everything that the main job needs works."""
        return all(check.status == "ok" for check in self.checks if check.required)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**dataclasses.asdict(self), "healthy": self.healthy}


def doctor() -> Diagnosis:
    """Looks at everything that edgeseed may use on this machine."""
    checks = (
        _library("torch", required=True, describe=_describe_torch),
        # torchvision beside a torch of another build fails as it is imported, not as it is
        # installed.
        _library("torchvision", required=True),
        _library("timm", required=True),
        _library("onnx", required=True),
        _library("onnxruntime", required=True, describe=_describe_onnxruntime),
        _library("sklearn", required=True, package="scikit-learn"),
        _coremltools(),
        _library(
            "tensorrt", fix="pip install 'edgeseed[tensorrt]' on a machine with an NVIDIA GPU"
        ),
        _program("adb", fix="install Android's platform-tools to reach phones"),
        _program("ssh", fix="install OpenSSH's client to reach Jetsons and boards"),
        _program(
            "chromium", "google-chrome", "chrome", fix="install Chromium to profile in a browser"
        ),
        _free_space(),
    )
    return Diagnosis(checks=checks, environment=environment())


def _library(
    module: str,
    *,
    package: str | None = None,
    required: bool = False,
    fix: str = "",
    describe: Callable[[Any], str] | None = None,
) -> Check:
    package = package or module
    try:
        imported = importlib.import_module(module)
        version = importlib.metadata.version(package)
    except ModuleNotFoundError:
        fix = fix or f"pip install {package}"
        return Check(
            name=package, status="missing", found="not installed", fix=fix, required=required
        )
    except Exception as error:  # a broken binary can raise anything as it is imported
        reason = " ".join(str(error).split())[:160]
        fix = f"pip install --force-reinstall {package} (with a torch of the same build)"
        return Check(name=package, status="broken", found=reason, fix=fix, required=required)
    detail = f", {describe(imported)}" if describe else ""
    return Check(name=package, status="ok", found=version + detail, required=required)


def _describe_torch(torch: Any) -> str:
    if torch.cuda.is_available():
        return f"CUDA on {torch.cuda.get_device_name(0)}"
    if torch.backends.mps.is_available():
        return "Apple GPU"
    return f"CPU only, {torch.get_num_threads()} threads"


def _describe_onnxruntime(onnxruntime: Any) -> str:
    return "providers " + ", ".join(
        name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()
    )


def _coremltools() -> Check:
    if sys.platform == "win32":
        found, fix = "not made for Windows", "use Linux or macOS for --target coreml"
        return Check(name="coremltools", status="missing", found=found, fix=fix)
    try:
        version = importlib.metadata.version("coremltools")
    except importlib.metadata.PackageNotFoundError:
        return Check(
            name="coremltools",
            status="missing",
            found="not installed",
            fix="pip install coremltools",
        )
    where = (
        "converts and predicts" if sys.platform == "darwin" else "converts; predicts only on macOS"
    )
    return Check(name="coremltools", status="ok", found=f"{version}, {where}", required=True)


def _program(*names: str, fix: str) -> Check:
    for name in names:
        path = shutil.which(name)
        if path:
            return Check(name=names[0], status="ok", found=path)
    return Check(name=names[0], status="missing", found="not on the PATH", fix=fix)


def _free_space() -> Check:
    folder = Path(tempfile.gettempdir())
    free_gb = shutil.disk_usage(folder).free / 1e9
    low = free_gb < _MIN_FREE_GB
    return Check(
        name="disk",
        status="broken" if low else "ok",
        found=f"{free_gb:.1f} GB free at {folder}",
        fix=f"free some space: {_MIN_FREE_GB:.0f} GB are needed" if low else "",
        required=True,
    )
