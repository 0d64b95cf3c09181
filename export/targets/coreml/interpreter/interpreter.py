"""The reference interpreter: what a Core ML program computes, in torch, on any machine.

It runs the program of the shipped file, operation by operation, and checks each result against the
shape that the file declares. It says what the *graph* computes. It says nothing of the kernels of a
phone's Neural Engine or GPU, which sum in another order and in other precisions: its results are
labelled "reference interpreter", never "device".

How numbers are rounded is chosen by `Arithmetic`:

* `"declared"` (the default): every operation computes in float32 and its result is rounded to the
  type that the file declares for it. For a float16 package this is float16 storage with wide
  accumulation, the most careful arithmetic that a device may use.
* `"float32"`: nothing is rounded but the weights, which are float16 in the file. What is left of
  the difference to the student is then an error of the conversion, not of the arithmetic.

Core ML fixes the batch of an image at 1. Many photos are run through the program at once by
`torch.vmap`: it maps the program over photos exactly, whatever shapes are written into the program,
where widening a batch axis would have to guess which 1 is the batch.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeseed.core.errors import WorkError
from edgeseed.export.targets.coreml.interpreter.operations import OPERATIONS, TUPLES
from edgeseed.export.targets.coreml.interpreter.program import (
    ArrayInput,
    Constant,
    ImageInput,
    LiteralValue,
    Operation,
    Program,
    Reference,
    TensorType,
)
from edgeseed.export.targets.coreml.interpreter.reading import read_program

Arithmetic = Literal["declared", "float32"]

_PHOTOS_AT_ONCE = 16

Value = Tensor | str | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Step:
    """An operation, ready to run: its function, its arguments, and what nobody needs after it."""

    operation: Operation
    function: Callable[..., Any]
    arguments: Mapping[str, tuple[str, ...] | str]
    last_uses: tuple[str, ...]


class Interpreter:
    """A Core ML program that runs on this machine.

    Constants are decompressed once, here.

    Args:
        program: The program, as read from its file.
        arithmetic: How results are rounded; see the module.

    Raises:
        WorkError: If the program has an operation, or a parameter of one, that this interpreter
            lacks; the message names each and where it is.
    """

    def __init__(self, program: Program, *, arithmetic: Arithmetic = "declared") -> None:
        _check_known(program)
        self.program = program
        self.arithmetic: Arithmetic = arithmetic
        self._constants: dict[str, Value] = {}
        steps = [step for each in program.operations if (step := self._prepare(each)) is not None]
        self._steps = _with_last_uses(steps, kept=set(program.outputs) | self._constants.keys())

    def run(
        self,
        inputs: Mapping[str, Tensor],
        *,
        observe: Callable[[str, Tensor], None] | None = None,
    ) -> dict[str, Tensor]:
        """Runs the program once.

        Args:
            inputs: A tensor for each input, of its declared shape: pixels 0..255 for an image, in
                the input's own order of colours.
            observe: Called with the name and value of every result.

        Returns:
            The outputs by name; of a classifier, the number of the class and all probabilities.

        Raises:
            WorkError: If an operation fails, or its result is not of the shape the file declares.
        """
        values: dict[str, Value] = {**self._constants, **inputs}
        for step in self._steps:
            for result, value in zip(
                step.operation.results, self._compute(step, values), strict=True
            ):
                values[result.name] = value
                if observe is not None:
                    observe(result.name, value)
            for name in step.last_uses:
                del values[name]
        return {name: _tensor(values[name]) for name in self.program.outputs}

    def run_photos(
        self, pixels: NDArray[np.uint8] | NDArray[np.float32]
    ) -> dict[str, NDArray[np.float32]]:
        """Runs the program on photos, one after the other as far as the program can tell.

        Args:
            pixels: (N, C, H, W), RGB or grey, 0..255.

        Returns:
            The outputs by name, (N, ...) each, without the batch of 1 that the program declares.

        Raises:
            WorkError: If the program takes no photo of this shape, or as for `run`.
        """
        (feature,) = self.program.inputs if len(self.program.inputs) == 1 else (None,)
        if feature is None:
            names = ", ".join(each.name for each in self.program.inputs)
            raise WorkError(f"the program takes {names}; photos need a program with one input")
        photos = torch.from_numpy(np.ascontiguousarray(pixels)).float()
        photos = _as_declared(photos, feature)
        with torch.no_grad():
            parts = [self._run_chunk(feature.name, part) for part in photos.split(_PHOTOS_AT_ONCE)]
        return {
            name: np.concatenate([part[name].numpy().astype(np.float32) for part in parts])
            for name in self.program.outputs
        }

    def observe_photo(
        self, pixels: NDArray[np.uint8], observe: Callable[[str, Tensor], None]
    ) -> None:
        """Runs one photo, (3, H, W), and shows every value on the way."""
        (feature,) = self.program.inputs
        photo = _as_declared(torch.from_numpy(pixels[None]).float(), feature)
        with torch.no_grad():
            self.run({feature.name: photo}, observe=observe)

    def infinite_weights(self) -> tuple[str, ...]:
        """Operations with a weight or bias that is infinite or no number."""
        return tuple(
            step.operation.place
            for step in self._steps
            for parameter in ("weight", "bias")
            if not _is_finite(self._constants.get(str(step.arguments.get(parameter))))
        )

    def _run_chunk(self, name: str, photos: Tensor) -> dict[str, Tensor]:
        def one(photo: Tensor) -> dict[str, Tensor]:
            return self.run({name: photo.unsqueeze(0)})

        outputs: dict[str, Tensor] = torch.func.vmap(one, randomness="error")(photos)
        # A program's own batch is 1: (N, 1, D) -> (N, D).
        return {
            key: value.squeeze(1) if value.ndim > 2 and value.shape[1] == 1 else value
            for key, value in outputs.items()
        }

    def _prepare(self, operation: Operation) -> _Step | None:
        """A step; None for what is constant and was computed now."""
        if operation.type == "const":
            ((constant,),) = operation.arguments.values()
            assert isinstance(constant, Constant)
            self._constants[operation.results[0].name] = _value(constant.value)
            return None
        arguments: dict[str, tuple[str, ...] | str] = {}
        for parameter, bound in operation.arguments.items():
            names = tuple(
                self._name(each, f"{operation.results[0].name}.{parameter}.{place}")
                for place, each in enumerate(bound)
            )
            arguments[parameter] = names if parameter in TUPLES else names[0]
        step = _Step(operation, OPERATIONS[operation.type], arguments, ())
        if not operation.type.startswith("constexpr_"):
            return step
        for result, value in zip(
            operation.results, self._compute(step, self._constants), strict=True
        ):
            self._constants[result.name] = value
        return None

    def _name(self, argument: Reference | Constant, place: str) -> str:
        """The name of an argument; what is written in place gets one and joins the constants."""
        if isinstance(argument, Reference):
            return argument.name
        self._constants[place] = _value(argument.value)
        return place

    def _compute(self, step: _Step, values: Mapping[str, Value]) -> tuple[Tensor, ...]:
        arguments = {
            parameter: values[names]
            if isinstance(names, str)
            else tuple(values[name] for name in names)
            for parameter, names in step.arguments.items()
        }
        try:
            computed = step.function(**arguments)
        except WorkError as error:
            raise WorkError(f"{step.operation.place}: {error}") from error
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise WorkError(f"{step.operation.place}: cannot be computed: {reason}") from error
        results: tuple[Tensor, ...] = computed if isinstance(computed, tuple) else (computed,)
        return tuple(
            self._conform(value, result.type, step.operation)
            for value, result in zip(results, step.operation.results, strict=True)
        )

    def _conform(self, value: Tensor, declared: TensorType | None, operation: Operation) -> Tensor:
        """A result in its declared type, if it has its declared shape."""
        if declared is None or declared.dtype == "string":
            return value
        fits = len(declared.shape) == value.ndim and all(
            size is None or size == actual
            for size, actual in zip(declared.shape, value.shape, strict=False)
        )
        if not fits:
            raise WorkError(
                f"{operation.place}: computes the shape {tuple(value.shape)}, "
                f"where the file declares {declared.shape}"
            )
        if declared.dtype == "float16" and self.arithmetic == "declared":
            return value.half().float()
        return value.to(_torch_dtype(declared.dtype))


def open_interpreter(package: Path, *, arithmetic: Arithmetic = "declared") -> Interpreter:
    """The interpreter of a `.mlpackage`.

    Raises:
        ArtifactError: If the package is damaged or not an ML program.
        WorkError: If the program has an operation that the interpreter lacks.
    """
    return Interpreter(read_program(package), arithmetic=arithmetic)


def _check_known(program: Program) -> None:
    lacking = [each for each in program.operations if each.type not in {"const", *OPERATIONS}]
    if lacking:
        first = {each.type: each.place for each in reversed(lacking)}
        raise WorkError(
            "the reference interpreter has no operation "
            + ", ".join(sorted(first.values()))
            + ", so that nothing proves the package; export it to another target, such as onnx, or "
            "add it to export/targets/coreml/interpreter/operations, with a test against torch"
        )
    for operation in program.operations:
        if operation.type == "const":
            continue
        known = inspect.signature(OPERATIONS[operation.type]).parameters
        unknown = operation.arguments.keys() - known
        if unknown:
            raise WorkError(
                f"{operation.place}: has the parameter {', '.join(sorted(unknown))}, "
                "which the reference interpreter does not know"
            )


def _with_last_uses(steps: list[_Step], *, kept: set[str]) -> tuple[_Step, ...]:
    """Notes at each step which values no later one reads, so that memory holds what is needed."""
    seen = set(kept)
    annotated: list[_Step] = []
    for step in reversed(steps):
        read = {
            name
            for names in step.arguments.values()
            for name in ((names,) if isinstance(names, str) else names)
        }
        made = {result.name for result in step.operation.results}
        done = tuple(sorted((read | made) - seen))
        seen |= read
        annotated.append(_Step(step.operation, step.function, step.arguments, done))
    return tuple(reversed(annotated))


def _value(literal: LiteralValue) -> Value:
    """A literal of the file as the operations take it: float16 is widened, integers are int32."""
    if isinstance(literal, str | tuple):
        return literal
    kind = literal.dtype.kind
    wide = {"f": np.float32, "i": np.int32, "u": np.int32, "b": np.bool_}[kind]
    if literal.dtype.itemsize == 8 and kind in "iu":
        wide = np.int64
    return torch.from_numpy(np.array(literal, dtype=wide))


def _is_finite(value: Value | None) -> bool:
    return not isinstance(value, Tensor) or bool(torch.isfinite(value).all())


def _torch_dtype(declared: str) -> torch.dtype:
    if declared.startswith("float"):
        return torch.float32
    if declared == "bool":
        return torch.bool
    return torch.int64 if declared in {"int64", "uint64"} else torch.int32


def _tensor(value: Value) -> Tensor:
    assert isinstance(value, Tensor)  # text is an argument, never an output
    return value


def _as_declared(photos: Tensor, feature: ImageInput | ArrayInput) -> Tensor:
    """Photos in the order of colours that the model's description declares."""
    if isinstance(feature, ArrayInput):
        expected = feature.shape[1:]
    else:
        channels = 1 if feature.color == "GRAYSCALE" else 3
        expected = (channels, feature.height, feature.width)
        if feature.color == "BGR":
            photos = photos.flip(1)
    if tuple(photos.shape[1:]) != tuple(expected):
        raise WorkError(
            f"input {feature.name!r} takes photos of {tuple(expected)}, "
            f"got {tuple(photos.shape[1:])}"
        )
    return photos
