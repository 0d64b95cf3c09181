"""ONNX Runtime: `.onnx` models on the CPU, and on whatever else its build offers.

It runs on the device: Python 3.8, numpy and onnxruntime (1.16 or newer).
"""

from __future__ import annotations

import collections
import os
from typing import TYPE_CHECKING

from edgeseed.runtime.engine import Engine, EngineError, EngineTensor, Placement

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from edgeseed.runtime.engine import Tensors

# What we call a unit -> what ONNX Runtime calls it.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "directml": "DmlExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
UNITS = {provider: unit for unit, provider in PROVIDERS.items()}

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}

# Asks a session to remember which provider took which node (ONNX Runtime 1.24 and newer; older
# ones ignore the entry).
RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"


class OnnxRuntimeEngine(Engine):
    """An ONNX Runtime session."""

    name = "onnxruntime"
    targets = ("onnx",)
    units = tuple(PROVIDERS)
    packages = ("onnxruntime",)

    def __init__(self, session: Any, *, unit: str, settings: dict[str, Any]) -> None:
        self.inputs = tuple(_spec(node) for node in session.get_inputs())
        self.outputs = tuple(_spec(node) for node in session.get_outputs())
        self.placement = _placement(session, unit)
        self.settings = settings
        self._names = [output.name for output in self.outputs]
        self._session = session

    @classmethod
    def version(cls) -> str:
        """Version of ONNX Runtime."""
        return str(_onnxruntime().__version__)

    @classmethod
    def open(cls, model: Path, *, unit: str, threads: int) -> OnnxRuntimeEngine:
        """Open a session with one provider; the CPU takes what that one cannot."""
        ort = _onnxruntime()
        provider = _provider(unit, ort.get_available_providers())
        options = ort.SessionOptions()
        # One thread count for the whole run, one node after another, and kernels whose sums do
        # not depend on timing: two runs of one model give the same bits.
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
        try:
            session = ort.InferenceSession(str(model), options, providers=[provider])
        except Exception as error:  # ONNX Runtime's own types are private and differ by version
            text = str(error).splitlines()[0]
            raise EngineError(
                f"onnxruntime {ort.__version__} cannot open {model.name} on {unit}: {text}"
            ) from error
        return cls(session, unit=unit, settings=_settings(options, provider))

    def infer(self, feeds: Tensors) -> Tensors:
        """Run the session once."""
        values = self._session.run(self._names, feeds)
        return dict(zip(self._names, values))  # noqa: B905 - Python 3.8

    def close(self) -> None:
        """Let go of the session."""
        del self._session


def _onnxruntime() -> Any:
    # Since 1.29 its Linux, macOS and Android wheels report to Microsoft unless this is set before
    # the import (PR #27379): a thread and a network connection of their own, beside what we time.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "onnxruntime is not installed for this Python; install it there: "
            "python3 -m pip install onnxruntime"
        ) from error
    return onnxruntime


def _provider(unit: str, available: list[str]) -> str:
    offered = [UNITS[provider] for provider in available if provider in UNITS]
    if unit not in offered:
        raise EngineError(
            f"this build of onnxruntime has no unit {unit!r}; it has: {', '.join(offered)}"
        )
    return PROVIDERS[unit]


def _settings(options: Any, provider: str) -> dict[str, Any]:
    return {
        "provider": provider,
        "intra_op_threads": options.intra_op_num_threads,
        "inter_op_threads": options.inter_op_num_threads,
        "execution_mode": options.execution_mode.name,
        "graph_optimization_level": options.graph_optimization_level.name,
        "deterministic_compute": options.use_deterministic_compute,
    }


def _spec(node: Any) -> EngineTensor:
    shape = tuple(axis if isinstance(axis, int) else None for axis in node.shape)
    dtype: str = node.type
    return EngineTensor(node.name, shape, DTYPES.get(dtype, dtype))


def _unit_of(provider: str) -> str:
    return UNITS.get(provider, provider)


def _placement(session: Any, unit: str) -> Placement:
    """Where the nodes are; providers alone do not tell, since the CPU is always among them."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return Placement(unit, _unit_of(session.get_providers()[0]), None)
    nodes: collections.Counter[str] = collections.Counter()
    fallback: collections.Counter[str] = collections.Counter()
    for part in session.get_provider_graph_assignment_info():
        taken = part.get_nodes()
        nodes[_unit_of(part.ep_name)] += len(taken)
        if _unit_of(part.ep_name) != unit:
            fallback.update(str(node.op_type) for node in taken)
    actual = max(nodes, key=lambda name: nodes[name]) if nodes else unit
    return Placement(unit, actual, dict(nodes), dict(fallback))


ENGINE = OnnxRuntimeEngine
