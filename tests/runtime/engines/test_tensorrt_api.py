"""The fake TensorRT against the real ones: what we call exists, with the parameters that we give.

The builder and the engine run on the fake in other tests, so all that they use is in it; here each
of its names and parameters is looked up in what was read from NVIDIA's own bindings. The reading is
in `tensorrt_api.json`, so that no one has to install them: they are proprietary, and two versions
cannot be installed side by side. To read them anew, or another version:

    pip download --no-deps -d WHEELS tensorrt-cu12-bindings==10.3.0 tensorrt-cu13-bindings==11.4.0.106
    EDGESEED_TENSORRT_WHEELS=WHEELS pytest -m slow tests/runtime/engines/test_tensorrt_api.py

The bindings want three libraries that are not on PyPI. Stubs with their symbols are enough to
import them, though nothing can be built or run.
"""  # noqa: E501 - a command to be copied

import ast
import enum
import inspect
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from support import fake_tensorrt

RECORDED = Path(__file__).parent / "tensorrt_api.json"
RECORDER = Path(__file__).parent / "record_tensorrt_api.py"
API: dict[str, dict[str, dict[str, Any]]] = json.loads(RECORDED.read_text(encoding="utf-8"))
PUBLIC = {
    name: member
    for name, member in vars(fake_tensorrt.install("10.3.0")).items()
    if not name.startswith("_")
}
# What the module does not offer by name: the classes of what its functions return.
RETURNED = {
    name: member
    for name, member in vars(fake_tensorrt).items()
    if inspect.isclass(member) and name not in PUBLIC and not name.startswith("BuilderFlag")
}
CLASSES = {**PUBLIC, **RETURNED}
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry", "getNvOnnxParserVersion", "getPluginRegistry",
    "initLibNvInferPlugins",
)  # fmt: skip


def members_of(kind: type) -> set[str]:
    """Public members, attributes of instances included."""
    found = {name for name in dir(kind) if not name.startswith("_")}
    tree = ast.parse(inspect.cleandoc("\n" + inspect.getsource(kind)))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            owner = node.value
            if isinstance(owner, ast.Name) and owner.id == "self" and node.attr[0] != "_":
                found.add(node.attr)
    return found


def parameters_of(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def accepts(signature: list[str], given: list[str]) -> bool:
    """Whether a real signature takes these parameters, by these names."""
    names = [name.rstrip("=") for name in signature]
    required = [name for name in signature if not name.endswith("=")]
    return names[: len(given)] == given and len(given) >= len(required)


@pytest.mark.parametrize("version", sorted(API))
@pytest.mark.parametrize("name", sorted(CLASSES))
def test_the_fake_has_nothing_that_tensorrt_lacks(version: str, name: str) -> None:
    real, kind = API[version][name], CLASSES[name]
    if not inspect.isclass(kind):
        return
    if name == "BuilderFlag":
        kind = fake_tensorrt.install(version).BuilderFlag
    if issubclass(kind, enum.Enum):
        assert {member.name for member in kind} <= set(real), name
        return
    missing = members_of(kind) - set(real)
    assert not missing, f"TensorRT {version}: {name} has no {missing}"
    for member in members_of(kind):
        function = vars(kind).get(member)
        if inspect.isfunction(function):
            given = parameters_of(function)
            signatures = real[member]
            assert signatures, f"TensorRT {version}: {name}.{member} is not called"
            assert any(accepts(signature, given) for signature in signatures), (
                f"TensorRT {version}: {name}.{member} takes {signatures}, not {given}"
            )


@pytest.mark.parametrize("version", sorted(API))
@pytest.mark.parametrize("name", ["Builder", "OnnxParser", "Runtime"])
def test_what_we_construct_takes_what_we_give(version: str, name: str) -> None:
    given = parameters_of(CLASSES[name].__init__)
    assert any(accepts(signature, given) for signature in API[version][name]["__init__"])


def test_flags_for_precision_are_gone_in_11_as_in_the_fake() -> None:
    for version, api in API.items():
        real = {"FP16", "INT8"} & set(api["BuilderFlag"])
        fake = {"FP16", "INT8"} & set(fake_tensorrt.install(version).BuilderFlag.__members__)
        assert real == fake == (set() if version.startswith("11.") else {"FP16", "INT8"})


def test_the_versions_of_the_device_profiles_were_read() -> None:
    from edgeseed import profiles

    read = {version.rpartition(".")[0][:5].rstrip(".") for version in API}
    for name in profiles.names():
        version = profiles.load(name).software.get("tensorrt")
        assert version is None or version in read, f"profile {name}: TensorRT {version}"


def _wheels() -> list[Path]:
    return sorted(
        Path(os.environ.get("EDGESEED_TENSORRT_WHEELS", "/nowhere")).glob("*bindings*.whl")
    )


def read_wheel(wheel: Path, folder: Path) -> dict[str, Any]:
    """The API in a wheel, with stub libraries made for what its extension asks for."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    extension = folder / "tensorrt_bindings" / "tensorrt.so"
    (folder / "stub.c").write_text(
        "".join(f"void *{name}(void) {{ return 0; }}\n" for name in SYMBOLS)
    )
    major = wheel.name.split("-")[1].split(".")[0]
    for library in ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser"):
        name = f"{library}.so.{major}"
        assert name.encode() in extension.read_bytes()
        command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", name, "stub.c"]
        subprocess.run(command, cwd=folder, check=True)
    done = subprocess.run(
        [sys.executable, str(RECORDER), *sorted(CLASSES)],
        env={**os.environ, "PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    values: dict[str, Any] = json.loads(done.stdout)
    return values


@pytest.mark.slow
@pytest.mark.tensorrt
@pytest.mark.skipif(not _wheels(), reason="EDGESEED_TENSORRT_WHEELS names no folder with bindings")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the stub libraries")
def test_the_recording_is_what_the_real_bindings_say(tmp_path: Path) -> None:
    for wheel in _wheels():
        read = read_wheel(wheel, tmp_path / wheel.stem)
        for name, members in API[read["version"]].items():
            for member, signatures in members.items():
                assert read["api"][name][member] == signatures, (read["version"], name, member)
