"""The contract of an export target: `Target` writes a format's files, `Model` runs them again.

A target is one folder in `targets/` whose `__init__.py` ends with `TARGET = MyTarget()`. It says
which precisions it has and which quantization schemes each of them takes, writes its model files
from a `torch.export` program, and opens them again for the gates. Everything else (bundle, golden
photos, gates, the search for a good quantization) is shared and knows no target by name.
`docs/adding-a-target.md` has a whole one.
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
    """The float program or, for a precision with a scheme, the quantized one. It takes photos
    (N, C, H, W) as float32, 0 to 255."""
    output_names: tuple[str, ...]
    """Names of the program's outputs, in order: `embedding` (N, D) and, with a head, `logits`
    (N, classes)."""
    spec: StudentSpec
    """The student's input size, preprocessing and classes."""
    precision: Precision
    batch: Batch
    """A number of photos, or `dynamic` for any."""
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
    """Runtime -> the oldest version that takes the file."""
    details: dict[str, Any] = dataclasses.field(default_factory=dict)
    """How it was written, for the manifest's `provenance.model`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong in a model file."""

    where: str
    """Node, tensor or block of the file."""
    problem: str
    """Continues `where` in a sentence."""

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}"


@dataclasses.dataclass(frozen=True, slots=True)
class NotRun:
    """A gate that could not be run on this machine."""

    gate: str
    reason: str
    """Why, and what to do."""

    def __str__(self) -> str:
        return f"{self.gate}: not run: {self.reason}"


def round_per_channel(weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(O, ...) weights rounded to 8 bits, symmetric, with one scale for each output channel."""
    largest = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1)
    return np.asarray(np.rint(weight / scale) * scale, dtype=np.float32)


class Model(abc.ABC):
    """An exported model, opened for the gates on this machine. It does not time itself."""

    runner: ClassVar[str]
    """What runs it, for reports: `"onnxruntime CPU"`, `"Core ML reference interpreter"`."""

    @abc.abstractmethod
    def infer(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Runs a batch.

        Args:
            pixels: (N, C, H, W) photos as the preprocessing leaves them.

        Returns:
            `embedding` (N, D) and, where there is one, `logits` (N, C).
        """

    def answer(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
        """All outputs of a batch, with those that were added, in the types that an app reads."""
        return dict(self.infer(pixels))

    @abc.abstractmethod
    def layers(
        self, pixels: npt.NDArray[np.uint8], names: Sequence[str]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Node name of the program -> its value in the model; nodes that it lacks are left out.

        Args:
            pixels: (N, C, H, W) photos.
            names: Nodes of the program that was exported.
        """

    def infer_natively(
        self, pixels: npt.NDArray[np.uint8]
    ) -> dict[str, npt.NDArray[np.float32]] | None:
        """`infer` by the format's own engine; None where this machine lacks it or it is the same.

        Core ML on a Mac, where elsewhere an interpreter of ours stands in for it.
        """
        return None

    @abc.abstractmethod
    def lint(self) -> tuple[Finding, ...]:
        """Everything that is wrong with the graph; each target documents its own rules."""

    def single_run(self) -> Callable[[], object] | None:
        """A function that runs one photo on one thread, for `export.speed` to time.

        None where this machine does not have the engine that an app would have: the time of an
        interpreter says nothing about the model.
        """
        return None


class Target(abc.ABC):
    """An export format."""

    name: ClassVar[str]
    """As `--target` has it: the folder's name."""
    precisions: ClassVar[tuple[Precision, ...]]
    """Those that it writes, the preferred first."""
    schemes: ClassVar[Mapping[Precision, tuple[str, ...]]]
    """Precision -> its quantization schemes, the default first; a float precision is absent."""
    options: ClassVar[Mapping[str, Any]] = {}
    """The target's own options with their defaults."""
    modules: ClassVar[tuple[str, ...]] = ()
    """Optional Python modules that it needs."""
    layout: ClassVar[Layout] = "NCHW"
    """Order of the axes of the model's input."""
    input_type: ClassVar[InputType] = "float32"
    """Type of the model's input; its values are 0 to 255 in either case."""
    smallest_in_bytes: ClassVar[int] = 0
    """Weights with fewer elements stay float in w8: their scales would cost what bytes save."""
    channels: ClassVar[tuple[int, ...]] = (1, 3)
    """How many channels a photo may have: 1 (grey), 3 (RGB), 4 (RGB and one more)."""
    adds_outputs: ClassVar[bool] = False
    """Whether it writes the outputs of `WriteRequest.added`."""
    fixed_batch: ClassVar[int | None] = None
    """The one batch size that the format takes; None where any goes."""
    judges_natively: ClassVar[bool] = False
    """Whether its models have `infer_natively`; top-1 agreement is then checked by that, too."""
    parity_limit: ClassVar[Mapping[Precision, float]]
    """Float precision -> the largest error of an output, relative to its largest value."""
    advice: ClassVar[Mapping[str, str]] = {}
    """Gate of the target's own, without ` on ...` -> what to do where it does not hold."""
    rounding_slack: ClassVar[float] = 1.5
    """The limit of gate `rounding`: distance of a quantized file to the simulated program, over
    that program's distance to the student. Lower where the file computes in float32 between its
    integers, as the simulation does."""

    def input_type_of(self, options: Mapping[str, Any]) -> InputType:
        """The input's type with these options; `input_type` unless an option chooses it."""
        del options
        return self.input_type

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuses values of the target's own options, before a photo is read.

        Raises:
            UsageError: If a value is none that it takes.
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
        """A layer's weight (O, I, ...) as w8 stores it, in float."""
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
        """Differences between the files and the manifest, beside what the model computes.

        Versions, metadata, build settings, further outputs: whatever an app or a builder reads.

        Args:
            folder: The bundle.
            manifest: The bundle's.
            model: From `open`.
            pixels: (N, C, H, W) a few photos, for outputs that no other gate checks.
        """
        del folder, manifest, model, pixels
        return ()

    def compile_gate(self, folder: Path, manifest: Manifest) -> GateResult | NotRun | None:
        """A gate by the device's own compiler or simulator; None where the target has none.

        It is printed and not recorded in the bundle, as other machines lack the compiler; its name
        ends in ` on this machine`. `NotRun` says what to install.
        """
        del folder, manifest
        return None
