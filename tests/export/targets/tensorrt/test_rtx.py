"""The gate of NVIDIA's own compiler: with a stand-in for it, and with itself where it is there."""

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgeseed.core.errors import GateError
from edgeseed.export import export, verify
from edgeseed.export.targets.tensorrt import rtx
from edgeseed.export.targets.tensorrt.target import TARGET


def stand_in(*, parses: bool = True, builds: bool = True) -> types.ModuleType:
    """As much of `tensorrt_rtx` as the gate calls."""

    class Logger:
        class Severity:
            ERROR = 1

        def __init__(self) -> None: ...

    class Config:
        num_compute_capabilities = 0

        def add_optimization_profile(self, profile: Any) -> None:
            assert profile.shapes["image"][0][0] == 1

        def set_compute_capability(self, capability: str, index: int) -> None:
            assert (capability, index) == ("SM86", 0)

    class Profile:
        def __init__(self) -> None:
            self.shapes: dict[str, Any] = {}

        def set_shape(self, name: str, *sizes: list[int]) -> None:
            self.shapes[name] = sizes

    class Builder:
        def __init__(self, logger: Any) -> None:
            self.logger = logger

        def create_network(self, flags: int) -> int:
            return flags

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            del network, config
            if builds:
                return types.SimpleNamespace(nbytes=1234)
            self.logger.log(1, "no kernel for node_linear")
            self.logger.log(2, "a remark")
            return None

    class Parser:
        num_errors = 1

        def __init__(self, network: Any, logger: Any) -> None: ...

        def parse(self, content: bytes) -> bool:
            assert content
            return parses

        def get_error(self, index: int) -> Any:
            assert index == 0
            return types.SimpleNamespace(desc=lambda: "no importer registered for op: Foo")

    module = types.ModuleType(rtx.MODULE)
    vars(module).update(
        __version__="1.7", ILogger=Logger, Builder=Builder, OnnxParser=Parser,
        NetworkDefinitionCreationFlag=types.SimpleNamespace(STRONGLY_TYPED=1),
        ComputeCapability=types.SimpleNamespace(SM86="SM86"),
    )  # fmt: skip
    return module


def install(monkeypatch: pytest.MonkeyPatch, module: types.ModuleType) -> None:
    monkeypatch.setitem(sys.modules, rtx.MODULE, module)
    monkeypatch.setattr(rtx, "is_available", lambda: True)


@pytest.mark.slow
def test_what_is_built_is_told_with_what_it_does_not_prove(
    made_tensorrt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, stand_in())
    gates = {gate.name: gate for gate in verify(made_tensorrt).gates}
    assert gates[rtx.GATE].passed
    assert gates[rtx.GATE].detail == (
        "parsed and built by TensorRT-RTX 1.7 for SM86, 1,234 bytes; not for Jetson, not run"
    )


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (stand_in(parses=False), "its parser refuses the file: no importer registered"),
        (stand_in(builds=False), "its compiler refuses the graph: no kernel for node_linear;"),
    ],
)
def test_what_nvidias_compiler_refuses_fails(
    made_tensorrt: Path, monkeypatch: pytest.MonkeyPatch, module: types.ModuleType, problem: str
) -> None:
    install(monkeypatch, module)
    with pytest.raises(GateError, match=problem):
        verify(made_tensorrt)


def test_a_refused_graph_leaves_no_bundle(
    student: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, stand_in(builds=False))
    with pytest.raises(GateError, match="its compiler refuses the graph"):
        export(student, target="tensorrt", precision="fp16", calibration=photos,
               out=tmp_path / "out")  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_without_it_nothing_is_asked(made_tensorrt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtx, "is_available", lambda: False)
    assert rtx.GATE not in {gate.name for gate in verify(made_tensorrt).gates}


@pytest.mark.tensorrt
def test_tensorrt_rtx_itself_builds_the_bundle(made_tensorrt: Path) -> None:
    pytest.importorskip(rtx.MODULE, reason="needs tensorrt-rtx")
    gate = rtx.compile_gate(made_tensorrt / "model.onnx", made_tensorrt / "build.json")
    assert gate.passed, gate.detail


@pytest.mark.tensorrt
def test_tensorrt_rtx_itself_refuses_an_unknown_operator(tmp_path: Path) -> None:
    pytest.importorskip(rtx.MODULE, reason="needs tensorrt-rtx")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3])
    graph = helper.make_graph([helper.make_node("Foo", ["image"], ["out"])], "g", [image], [out])
    onnx.save(helper.make_model(graph, ir_version=9), tmp_path / "model.onnx")
    (tmp_path / "build.json").write_text(json.dumps({"profiles": []}))
    gate = rtx.compile_gate(tmp_path / "model.onnx", tmp_path / "build.json")
    assert not gate.passed
    assert "its parser refuses the file" in gate.detail


SETTINGS: dict[str, Any] = {
    "precision": "fp32", "made_for": ["10.3"], "workspace_mib": 4096, "tf32": True, "dla_core": 0,
    "profiles": [{"image": {"min": [1, 3, 32, 32], "opt": [8, 3, 32, 32], "max": [8, 3, 32, 32]}}],
    "model_sha256": "0" * 64, "extra": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", SETTINGS)
def test_every_line_of_build_json_is_made_anew(
    made_tensorrt: Path, tmp_path: Path, name: str
) -> None:
    from edgeseed.core.bundle import read_bundle

    bundle = Path(shutil.copytree(made_tensorrt, tmp_path / "bundle"))
    path = bundle / "build.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: SETTINGS[name]}))
    manifest = read_bundle(bundle, check=False).manifest
    model = TARGET.open(bundle, manifest)
    found = TARGET.check(bundle, manifest, model, np.zeros((1, 3, 32, 32), np.uint8))
    assert [finding.where for finding in found] == [f"build.json: {name}"]
