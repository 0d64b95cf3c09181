"""The Core ML engine on a stand-in for coremltools: what it asks for, and what it makes of it."""

import platform
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseed.runtime.engine import EngineError
from edgeseed.runtime.engines.coreml import CoreMLEngine


def description() -> Any:
    kind = types.SimpleNamespace(
        WhichOneof=lambda _: "imageType",
        imageType=types.SimpleNamespace(height=4, width=4, colorSpace=20),
    )
    return types.SimpleNamespace(
        description=types.SimpleNamespace(
            input=[types.SimpleNamespace(name="image", type=kind)],
            output=[types.SimpleNamespace(name="embedding")],
        )
    )


class Model:
    """Answers with the mean of each channel of the photo that it was given."""

    def __init__(self, path: str, *, compute_units: str) -> None:
        if "broken" in path:
            raise RuntimeError("Error compiling model\nmore")
        self.asked = compute_units

    def get_spec(self) -> Any:
        return description()

    def get_compiled_model_path(self) -> str:
        return "model.mlmodelc"

    def predict(self, feeds: dict[str, Any]) -> dict[str, Any]:
        return {"embedding": np.asarray(feeds["image"]).mean(axis=(0, 1))}


def device(operation: Any) -> Any:
    if operation.on == "none":
        return None
    return types.SimpleNamespace(preferred_compute_device=type(operation.on, (), {})())


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    plan = {"operations": ["MLNeuralEngineComputeDevice"] * 3 + ["MLCPUComputeDevice", "none"]}

    def load_from_path(*, path: str, compute_units: str) -> Any:
        operations = [
            types.SimpleNamespace(operator_name="conv", on=on) for on in plan["operations"]
        ]
        block = types.SimpleNamespace(operations=operations)
        program = types.SimpleNamespace(functions={"main": types.SimpleNamespace(block=block)})
        return types.SimpleNamespace(
            model_structure=types.SimpleNamespace(program=program),
            get_compute_device_usage_for_mlprogram_operation=device,
        )

    module = types.ModuleType("coremltools")
    units = {name: name for name in ("CPU_AND_NE", "CPU_AND_GPU", "CPU_ONLY", "ALL")}
    names: dict[str, Any] = {
        "__version__": "9.0",
        "ComputeUnit": types.SimpleNamespace(**units),
        "models": types.SimpleNamespace(
            MLModel=Model,
            compute_plan=types.SimpleNamespace(
                MLComputePlan=types.SimpleNamespace(load_from_path=load_from_path)
            ),
        ),
    }
    vars(module).update(names)
    monkeypatch.setitem(sys.modules, "coremltools", module)
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    return plan


def test_a_photo_reaches_the_model_as_an_app_gives_it(mac: Any) -> None:
    engine = CoreMLEngine.open(Path("model.mlpackage"), unit="neural-engine", threads=1)
    pixels = np.zeros((1, 3, 4, 4), np.uint8)
    pixels[0, 0], pixels[0, 2] = 10, 30

    outputs = engine.infer({"image": pixels})

    np.testing.assert_array_equal(outputs["embedding"], [[10, 0, 30]])
    assert engine.inputs[0].dtype == "uint8"
    assert engine.settings == {"compute_units": "CPU_AND_NE"}


def test_the_plan_says_which_unit_each_operation_goes_to(mac: Any) -> None:
    engine = CoreMLEngine.open(Path("model.mlpackage"), unit="neural-engine", threads=1)

    assert engine.placement.actual == "neural-engine"
    assert engine.placement.nodes == {"neural-engine": 3, "cpu": 1}
    assert engine.placement.fallback == {"conv": 1}
    assert engine.placement.share == 0.75


def test_a_model_that_falls_back_to_the_cpu_is_seen(mac: Any) -> None:
    mac["operations"] = ["MLCPUComputeDevice"] * 4

    engine = CoreMLEngine.open(Path("model.mlpackage"), unit="neural-engine", threads=1)

    assert (engine.placement.requested, engine.placement.actual) == ("neural-engine", "cpu")


def test_a_system_without_a_plan_tells_nothing(mac: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["coremltools"].models, "compute_plan")

    engine = CoreMLEngine.open(Path("model.mlpackage"), unit="gpu", threads=1)

    assert (engine.placement.actual, engine.placement.nodes) == ("gpu", None)


@pytest.mark.parametrize(
    ("path", "unit", "threads", "message"),
    [
        ("model.mlpackage", "npu", 1, "no unit 'npu'; it has: neural-engine, gpu, cpu, all"),
        ("model.mlpackage", "gpu", 4, "threads mean nothing to coreml"),
        ("broken.mlpackage", "gpu", 1, "cannot open broken.mlpackage on gpu: Error compiling"),
    ],
)
def test_what_it_cannot_do_is_one_line(
    mac: Any, path: str, unit: str, threads: int, message: str
) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        CoreMLEngine.open(Path(path), unit=unit, threads=threads)

    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.skipif(platform.system() == "Darwin", reason="this is a Mac")
def test_elsewhere_it_says_where_it_runs() -> None:
    pytest.importorskip("coremltools")
    with pytest.raises(EngineError, match=r"Core ML runs on macOS alone, this is \w+"):
        CoreMLEngine.open(Path("model.mlpackage"), unit="cpu", threads=1)
