"""Core ML on a Mac, through coremltools: its CPU, GPU and Neural Engine.

It runs on the device: Python 3.8, numpy, Pillow and coremltools 8 or newer. Not run on a real Mac:
its tests drive it with a stand-in for coremltools that has the names of its documentation.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import numpy as np

from edgeseed.runtime.engine import (
    Engine,
    EngineError,
    EngineTensor,
    Placement,
    import_engine,
)

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from edgeseed.runtime.engine import Tensors

# What we call a unit -> coremltools' ComputeUnit. Core ML may always use the CPU beside it.
UNITS = {
    "neural-engine": "CPU_AND_NE",
    "gpu": "CPU_AND_GPU",
    "cpu": "CPU_ONLY",
    "all": "ALL",
}
_DEVICES = {
    "MLNeuralEngineComputeDevice": "neural-engine",
    "MLGPUComputeDevice": "gpu",
    "MLCPUComputeDevice": "cpu",
}


class CoreMLEngine(Engine):
    """One model in Core ML.

    Args:
        model: coremltools' MLModel.
        placement: where its operations go, by Core ML's own plan.
        settings: what it was opened with.
    """

    name = "coreml"
    targets = ("coreml",)
    units = tuple(UNITS)

    def __init__(self, model: Any, *, placement: Placement, settings: dict[str, Any]) -> None:
        self._model = model
        spec = model.get_spec().description
        image = spec.input[0]
        self._is_image = image.type.WhichOneof("Type") == "imageType"
        height, width = image.type.imageType.height, image.type.imageType.width
        # GRAYSCALE is 10 in Core ML's own list of colour spaces, RGB 20.
        channels = 1 if image.type.imageType.colorSpace == 10 else 3
        self.inputs = (EngineTensor(image.name, (None, channels, height, width), "uint8"),)
        self.outputs = tuple(EngineTensor(each.name, (None,), "float32") for each in spec.output)
        self.placement = placement
        self.settings = settings

    @classmethod
    def version(cls) -> str:
        """Versions of coremltools and macOS: Core ML comes with the system."""
        return str(_coremltools().__version__) + " (macOS " + (platform.mac_ver()[0] or "?") + ")"

    @classmethod
    def open(cls, model: Path, *, unit: str, threads: int) -> CoreMLEngine:
        """Compile and load the model for `unit`."""
        if unit not in UNITS:
            raise EngineError("coreml has no unit " + repr(unit) + "; it has: " + ", ".join(UNITS))
        if threads != 1:
            raise EngineError("threads mean nothing to coreml; leave --threads out")
        ct = _coremltools()
        if platform.system() != "Darwin":
            raise EngineError(
                "Core ML runs on macOS alone, this is "
                + platform.system()
                + ": profile on a Mac, or an iPhone by the Swift package's benchmark"
            )
        units = getattr(ct.ComputeUnit, UNITS[unit])
        try:
            opened = ct.models.MLModel(str(model), compute_units=units)
        except Exception as error:  # coremltools raises what Core ML said, in several types
            raise EngineError(
                "Core ML cannot open " + model.name + " on " + unit + ": " + _first_line(error)
            ) from error
        return cls(
            opened,
            placement=_placement(ct, opened, unit, units),
            settings={"compute_units": UNITS[unit]},
        )

    def infer(self, feeds: Tensors) -> Tensors:
        """Predict one photo."""
        from PIL import Image

        spec = self.inputs[0]
        pixels = np.asarray(feeds[spec.name])
        if len(pixels) != 1:
            raise EngineError("coreml takes one photo at a time")
        # The bundle's model takes a photo, as an app gives it: (H, W, 3) bytes, or (H, W) of grey.
        bands = pixels[0][0] if len(pixels[0]) == 1 else pixels[0].transpose(1, 2, 0)
        photo = Image.fromarray(np.ascontiguousarray(bands))
        found = self._model.predict({spec.name: photo if self._is_image else pixels})
        return {
            output.name: np.asarray(found[output.name], dtype=np.float32).reshape(1, -1)
            for output in self.outputs
        }

    def close(self) -> None:
        """Let go of the model."""
        del self._model


def _coremltools() -> Any:
    return import_engine("coremltools", title="coremltools", package="coremltools")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _placement(ct: Any, model: Any, unit: str, units: Any) -> Placement:
    """Where each operation goes by MLComputePlan (macOS 14.4); unknown before that."""
    nodes: dict[str, int] = {}
    fallback: dict[str, int] = {}
    try:
        plan = ct.models.compute_plan.MLComputePlan.load_from_path(
            path=model.get_compiled_model_path(), compute_units=units
        )
        for operation in plan.model_structure.program.functions["main"].block.operations:
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            if usage is not None:  # constants run nowhere
                device = type(usage.preferred_compute_device).__name__
                name = _DEVICES.get(device, device)
                nodes[name] = nodes.get(name, 0) + 1
                if name != unit:
                    kind = str(operation.operator_name)
                    fallback[kind] = fallback.get(kind, 0) + 1
    except Exception:  # an older macOS or coremltools has no plan: then nothing was seen
        nodes = {}
    if not nodes:
        return Placement(unit, unit, None)
    most = max(nodes, key=lambda name: nodes[name])
    return Placement(unit, unit if unit == "all" else most, nodes, fallback)


ENGINE = CoreMLEngine
