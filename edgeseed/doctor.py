"""What is installed and reachable here, and the command that fixes what is not."""

import dataclasses
import importlib
import importlib.metadata
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
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


def doctor(device: str | None = None, *, device_profile: str | None = None) -> Diagnosis:
    """Looks at everything that edgeseed may use on this machine, or on a device.

    Args:
        device: `ssh:USER@HOST`, `adb:SERIAL` and so on; None for this machine.
        device_profile: name of the profile that the device should be of.

    Raises:
        UsageError: If there is no such device, or nothing can be looked at there.
        WorkError: If the device cannot be reached; the message says what to do.
    """
    if device is not None:
        return _look_at(device, device_profile)
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


# --------------------------------------------------------------------------- a device

# Python 3.5 can print this: that the device's is too old must be told, not be a syntax error.
_PROBE = """
import glob, json, os, platform, shutil, sys, tempfile
def version(name):
    try:
        return str(__import__(name).__version__)
    except Exception as error:
        return None if isinstance(error, ImportError) else "broken: %s" % error
def text(path):
    try:
        with open(path) as file:
            return file.read().strip("\\0\\n ")
    except Exception:
        return None
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
folder = tempfile.gettempdir()
units = []
if version("onnxruntime"):
    import onnxruntime
    units = onnxruntime.get_available_providers()
print(json.dumps({
    "python": platform.python_version(), "executable": sys.executable,
    "numpy": version("numpy"), "onnxruntime": version("onnxruntime"),
    "tensorrt": version("tensorrt"), "units": units, "folder": folder,
    "free_gb": shutil.disk_usage(folder).free / 1e9,
    "left": len(glob.glob(os.path.join(folder, "edgeseed-*"))),
    "architecture": platform.machine(),
    "model": text("/proc/device-tree/model") or text("/sys/class/dmi/id/product_name"),
}))
"""
_MIN_DEVICE_PYTHON = (3, 8)
_MIN_DEVICE_FREE_GB = 0.5


def _look_at(text: str, device_profile: str | None) -> Diagnosis:
    from edgeseed.core.errors import UsageError
    from edgeseed.profiles import load
    from edgeseed.runtime.agent.device import AgentDevice
    from edgeseed.runtime.devices import open_device
    from edgeseed.runtime.devices.adb import AdbDevice

    device = open_device(text)
    profile = None if device_profile is None else load(device_profile)
    if isinstance(device, AdbDevice):
        machine = device.look()
        checks = [
            Check(name="phone", status="ok", found=f"{machine.model}, {machine.cpu}"),
            Check(name="system", status="ok", found=machine.system),
        ]
        facts = (machine.architecture, machine.model, machine.cpu)
    elif isinstance(device, AgentDevice):
        found: dict[str, Any] = json.loads(device.probe(_PROBE))
        checks = list(_agent_checks(found, name=device.name))
        facts = (found["architecture"], found["model"], found["architecture"])
    else:
        raise UsageError(
            f"doctor cannot look into --device {device.name}; it looks into host, ssh and adb"
        )
    if profile is not None:
        contradicted = profile.mismatch(architecture=facts[0], model=facts[1], cpu=facts[2])
        checks.append(
            Check(
                name="profile",
                status="broken" if contradicted else "ok",
                found=contradicted or f"it can be a {profile.title}",
                fix="give the profile of this board: `edgeseed devices` lists them"
                if contradicted
                else "",
                required=True,
            )
        )
    return Diagnosis(checks=tuple(checks), environment=environment())


def _agent_checks(found: dict[str, Any], *, name: str) -> Iterator[Check]:
    version = tuple(int(part) for part in found["python"].split(".")[:2])
    old = version < _MIN_DEVICE_PYTHON
    yield Check(
        name="python",
        status="broken" if old else "ok",
        found=f"{found['python']} at {found['executable']}",
        fix=f"name a Python of 3.8 or newer: --device {name}?python=PATH" if old else "",
        required=True,
    )
    remedy = f"{found['executable']} -m pip install {{}} there, or --device {name}?install=venv"
    yield _module("numpy", found["numpy"], fix=remedy.format("numpy"), required=True)
    units = ", ".join(unit.removesuffix("ExecutionProvider") for unit in found["units"])
    engine = found["onnxruntime"]
    yield _module(
        "onnxruntime",
        engine,
        fix=remedy.format("onnxruntime"),
        # Either engine is enough for some bundles.
        required=found["tensorrt"] is None,
        detail=f", units {units}" if units else "",
    )
    yield _module("tensorrt", found["tensorrt"], fix="it comes with JetPack; a venv needs "
                  "--system-site-packages to see it", required=False)  # fmt: skip
    low = found["free_gb"] < _MIN_DEVICE_FREE_GB
    yield Check(
        name="disk",
        status="broken" if low else "ok",
        found=f"{found['free_gb']:.1f} GB free at {found['folder']}",
        fix="free some space there, or set TMPDIR for that user" if low else "",
        required=True,
    )
    left = found["left"]
    yield Check(
        name="leftovers",
        status="broken" if left else "ok",
        found=f"{left} folders of earlier runs in {found['folder']}" if left else "none",
        fix="the next `edgeseed profile` removes those whose run is over" if left else "",
    )
    yield Check(
        name="board",
        status="ok",
        found=f"{found['model'] or 'its name is not told'}, {found['architecture']}",
    )


def _module(name: str, version: str | None, *, fix: str, required: bool, detail: str = "") -> Check:
    if version is None:
        return Check(name=name, status="missing", found="not installed", fix=fix, required=required)
    broken = version.startswith("broken")
    return Check(
        name=name,
        status="broken" if broken else "ok",
        found=version + detail,
        fix=fix if broken else "",
        required=required,
    )
