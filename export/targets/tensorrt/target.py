"""TensorRT for NVIDIA Jetsons and servers: an ONNX that says every type, and how to build it.

An engine belongs to one GPU and one version of TensorRT, so an export makes none. It makes what
engines are built from, anywhere, by the same file:

* **`model.onnx`**, strongly typed. float16 and int8 are in the graph, as casts and as Q/DQ:
  TensorRT 11 knows no other way (its builder has no flags for precision, and no calibrators),
  TensorRT 10 takes it with one flag. Inputs and outputs are float32. Opset 19 is the first with
  float16 scales.
* **`build.json`**, the settings of the build: shapes, workspace, DLA, versions. It is read by the
  builder in `runtime/agent/`, which needs nothing but the device's own Python and TensorRT.

`edgeseed build BUNDLE [--device ssh:...]` builds. On this side, ONNX Runtime computes the graph on
the CPU, rounding to float16 wherever TensorRT would; see `model.py` for what that
proves and what it does not.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from edgeseed.core.bundle import GateResult, Manifest
from edgeseed.core.config import build_config
from edgeseed.core.errors import ConfigError, UsageError, WorkError
from edgeseed.core.files import atomic_file, read_json, write_json
from edgeseed.export.call import Batch
from edgeseed.export.program import INPUT_NAME
from edgeseed.export.target import (
    Finding,
    Model,
    Precision,
    Target,
    WriteRequest,
    WrittenModel,
)
from edgeseed.export.targets.onnx.checks import check_file
from edgeseed.export.targets.onnx.half import FIRST_OPSET_WITH_HALF_SCALES, half_program, to_half
from edgeseed.export.targets.onnx.target import MODEL_FILE, convert_program, describe
from edgeseed.export.targets.tensorrt import rtx
from edgeseed.export.targets.tensorrt.model import TensorRTModel, open_tensorrt
from edgeseed.export.targets.tensorrt.support import HIGHEST_OPSET, MADE_FOR, preflight

BUILD_FILE = "build.json"
BUILD_SCHEMA_VERSION = 1
TIMING_CACHE = "timing.cache"
_HALVES = ("fp16", "int8")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TensorRTOptions:
    """The target's own options."""

    opset: int = FIRST_OPSET_WITH_HALF_SCALES
    """Of the file: 19 or 20."""
    float32: tuple[str, ...] = ()
    """What a float16 or int8 file computes in float32: types or names of its nodes."""
    opt_batch: int = 1
    """The batch that kernels are chosen for, where the batch is dynamic."""
    max_batch: int = 8
    """The largest batch, where it is dynamic; memory is reserved for it."""
    workspace_mib: int = 1024
    """Most scratch memory of a kernel. A Jetson shares its memory with the system."""
    tf32: bool = False
    """Whether float32 may be computed in TF32, with 10 bits of fraction. Faster, and not what the
    gates of fp32 prove."""
    dla_core: int | None = None
    """The Deep Learning Accelerator to run on, of Jetsons that have one."""
    gpu_fallback: bool = True
    """Whether the GPU takes what the DLA cannot."""

    def __post_init__(self) -> None:
        lowest, highest = FIRST_OPSET_WITH_HALF_SCALES, min(HIGHEST_OPSET.values())
        if not lowest <= self.opset <= highest:
            raise ConfigError(f"opset={self.opset} is not from {lowest} to {highest}")
        if not 1 <= self.opt_batch <= self.max_batch:
            raise ConfigError(
                f"opt_batch={self.opt_batch} is not between 1 and max_batch={self.max_batch}"
            )
        if self.workspace_mib < 1:
            raise ConfigError(f"workspace_mib={self.workspace_mib} is not at least 1")
        if self.dla_core is not None and self.dla_core < 0:
            raise ConfigError(f"dla_core={self.dla_core} is not none, 0 or 1")


class TensorRTTarget(Target):
    """See the module."""

    name = "tensorrt"
    precisions = ("fp16", "fp32", "int8")
    schemes: ClassVar[Mapping[Precision, tuple[str, ...]]] = {"int8": ("tensorrt",)}
    options: ClassVar[Mapping[str, Any]] = {
        field.name: field.default for field in dataclasses.fields(TensorRTOptions)
    }
    channels: ClassVar[tuple[int, ...]] = (1, 3, 4)
    parity_limit: ClassVar[Mapping[Precision, float]] = {"fp32": 1e-4, "fp16": 1e-2}
    advice: ClassVar[Mapping[str, str]] = {
        "tensorrt_rtx": "NVIDIA's compiler refuses the graph; keep the operator that it names in "
        "float with --keep-float, or export another --precision"
    }

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuses values that TensorRT does not take."""
        _read_options(options)

    def unavailable(
        self, precision: Precision, scheme: str | None, options: Mapping[str, Any]
    ) -> str:
        """Says of a precision that the DLA does not compute it."""
        del scheme
        return _problem_with_dla(precision, _read_options(options))

    def write(self, request: WriteRequest, folder: Path) -> WrittenModel:
        """Writes `model.onnx` and `build.json`."""
        options = _read_options(request.options)
        _check(request, options)
        model = _typed(request, options)
        describe(model, request)
        refused = list(preflight(model, versions=MADE_FOR))
        if refused:
            raise WorkError(f"TensorRT cannot build this network: {refused[0]}")
        content = model.SerializeToString()
        with atomic_file(folder / MODEL_FILE) as temporary:
            temporary.write_bytes(content)
        recipe = build_recipe(
            content,
            precision=request.precision,
            batch=request.batch,
            shape=request.spec.preprocess.shape,
            options=options,
        )
        write_json(folder / BUILD_FILE, recipe)
        return WrittenModel(
            model=MODEL_FILE,
            minimum_runtime={"tensorrt": MADE_FOR[0]},
            details={"ir_version": model.ir_version, **dataclasses.asdict(options)},
        )

    def check(
        self, folder: Path, manifest: Manifest, model: Model, pixels: npt.NDArray[np.uint8]
    ) -> tuple[Finding, ...]:
        """Compares versions, operators, metadata and every setting of `build.json`."""
        del model, pixels
        content = (folder / manifest.model).read_bytes()
        file = onnx.load_from_string(content)
        minimum = {"tensorrt": MADE_FOR[0]}
        return (
            *check_file(file, manifest, minimum_runtime=minimum),
            *_check_recipe(folder, manifest, content),
        )

    def compile_gate(self, folder: Path, manifest: Manifest) -> GateResult | None:
        """Builds it with TensorRT-RTX, where that is installed; see `rtx.py` for what it proves."""
        if not rtx.is_available():
            return None
        return rtx.compile_gate(folder / manifest.model, folder / BUILD_FILE)

    def open(self, folder: Path, manifest: Manifest) -> TensorRTModel:
        """Opens the ONNX in ONNX Runtime on the CPU, rounding as TensorRT would."""
        return open_tensorrt(folder, manifest)


def build_recipe(
    content: bytes,
    *,
    precision: str,
    batch: Batch,
    shape: tuple[int, int, int],
    options: TensorRTOptions,
) -> dict[str, Any]:
    """`build.json`: how an engine is built of the file, for `runtime/agent/`."""
    return {
        "schema_version": BUILD_SCHEMA_VERSION,
        "model": MODEL_FILE,
        "model_sha256": hashlib.sha256(content).hexdigest(),
        "precision": precision,
        "minimum_tensorrt": MADE_FOR[0],
        "made_for": list(MADE_FOR),
        # By major version: a flag in 10, the only kind of network in 11.
        "strongly_typed": {"10": "flag", "11": "always"},
        "profiles": profiles(batch, shape, options),
        "workspace_mib": options.workspace_mib,
        "tf32": options.tf32,
        "dla_core": options.dla_core,
        "gpu_fallback": options.gpu_fallback,
        "timing_cache": TIMING_CACHE,
    }


def _check_recipe(folder: Path, manifest: Manifest, content: bytes) -> Iterator[Finding]:
    """An engine is built as `build.json` says, so each of its lines is made anew and compared."""
    fields = {field.name for field in dataclasses.fields(TensorRTOptions)}
    said = {name: value for name, value in manifest.provenance.model.items() if name in fields}
    options = build_config(TensorRTOptions, values=said, what="the manifest's --target tensorrt")
    batch = manifest.inputs[0].shape[0]
    wanted = build_recipe(
        content,
        precision=manifest.precision,
        batch=batch if isinstance(batch, int) else "dynamic",
        shape=manifest.preprocess.shape,
        options=options,
    )
    found = read_json(folder / BUILD_FILE, what="how to build an engine")
    for name in sorted(wanted.keys() | found.keys()):
        if found.get(name) != wanted.get(name):
            yield Finding(
                f"{BUILD_FILE}: {name}",
                f"is {found.get(name)!r}, the model and the manifest give {wanted.get(name)!r}",
            )


def profiles(
    batch: Batch, shape: tuple[int, int, int], options: TensorRTOptions
) -> list[dict[str, Any]]:
    """The optimization profiles: smallest, best and largest batch of photos of (C, H, W).

    None where there is one batch size.
    """
    if batch != "dynamic":
        return []
    batches = {"min": 1, "opt": options.opt_batch, "max": options.max_batch}
    return [{INPUT_NAME: {name: [count, *shape] for name, count in batches.items()}}]


def _read_options(options: Mapping[str, Any]) -> TensorRTOptions:
    return build_config(TensorRTOptions, values=options, what="--target tensorrt")


def _problem_with_dla(precision: Precision, options: TensorRTOptions) -> str:
    """Why the DLA does not compute a precision; empty if it does, or if it is not asked for."""
    if options.dla_core is None or precision == "fp16":
        return ""
    if precision == "int8":
        # Its int8 wants scales by tensor, not Q/DQ; NVIDIA's own translator is a tool apart.
        return (
            "--set dla_core: the DLA takes no Q/DQ graph, which int8 is here; use --precision fp16"
        )
    return "--set dla_core: the DLA computes in float16; add --precision fp16"


def _check(request: WriteRequest, options: TensorRTOptions) -> None:
    if problem := _problem_with_dla(request.precision, options):
        raise UsageError(problem)
    if options.dla_core is not None and request.batch == "dynamic":
        raise UsageError("--set dla_core: the DLA has one batch size; add --batch 1")


def _typed(request: WriteRequest, options: TensorRTOptions) -> ModelProto:
    halves = request.precision in _HALVES
    program = request.program
    if halves:
        shape = request.spec.preprocess.shape
        program = half_program(program, shape=shape, batch=request.batch)
    model = convert_program(program, output_names=request.output_names, opset=options.opset)
    if halves:
        return to_half(model, keep_float32=options.float32)
    onnx.checker.check_model(model, full_check=True)
    return model


TARGET = TensorRTTarget()
