"""The seam between the export stage and a target.

A target is one folder in `targets/` whose `__init__.py` ends with `TARGET = MyTarget()`. It says
which precisions it has and which quantization scheme each of them takes, writes its model files
from the one exported program, and opens them again for the gates. Everything else (bundle, golden
photos, gates, the search for a good quantization) is shared and knows no target by name.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from torch.export import ExportedProgram

from edgeseed.core.bundle import GateResult, Manifest
from edgeseed.core.optional import require
from edgeseed.core.student import StudentSpec
from edgeseed.export.added_outputs import AddedOutput
from edgeseed.export.call import Batch

Precision = Literal["fp32", "fp16", "w8", "int8"]
Layout = Literal["NCHW", "NHWC"]
InputType = Literal["float32", "uint8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "w8", "int8")


@dataclasses.dataclass(frozen=True, kw_only=True)
class WriteRequest:
    """What a target makes its files from."""

    program: ExportedProgram
    """The float program, or for a precision with a scheme the quantized one."""
    output_names: tuple[str, ...]
    spec: StudentSpec
    precision: Precision
    batch: Batch
    options: Mapping[str, Any]
    """The target's own options, such as `opset`; unknown ones were refused before."""
    added: tuple[AddedOutput, ...] = ()
    """Outputs to compute from the logits, in float32."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WrittenModel:
    """What a target wrote."""

    model: str
    """Path of the model's file or folder, relative to the bundle."""
    minimum_runtime: dict[str, str]
    """Oldest runtime that takes the file, by the runtime's name."""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the manifest should remember of how it was written."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something in a model file that should not be there."""

    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


@dataclasses.dataclass(frozen=True, slots=True)
class NotRun:
    """A gate that there is for a bundle, and that could not be run here."""

    gate: str
    reason: str
    """With what helps."""

    def __str__(self) -> str:
        return f"{self.gate}: not run: {self.reason}"


def round_per_channel(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """To eight bits, symmetric, one scale an output channel."""
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1)
    return np.asarray(np.rint(weight / scale) * scale, dtype=np.float32)


class Model(abc.ABC):
    """An exported model, opened for the gates on this machine. It does not time itself."""

    runner: ClassVar[str]
    """What computes, for reports: `"onnxruntime CPU"`, `"Core ML reference interpreter"`."""

    @abc.abstractmethod
    def infer(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Runs a batch.

        Args:
            pixels: (N, C, H, W) photos as the preprocessing leaves them.

        Returns:
            `embedding` (N, D) and, where there is one, `logits` (N, C).
        """

    def answer(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """As `infer`, with the outputs that were added, of the types that an app reads."""
        return dict(self.infer(pixels))

    @abc.abstractmethod
    def layers(
        self, pixels: npt.NDArray[np.uint8], names: Sequence[str]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Values inside the model, by the program's node names; what it lacks is left out."""

    def infer_natively(
        self, pixels: npt.NDArray[np.uint8]
    ) -> dict[str, npt.NDArray[np.float32]] | None:
        """As `infer`, by the format's own engine where that is another and this machine has it."""
        return None

    @abc.abstractmethod
    def lint(self) -> tuple[Finding, ...]:
        """What is wrong with the graph itself: see the target."""

    def single_run(self) -> Callable[[], object] | None:
        """A run of one photo on one thread, made ready to be repeated (see `export.speed`).

        None where what computes here is not the engine that an app would have, such as an
        interpreter: how long that takes says nothing about the model.
        """
        return None


class Target(abc.ABC):
    """An export format."""

    name: ClassVar[str]
    precisions: ClassVar[tuple[Precision, ...]]
    schemes: ClassVar[Mapping[Precision, tuple[str, ...]]]
    """Schemes that a precision may take, the default first; without any it is float."""
    options: ClassVar[Mapping[str, Any]] = {}
    """The target's own options with their defaults."""
    modules: ClassVar[tuple[str, ...]] = ()
    """Python modules that it needs and not every installation has."""
    layout: ClassVar[Layout] = "NCHW"
    """Order of the model's input: an app hands its photo over in this order."""
    input_type: ClassVar[InputType] = "float32"
    """Type of the model's input, whose values are the photo's bytes in either case."""
    smallest_in_bytes: ClassVar[int] = 0
    """Weights with fewer numbers stay in float where a precision stores weights in bytes: a scale
    beside them eats what bytes save."""
    channels: ClassVar[tuple[int, ...]] = (1, 3)
    """How many channels a photo may have: 1 (grey), 3 (RGB), 4 (RGB and one more)."""
    adds_outputs: ClassVar[bool] = False
    """Whether it writes the outputs of `WriteRequest.added`."""
    fixed_batch: ClassVar[int | None] = None
    """The one batch size that the format takes; None where any goes."""
    judges_natively: ClassVar[bool] = False
    """Whether its models have `infer_natively`, by which decisions are judged besides."""
    parity_limit: ClassVar[Mapping[Precision, float]]
    """Largest relative error of a float precision against the student itself."""
    advice: ClassVar[Mapping[str, str]] = {}
    """What helps where a gate of the target's own does not hold, by its name without ` on ...`."""
    rounding_slack: ClassVar[float] = 1.5
    """How far a quantized file may be from the simulated program, over how far that is from the
    student. Less where the file computes in float32 between its integers, as the simulation does.
    """

    def input_type_of(self, options: Mapping[str, Any]) -> InputType:
        """Type of the model's input, where one of the target's own options may choose it."""
        del options
        return self.input_type

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuses values of the target's own options, before a photo is read.

        Raises:
            UsageError: If one is none that it takes.
        """
        del options

    def require_modules(self) -> None:
        """Imports what `modules` names, before a photo is read.

        Raises:
            MissingDependencyError: If one is not installed or broken; it says what to do.
        """
        for module in self.modules:
            require(module, extra=self.name, why=f"--target {self.name}")

    def unavailable(
        self, precision: Precision, scheme: str | None, options: Mapping[str, Any]
    ) -> str:
        """Why a precision cannot be made with these options, and what to do; empty where it can.

        Args:
            precision: One of the target's.
            scheme: Of its integers; None where it is float.
            options: The target's own, checked.
        """
        del precision, scheme, options
        return ""

    def round_weight(
        self, weight: npt.NDArray[np.float32], options: Mapping[str, Any]
    ) -> npt.NDArray[np.float32]:
        """A layer's weight, (out, in, ...), as a precision that stores weights in bytes has it."""
        del options
        return weight if weight.size < self.smallest_in_bytes else round_per_channel(weight)

    @abc.abstractmethod
    def write(self, request: WriteRequest, folder: Path) -> WrittenModel:
        """Writes the model into `folder`.

        Raises:
            WorkError: If the program has an operator that the target lacks; the message names it.
        """

    @abc.abstractmethod
    def open(self, folder: Path, manifest: Manifest) -> Model:
        """Opens the model of a bundle.

        Raises:
            ArtifactError: If the file is no whole model, or not the one of the manifest.
        """

    def check(
        self, folder: Path, manifest: Manifest, model: Model, pixels: npt.NDArray[np.uint8]
    ) -> tuple[Finding, ...]:
        """What the files say beside their numbers, and is not as the manifest has it.

        Versions, metadata, build settings, further outputs: whatever an app or a builder can read
        is recomputed here, or is absent.

        Args:
            folder: The bundle.
            manifest: The bundle's.
            model: As `open` gives it.
            pixels: (N, 3, H, W) a few photos, for outputs that no other gate looks at.
        """
        del folder, manifest, model, pixels
        return ()

    def compile_gate(self, folder: Path, manifest: Manifest) -> GateResult | NotRun | None:
        """Whether the device's own compiler takes the files, where this machine has it.

        Its name ends in ` on this machine`: it is told, and not recorded in the bundle. So is that
        it was not run. None where there is nothing to say.
        """
        del folder, manifest
        return None
