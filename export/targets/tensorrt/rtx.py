"""NVIDIA's own parser and compiler, where TensorRT-RTX is installed: no GPU or driver is needed.

TensorRT-RTX is TensorRT for desktop GPUs. It shares the ONNX parser with the TensorRT of Jetsons
and builds on a CPU, for a GPU that need not be there. That it takes a graph proves that NVIDIA's
parser knows every operator and type in it, that Q/DQ stand where its compiler takes them, and that
each layer has a kernel on a desktop GPU (compute capability 8.6).

It does not prove that a Jetson's TensorRT builds it (other versions, and no Jetson is among the
GPUs that this compiles for), and nothing is run: no number and no latency comes from it.

The package is NVIDIA's, under a licence of its own (the NVIDIA software license agreement in the
wheel): it is an extra that a user installs, `pip install "edgeseed[tensorrt-rtx]"`, and nothing of
it is shipped.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

from edgeseed.core.bundle import GateResult
from edgeseed.core.optional import require

MODULE = "tensorrt_rtx"
COMPUTE_CAPABILITY = "SM86"
GATE = "tensorrt_rtx on this machine"
"""Not recorded in a bundle: who verifies it may not have the package."""


def is_available() -> bool:
    """Whether TensorRT-RTX is installed; looks without importing it."""
    return importlib.util.find_spec(MODULE) is not None


def compile_gate(model: Path, recipe: Path) -> GateResult:
    """Whether TensorRT-RTX parses and builds a graph.

    Args:
        model: The ONNX file.
        recipe: Its `build.json`, of which the shapes and the workspace are used.
    """
    trt = require(MODULE, extra="tensorrt-rtx", why="compiling with TensorRT-RTX")
    problems, size = _compile(trt, model.read_bytes(), json.loads(recipe.read_text("utf-8")))
    proof = (
        f"parsed and built by TensorRT-RTX {trt.__version__} for {COMPUTE_CAPABILITY}, "
        f"{size:,} bytes; not for Jetson, not run"
    )
    return GateResult(
        name=GATE,
        value=float(len(problems)),
        limit=0.0,
        passed=not problems,
        unit="problems",
        n=1,
        detail="; ".join(problems) if problems else proof,
    )


def _compile(trt: Any, content: bytes, recipe: dict[str, Any]) -> tuple[list[str], int]:
    """What the parser or the compiler refuses, and the bytes of the engine."""
    logger = _logger(trt)
    builder = trt.Builder(logger)
    # Always strongly typed, as build.json asks of TensorRT 10 and as TensorRT 11 does by itself.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        errors = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        return [f"its parser refuses the file: {error}" for error in errors] or ["unparsed"], 0
    config = builder.create_builder_config()
    for shapes in recipe["profiles"]:
        profile = builder.create_optimization_profile()
        for name, sizes in shapes.items():
            profile.set_shape(name, sizes["min"], sizes["opt"], sizes["max"])
        config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, COMPUTE_CAPABILITY), 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        return [f"its compiler refuses the graph: {error}" for error in logger.errors[:3]], 0
    return [], int(engine.nbytes)


def _logger(trt: Any) -> Any:
    """A logger that keeps errors; TensorRT's own prints to the console."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # its class is known once it is imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Logger()
