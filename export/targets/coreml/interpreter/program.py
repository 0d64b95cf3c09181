"""A Core ML program as its file says it: operations, literal values, declared types.

Read from the shipped `.mlpackage` (Core ML's `Model.proto` and `MIL.proto`, and the weight file),
never from the converter's program in memory, so that what is checked is what is shipped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

LiteralValue = NDArray[np.generic] | str | tuple[str, ...]
"""A value written into the file: numbers as an array of any rank, text, or a list of text."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type that the file declares for a value.

    Attributes:
        dtype: Core ML's name in lower case, such as `float16`, `int32`, `bool` or `string`.
        shape: Sizes, with None where the file leaves one open. `()` is a scalar.
    """

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """An argument that is the result of an earlier operation, or an input of the program."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """An argument that is written into the operation itself."""

    value: LiteralValue


@dataclass(frozen=True, slots=True)
class OperationResult:
    """One result of an operation. `type` is None for what is not a tensor (a dictionary)."""

    name: str
    type: TensorType | None


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the program.

    Attributes:
        type: What it does, such as `conv`.
        arguments: Parameter -> what is bound to it; more than one only where the operation takes a
            tuple (`concat`).
        results: What it computes.
    """

    type: str
    arguments: Mapping[str, tuple[Reference | Constant, ...]]
    results: tuple[OperationResult, ...]

    @property
    def place(self) -> str:
        """How a message names this operation: its type and its first result."""
        return f"{self.type} ({self.results[0].name if self.results else 'no result'})"


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An input that takes an image; Core ML hands its pixels to the program as 0..255."""

    name: str
    height: int
    width: int
    color: Literal["RGB", "BGR", "GRAYSCALE"]


@dataclass(frozen=True, slots=True)
class ArrayInput:
    """An input that takes an array of the declared shape."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """The `main` function of a Core ML program, with what the model's description says of it.

    Attributes:
        specification_version: Core ML's; 8 is iOS 17.
        inputs: As the description declares them, in its order.
        outputs: Names, in the description's order.
        operations: In the order in which the file runs them.
        metadata: The user-defined metadata.
        labels: The classes of the `classify` operation, if there is one.
    """

    specification_version: int
    inputs: tuple[ImageInput | ArrayInput, ...]
    outputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    metadata: Mapping[str, str]
    labels: tuple[str, ...] | None
