"""What an engine is: it opens a model, runs it, and says where it runs. It never times itself.

It runs on the device: Python 3.8 and numpy.
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
    """The engine is absent, has no such unit, or refuses the model; the message says the fix."""


def import_engine(module: str, *, title: str, package: str) -> Any:
    """A module of an engine, imported on the device.

    Args:
        module: Its name, such as `onnxruntime`.
        title: What people call it.
        package: What pip installs.

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
    """Where the model was asked to run, and where its nodes really are.

    `nodes` counts graph nodes by unit after the engine's own fusions; None where the engine does
    not tell, and then `actual` is what the engine says it uses, not what was seen. `fallback`
    counts the kinds of those nodes that are elsewhere, where the engine tells.
    """

    requested: str
    actual: str
    nodes: dict[str, int] | None
    fallback: dict[str, int] | None = None

    @property
    def share(self) -> float | None:
        """Fraction of nodes on the requested unit."""
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
        mean_ns: mean over the runs.
    """

    name: str
    kind: str
    unit: str
    mean_ns: int


@dataclass(frozen=True)
class LayerTimes:
    """Layers in the order in which they ran, in runs that are timed layer by layer.

    Looking at the clock around each layer makes these runs slower than those of the latency: the
    shares count, not the sum.

    Attributes:
        runs: how many count; an engine may leave out the slower half, which other work held up.
        run_ns: mean of a whole run.
        layers: those that took any time.
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
        packages: what pip installs for it on a device; none where it comes with the system.
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
        """Version of the library behind it; importing it happens here, not in `open`."""

    @classmethod
    @abc.abstractmethod
    def open(cls, model: Path, *, unit: str, threads: int) -> Engine:
        """Load `model` onto `unit` with `threads` threads; nothing is substituted silently."""

    @abc.abstractmethod
    def infer(self, feeds: Tensors) -> Tensors:
        """Run once; returns every output by name."""

    @classmethod
    def time_layers(
        cls, model: Path, *, unit: str, threads: int, feeds: Tensors, runs: int
    ) -> LayerTimes | None:
        """Time each layer, in a session of its own; None where the engine does not tell."""
        return None

    @abc.abstractmethod
    def close(self) -> None:
        """Free the model; the engine is of no use afterwards."""
