"""ONNX Runtime: `.onnx` models on the CPU, and on whatever else its build offers.

It runs on the device: Python 3.8, numpy and onnxruntime (1.16 or newer).
"""

from __future__ import annotations

import collections
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from edgeseed.runtime.engine import (
    Engine,
    EngineError,
    EngineTensor,
    LayerTime,
    LayerTimes,
    Placement,
    import_engine,
)

if TYPE_CHECKING:
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
_LEAST_TO_HALVE = 4
_UNCOUNTED_RUNS = 3
"""The first runs of a session are slower."""
_KERNEL = "_kernel_time"
"""Ends the name of the event of a profile that is the layer's computation."""


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
        return cls._open(model, unit=unit, threads=threads)

    @classmethod
    def _open(
        cls, model: Path, *, unit: str, threads: int, profile_prefix: str | None = None
    ) -> OnnxRuntimeEngine:
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
        if profile_prefix is not None:
            options.enable_profiling = True
            options.profile_file_prefix = profile_prefix
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

    @classmethod
    def time_layers(
        cls, model: Path, *, unit: str, threads: int, feeds: Tensors, runs: int
    ) -> LayerTimes | None:
        """By ONNX Runtime's own profile: whole microseconds a node."""
        with tempfile.TemporaryDirectory(prefix="edgeseed-") as folder:
            prefix = str(Path(folder) / "layers")
            engine = cls._open(model, unit=unit, threads=threads, profile_prefix=prefix)
            for _ in range(_UNCOUNTED_RUNS + runs):
                engine.infer(feeds)
            file = Path(engine._session.end_profiling())
            engine.close()
            return _read_profile(json.loads(file.read_text(encoding="utf-8")), runs)

    def close(self) -> None:
        """Let go of the session."""
        del self._session


def _onnxruntime() -> Any:
    # Since 1.29 its Linux, macOS and Android wheels report to Microsoft unless this is set before
    # the import (PR #27379): a thread and a network connection of their own, beside what we time.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return import_engine("onnxruntime", title="onnxruntime", package="onnxruntime")


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


def _read_profile(events: list[dict[str, Any]], runs: int) -> LayerTimes | None:
    """The faster half of the last `runs` runs: trace events, times in whole microseconds.

    Other work on the machine can hold one run for milliseconds, and the layer that it fell into
    would be the slowest by far in a mean of all runs.
    """
    whole = [event for event in events if event.get("name") == "model_run"][-runs:]
    if not whole:
        return None
    if len(whole) >= _LEAST_TO_HALVE:
        whole = sorted(whole, key=lambda event: event["dur"])[: (len(whole) + 1) // 2]
    spans = [(event["ts"], event["ts"] + event["dur"]) for event in whole]
    spent: dict[tuple[str, str, str], int] = {}
    for event in events:
        name = str(event.get("name"))
        # Older versions have an entry before and after each kernel besides.
        if event.get("cat") != "Node" or not name.endswith(_KERNEL):
            continue
        if not any(begin <= event["ts"] <= end for begin, end in spans):
            continue
        facts = event.get("args", {})
        provider = str(facts.get("provider", ""))
        key = (
            name[: -len(_KERNEL)],
            str(facts.get("op_name", "?")),
            UNITS.get(provider, provider),
        )
        spent[key] = spent.get(key, 0) + event["dur"]
    layers = [
        LayerTime(name, kind, unit, round(1000 * us / len(whole)))
        for (name, kind, unit), us in spent.items()
        if us > 0
    ]
    run_ns = round(1000 * sum(event["dur"] for event in whole) / len(whole))
    return LayerTimes(len(whole), run_ns, layers) if layers else None


ENGINE = OnnxRuntimeEngine
