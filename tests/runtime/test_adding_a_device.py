"""The trial of docs/adding-a-device.md: its device and its test, as they are printed there."""

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import ConfigError, MissingDependencyError, WorkError
from edgeseed.runtime.devices import DEVICES, open_device
from edgeseed.runtime.profiling import profile

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-device.md"
# A container "mybox" whose files are this machine's.
STAND_IN = """#!/bin/sh
case "$1 $2" in
  "exec mybox") shift 2; [ "$1" = python3 ] && { shift; exec PYTHON "$@"; }; exec "$@" ;;
  "cp "*) from=${2#mybox:}; to=${3#mybox:}; exec cp -r "$from" "$to" ;;
  *) echo "No such container: $2" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def module(blocks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The file of the page, in the folder of devices as far as the registry sees."""
    path = tmp_path / "devices" / "docker.py"
    path.parent.mkdir()
    path.write_text(blocks[0])
    spec = importlib.util.spec_from_file_location("edgeseed.runtime.devices.docker", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, found)
    spec.loader.exec_module(found)
    folders = DEVICES._paths()
    monkeypatch.setattr(DEVICES, "_paths", lambda: [*folders, str(path.parent)])
    return found


def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = tmp_path / "bin" / "docker"
    program.parent.mkdir()
    program.write_text(script.replace("PYTHON", sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.mark.usefixtures("module")
def test_a_file_in_the_folder_is_all_that_a_kind_of_device_needs() -> None:
    assert "docker" in DEVICES.names()
    assert DEVICES.summary("docker").startswith("A running container")
    assert open_device("docker:mybox").name == "docker:mybox"
    with pytest.raises(ConfigError, match="docker:NAME"):
        open_device("docker")


@pytest.mark.usefixtures("module")
def test_a_bundle_is_measured_through_the_printed_file(
    bundle: Bundle, instant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, STAND_IN)
    before = set(tmp_path.iterdir())
    result = profile(
        bundle.path, device="docker:mybox", protocol=instant, out=tmp_path / "result.json"
    )
    assert result.device.device == "docker:mybox"
    assert len(result.samples_ns) >= 8
    assert result.golden is not None
    left = set(tmp_path.iterdir()) - before
    assert {path.name for path in left} == {"result.json"}, "the folder there is removed"


def test_the_printed_test_holds(
    module: ModuleType, blocks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, STAND_IN.replace("mybox", "another"))
    names = {"DockerDevice": module.DockerDevice, "WorkError": WorkError, "pytest": pytest}
    exec(blocks[1], names)
    test = names["test_a_container_that_is_not_there_is_one_clear_line"]
    assert callable(test)
    test(None)


def test_where_the_program_is_missing_its_name_is_told(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="no docker"):
        module.DockerDevice("mybox").probe("print(1)")
