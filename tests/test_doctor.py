"""What is installed and reachable, and what fixes it; boards are looked into in test_ssh.py."""

import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from edgeseed import doctor as module
from edgeseed.core.errors import UsageError
from edgeseed.doctor import Check, Diagnosis, doctor


def named(diagnosis: Diagnosis, name: str) -> Check:
    return {check.name: check for check in diagnosis.checks}[name]


def test_this_machine_has_what_the_main_job_needs() -> None:
    diagnosis = doctor()
    assert diagnosis.healthy
    assert named(diagnosis, "torch").found.endswith("threads") or "GPU" in str(diagnosis)
    assert json.loads(json.dumps(diagnosis.to_dict()))["healthy"] is True


def test_what_is_not_there_has_a_command_that_fixes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    diagnosis = doctor()
    assert named(diagnosis, "timm").status == "missing"
    assert named(diagnosis, "timm").fix == "pip install timm"
    assert named(diagnosis, "adb").fix
    assert not diagnosis.healthy


def test_a_library_that_breaks_as_it_is_imported_is_told_from_one_that_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(name: str) -> Any:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist\n in two lines")
        return real(name)

    real = module.importlib.import_module  # type: ignore[attr-defined]
    monkeypatch.setattr("importlib.import_module", fail)
    check = named(doctor(), "torchvision")
    assert check.status == "broken"
    assert check.found == "operator torchvision::nms does not exist in two lines"
    assert "--force-reinstall torchvision" in check.fix


def test_only_what_is_required_decides_whether_it_is_healthy() -> None:
    missing = Check(name="adb", status="missing", found="not on the PATH")
    assert Diagnosis(checks=(missing,), environment={}).healthy
    required = Check(name="torch", status="broken", found="no", required=True)
    assert not Diagnosis(checks=(missing, required), environment={}).healthy


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1.5e9))
    check = named(doctor(), "disk")
    assert check.status == "broken"
    assert check.fix == "free some space: 2 GB are needed"


def test_a_device_that_cannot_be_looked_into_names_those_that_can() -> None:
    with pytest.raises(UsageError, match="doctor cannot look into --device browser; it looks into"):
        doctor("browser")


PROBED: dict[str, Any] = {
    "python": "3.10.1", "executable": "/usr/bin/python3", "numpy": "1.26", "onnxruntime": "1.20",
    "tensorrt": None, "units": ["CPUExecutionProvider"], "folder": "/tmp", "free_gb": 9.0,
    "left": 0, "architecture": "aarch64", "model": "A board",
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "name", "status", "fix"),
    [
        ({}, "python", "ok", ""),
        ({"python": "3.6.9"}, "python", "broken", "--device ssh:pi?python=PATH"),
        ({"numpy": None}, "numpy", "missing", "/usr/bin/python3 -m pip install numpy there"),
        ({"numpy": "broken: no libblas"}, "numpy", "broken", "pip install numpy"),
        ({"onnxruntime": None}, "onnxruntime", "missing", "pip install onnxruntime"),
        ({"free_gb": 0.1}, "disk", "broken", "set TMPDIR"),
        ({"left": 3}, "leftovers", "broken", "the next `edgeseed profile` removes"),
        ({"model": None}, "board", "ok", ""),
    ],
)
def test_what_a_board_says_becomes_checks_with_remedies(
    changes: dict[str, Any], name: str, status: str, fix: str
) -> None:
    found = module._agent_checks({**PROBED, **changes}, name="ssh:pi")
    check = {each.name: each for each in found}[name]
    assert check.status == status
    assert fix in check.fix


def test_one_engine_is_enough() -> None:
    def required(**changes: Any) -> bool:
        found = module._agent_checks({**PROBED, **changes}, name="ssh:pi")
        return {each.name: each for each in found}["onnxruntime"].required

    assert required()
    assert not required(tensorrt="10.3.0")


def test_this_machine_is_probed_as_a_board_is() -> None:
    diagnosis = doctor("host")
    assert named(diagnosis, "python").status == "ok"
    assert named(diagnosis, "onnxruntime").found.partition(",")[2].startswith(" units ")


def test_a_profile_of_another_board_is_told() -> None:
    check = named(doctor("host", device_profile="raspberry-pi-5"), "profile")
    assert check.status == "broken"
    assert "`edgeseed devices` lists them" in check.fix
