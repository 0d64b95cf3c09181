"""The contract of an engine: it opens a model, runs it, and says on which unit. It times nothing.

An engine is one file in `engines/`, which ends with `ENGINE = MyEngine`. This file runs on the
device, with Python 3.8 and numpy.
"""

from __future__ import annotations

import abc
import importlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any, ClassVar

    from numpy.typing import NDArray

    Tensors = dict[str, NDArray[Any]]


class EngineError(Exception):
    """The engine is absent, has no such unit, or refuses the model; the message says what to do."""


def import_engine(module: str, *, title: str, package: str) -> Any:
    """An engine's library, imported on the device.

    Args:
        module: Its module, such as `onnxruntime`.
        title: Its name in messages, such as `ONNX Runtime`.
        package: Its package for pip.

    Raises:
        EngineError: If it is not installed, or broken; the message says which.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: of its own libraries that do not load
        name = getattr(error, "name", None) or ""
        if isinstance(error, ModuleNotFoundError) and name == module.partition(".")[0]:
            raise EngineError(
                title + " is not installed for this Python; install it there: python3 -m pip "
                "install " + package
            ) from error
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise EngineError(
            title + " is installed for this Python and cannot be imported (" + reason + "); "
            "install it anew there: python3 -m pip install --force-reinstall " + package
        ) from error


@dataclass(frozen=True)
class EngineTensor:
    """Name, shape (None where an axis is free) and numpy dtype of one input or output."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class Placement:
    """The unit that was asked for, and the units on which the model's nodes run.

    Attributes:
        requested: the unit that was asked for, such as `cpu` or `cuda`.
        actual: the unit that runs the model. Where `nodes` is None, the engine says so and nobody
            saw it.
        nodes: unit -> number of graph nodes, after the engine's own fusions; None where the engine
            does not tell.
        fallback: operator -> number of nodes that are on another unit than the requested one; None
            where the engine does not tell.
    """

    requested: str
    actual: str
    nodes: dict[str, int] | None
    fallback: dict[str, int] | None = None

    @property
    def share(self) -> float | None:
        """Fraction of nodes on the requested unit, 0 to 1; None where it is not known."""
        if not self.nodes:
            return None
        return self.nodes.get(self.requested, 0) / sum(self.nodes.values())

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy, with the share in it."""
        return dict(asdict(self), share=self.share)


@dataclass(frozen=True)
class LayerTime:
    """One layer of the model as the engine runs it: after its own fusions.

    Attributes:
        name: as the engine calls it.
        kind: the operator, such as `Conv`.
        unit: where it ran.
        mean_ns: mean over the runs, in nanoseconds.
    """

    name: str
    kind: str
    unit: str
    mean_ns: int


@dataclass(frozen=True)
class LayerTimes:
    """Layers in the order in which they ran, in runs that are timed layer by layer.

    Reading the clock around each layer makes these runs slower than the latency's. So the shares of
    the layers count, not their sum.

    Attributes:
        runs: number of runs in the means; an engine may leave out the slower half.
        run_ns: mean of a whole run, in nanoseconds.
        layers: the layers that took any time.
    """

    runs: int
    run_ns: int
    layers: list[LayerTime]


class Engine(abc.ABC):
    """One model, opened in this process.

    Attributes:
        name: the plug-in's name.
        targets: export targets whose models it reads.
        units: compute units that can be asked for, the default first.
        packages: packages that `?install=venv` installs on a device; none where the engine comes
            with the system.
        inputs, outputs: of the opened model.
        placement: where its nodes run.
        settings: what it was opened with, for the result file.
    """

    name: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]
    units: ClassVar[tuple[str, ...]]
    packages: ClassVar[tuple[str, ...]] = ()

    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    placement: Placement
    settings: dict[str, Any]

    @classmethod
    @abc.abstractmethod
    def version(cls) -> str:
        """Version of the library; it is imported here.

        Raises:
            EngineError: If the library is not installed or broken.
        """

    @classmethod
    @abc.abstractmethod
    def open(cls, model: Path, *, unit: str, threads: int) -> Engine:
        """The model on a unit, with a number of threads. No other unit is taken in silence.

        Raises:
            EngineError: If the unit is not there, or the library refuses the model.
        """

    @abc.abstractmethod
    def infer(self, feeds: Tensors) -> Tensors:
        """Runs once: arrays by input name -> arrays by output name."""

    @classmethod
    def time_layers(
        cls, model: Path, *, unit: str, threads: int, feeds: Tensors, runs: int
    ) -> LayerTimes | None:
        """The time of each layer, in a session of its own; None where the engine does not tell."""
        return None

    @abc.abstractmethod
    def close(self) -> None:
        """Frees the model; nothing else may be called afterwards."""
