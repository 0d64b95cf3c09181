"""LiteRT (TensorFlow Lite's successor) for Android apps, boards and CPUs.

The `.tflite` file is written here, operator by operator, from the one exported program that all
targets start from; `litert-torch`, Google's converter, is not used. It would choose ranges and
integer operators itself, where edgeseed's quantization has chosen them already; it needs an older
torch than edgeseed takes (below 2.15), and brings two gigabytes along. The file format's own
classes come with LiteRT's runtime (`ai-edge-litert`, Apache-2.0), which the gates need anyway.

The model takes the photo as Android has it, (1, H, W, 3) bytes, and normalises inside. With the
option `input=float32` it takes the same numbers, 0 to 255, as floats. One photo at a time: the
sizes in a file are fixed. `fp16` and `w8` store weights small and unpack them once, when the file
is loaded: XNNPACK computes in float32. `int8` follows the scheme `litert`.
"""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import numpy.typing as npt
from torch import fx

from edgeseed.core.bundle import Manifest
from edgeseed.core.errors import UsageError
from edgeseed.core.files import atomic_file
from edgeseed.export.exact_normalisation import centre_on_whole_numbers
from edgeseed.export.program import input_of
from edgeseed.export.target import (
    Finding,
    InputType,
    Layout,
    Model,
    Precision,
    Target,
    WriteRequest,
    WrittenModel,
)
from edgeseed.export.targets.litert.added import add_outputs
from edgeseed.export.targets.litert.checks import check_file, metadata_of
from edgeseed.export.targets.litert.integers import IntegerLowering
from edgeseed.export.targets.litert.lowering import Lowering
from edgeseed.export.targets.litert.model import LiteRTModel, load_litert, open_litert

MODEL_FILE = "model.tflite"
MINIMUM_RUNTIME = {"ai-edge-litert": "2.3.0"}
_WEIGHTS = {"fp32": "float32", "fp16": "float16", "w8": "int8"}


class LiteRTTarget(Target):
    """See the module."""

    name = "litert"
    precisions = ("fp32", "fp16", "w8", "int8")
    schemes: ClassVar[Mapping[Precision, tuple[str, ...]]] = {"int8": ("litert",)}
    modules = ("ai_edge_litert",)
    layout: ClassVar[Layout] = "NHWC"
    input_type: ClassVar[InputType] = "uint8"
    options: ClassVar[Mapping[str, Any]] = {"input": "uint8"}
    adds_outputs: ClassVar[bool] = True
    fixed_batch: ClassVar[int | None] = 1
    parity_limit: ClassVar[Mapping[Precision, float]] = {"fp32": 1e-4, "fp16": 1e-2}
    rounding_slack: ClassVar[float] = 1.0

    def input_type_of(self, options: Mapping[str, Any]) -> InputType:
        """Bytes, or with `input=float32` floats; bundles of before have no such option."""
        return "float32" if options.get("input") == "float32" else "uint8"

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Refuses an input of another type."""
        if options["input"] not in get_args(InputType):
            raise UsageError(
                f"input is {options['input']!r}; known: uint8 (a photo's bytes), float32 (the same "
                "numbers as floats)"
            )

    def require_modules(self) -> None:
        """Imports LiteRT's interpreter."""
        load_litert()

    def write(self, request: WriteRequest, folder: Path) -> WrittenModel:
        """Writes `model.tflite`."""
        input_type = self.input_type_of(request.options)
        lowering = _lowering(request, input_type)
        outputs = lowering.run(request.output_names)
        outputs |= add_outputs(lowering.builder, outputs, request)
        spec = request.spec
        content = lowering.builder.finish(
            name=spec.architecture.name,
            inputs=lowering.inputs,
            outputs=outputs,
            metadata=metadata_of(
                spec.preprocess,
                precision=request.precision,
                classes=spec.classes,
                input_type=input_type,
            ),
        )
        with atomic_file(folder / MODEL_FILE) as temporary:
            temporary.write_bytes(content)
        return WrittenModel(model=MODEL_FILE, minimum_runtime=dict(MINIMUM_RUNTIME))

    def open(self, folder: Path, manifest: Manifest) -> LiteRTModel:
        """Opens it in LiteRT on the CPU."""
        return open_litert(folder, manifest)

    def check(
        self, folder: Path, manifest: Manifest, model: Model, pixels: npt.NDArray[np.uint8]
    ) -> tuple[Finding, ...]:
        """Compares signature, input, unread tensors and metadata."""
        del folder, pixels
        assert isinstance(model, LiteRTModel)
        return tuple(check_file(model.file, manifest, minimum_runtime=MINIMUM_RUNTIME))


def _lowering(request: WriteRequest, input_type: InputType) -> Lowering:
    graph = request.program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    if request.precision == "int8":
        return IntegerLowering(graph, input_type=input_type)
    if request.precision == "fp16":
        # A copy: the program's own tensors are the student's. GPUs compute it in float16.
        graph = copy.deepcopy(graph)
        centre_on_whole_numbers(graph)
        for node in graph.graph.nodes:
            if node.op == "call_function" and "val" not in node.meta:
                # Elementwise operators that were added to the normalisation.
                node.meta["val"] = input_of(node).meta["val"]
    return Lowering(graph, weights=_WEIGHTS[request.precision], input_type=input_type)


TARGET = LiteRTTarget()
