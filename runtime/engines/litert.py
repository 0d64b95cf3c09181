"""LiteRT: `.tflite` models on the CPU, with XNNPACK's kernels.

It runs on the device: Python 3.8, numpy and `ai-edge-litert` (or `tflite-runtime`, its older name).
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import os
import sys
import tempfile
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
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from edgeseed.runtime.engine import Tensors

UNITS = ("xnnpack", "cpu")
"""`xnnpack`: its kernels, and LiteRT's own where it has none. `cpu`: LiteRT's own alone."""
_MODULES = ("ai_edge_litert", "tflite_runtime")
_DELEGATE = "DELEGATE"
_IDENTIFIER = b"TFL3"
"""Bytes 4 to 7 of every file."""


class LiteRTEngine(Engine):
    """One model in LiteRT's interpreter.

    Args:
        interpreter: LiteRT's, with its tensors allocated.
        placement: where its operators go.
        settings: what it was opened with.
    """

    name = "litert"
    targets = ("litert",)
    units = UNITS
    packages = ("ai-edge-litert",)

    def __init__(self, interpreter: Any, *, placement: Placement, settings: dict[str, Any]) -> None:
        self._interpreter = interpreter
        runner = interpreter.get_signature_runner()
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        self.inputs = tuple(_spec(name, each) for name, each in inputs.items())
        self.outputs = tuple(_spec(name, each) for name, each in outputs.items())
        self.placement = placement
        self.settings = settings
        self._places = {name: each["index"] for name, each in {**inputs, **outputs}.items()}

    @classmethod
    def version(cls) -> str:
        """Version of LiteRT's package."""
        package, _ = _litert()
        return str(getattr(package, "__version__", None) or _installed_version(package.__name__))

    @classmethod
    def open(cls, model: Path, *, unit: str, threads: int) -> LiteRTEngine:
        """Load the model, with XNNPACK or without."""
        if unit not in UNITS:
            raise EngineError("litert has no unit " + repr(unit) + "; it has: " + ", ".join(UNITS))
        _, module = _litert()
        _check_file(model, unit)
        settings: dict[str, Any] = {"num_threads": threads, "xnnpack": unit == "xnnpack"}
        kinds = module.OpResolverType
        resolver = kinds.AUTO if unit == "xnnpack" else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            with _quiet():
                interpreter = module.Interpreter(
                    model_path=str(model), num_threads=threads,
                    experimental_op_resolver_type=resolver,
                )  # fmt: skip
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            text = (str(error).splitlines() or [type(error).__name__])[0]
            raise EngineError(
                f"litert {cls.version()} cannot open {model.name} on {unit}: {text}"
            ) from error
        return cls(interpreter, placement=_placement(interpreter, unit), settings=settings)

    def infer(self, feeds: Tensors) -> Tensors:
        """Run once; one photo at a time."""
        for name, value in feeds.items():
            self._interpreter.set_tensor(self._places[name], value)
        self._interpreter.invoke()
        return {
            each.name: self._interpreter.get_tensor(self._places[each.name])
            for each in self.outputs
        }

    def close(self) -> None:
        """Let go of the model."""
        del self._interpreter


def _litert() -> tuple[Any, Any]:
    """LiteRT's package and its interpreter's module."""
    # One that is there and broken is not passed over for the other.
    found = [name for name in _MODULES if importlib.util.find_spec(name) is not None]
    package, module = (
        import_engine((found or _MODULES)[0] + part, title="LiteRT", package="ai-edge-litert")
        for part in ("", ".interpreter")
    )
    return package, module


def _check_file(model: Path, unit: str) -> None:
    """Refuses what is no LiteRT file: LiteRT itself would show an errno, or an address."""
    with model.open("rb") as file:
        start = file.read(8)
    if start[4:] != _IDENTIFIER:
        what = "is empty" if not start else "is no LiteRT file, it begins with " + repr(start)
        raise EngineError(
            "litert cannot open " + model.name + " on " + unit + ": it " + what + "; export the "
            "bundle anew"
        )


def _installed_version(name: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(name.replace("_", "-"))
    except metadata.PackageNotFoundError:
        return "unknown"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what LiteRT's C++ says of its delegates from stderr, which the host reads."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        try:
            os.dup2(file.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def _spec(name: str, details: dict[str, Any]) -> EngineTensor:
    shape = tuple(int(size) for size in details["shape"])
    return EngineTensor(name, shape, np.dtype(details["dtype"]).name)


def _placement(interpreter: Any, unit: str) -> Placement:
    """Which operators XNNPACK took: those between what its own nodes read and give.

    The interpreter lists all operators of the file, and behind them one node for each part of the
    graph that a delegate took over.
    """
    listed = getattr(interpreter, "_get_ops_details", None)
    if listed is None:
        return Placement(unit, unit, None)
    operators = listed()
    parts = [each for each in operators if _is_delegate(each)]
    own = [each for each in operators if not _is_delegate(each)]
    taken = set()
    makers = {int(at): number for number, each in enumerate(own) for at in each["outputs"]}
    for part in parts:
        known = {int(at) for at in part["inputs"]}
        waiting = [int(at) for at in part["outputs"]]
        while waiting:
            at = waiting.pop()
            number = makers.get(at)
            if at in known or number is None or number in taken:
                continue
            taken.add(number)
            waiting += [int(each) for each in own[number]["inputs"]]
    fallback = collections.Counter(
        str(each["op_name"]) for number, each in enumerate(own) if number not in taken
    )
    nodes = {"xnnpack": len(taken), "cpu": len(own) - len(taken)}
    if unit == "cpu":
        return Placement(unit, unit, nodes, {})
    actual = "xnnpack" if taken else "cpu"
    return Placement(unit, actual, nodes, dict(fallback))


def _is_delegate(operator: dict[str, Any]) -> bool:
    name = str(operator["op_name"])
    return name == _DELEGATE or "Delegate" in name


ENGINE = LiteRTEngine
