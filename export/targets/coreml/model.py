"""A Core ML model as the reference interpreter computes it; on a Mac, also as Core ML predicts."""

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from edgeseed.core.bundle import Manifest
from edgeseed.core.errors import ArtifactError
from edgeseed.core.records import QuantizationRecord
from edgeseed.export.proof.scale_lint import lint_scales, lint_zero_points
from edgeseed.export.target import Finding, Model
from edgeseed.export.targets.coreml.interpreter.interpreter import (
    Arithmetic,
    Interpreter,
    open_interpreter,
)
from edgeseed.export.targets.coreml.interpreter.program import (
    Constant,
    ImageInput,
    Operation,
    Program,
    Reference,
)
from edgeseed.export.targets.coreml.tools import load_coremltools, quiet

# What Core ML appends to a program's names when it brings values to float16.
_SUFFIXES = ("_cast_fp16", "")
_LAYERS = ("conv", "linear")


class CoreMLModel(Model):
    """An open `.mlpackage`.

    Args:
        package: The folder.
        arithmetic: How the interpreter rounds; see its module.
        quantization: The manifest's record of what was meant to be int8.
    """

    runner = "Core ML reference interpreter"

    def __init__(
        self,
        package: Path,
        *,
        arithmetic: Arithmetic = "declared",
        quantization: QuantizationRecord | None = None,
    ) -> None:
        self.package = package
        self.quantization = quantization
        self.interpreter: Interpreter = open_interpreter(package, arithmetic=arithmetic)

    def infer(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Interprets the program for each photo."""
        outputs = self.interpreter.run_photos(pixels)
        return {name: outputs[name] for name in ("embedding", "logits") if name in outputs}

    def layers(
        self, pixels: npt.NDArray[np.uint8], names: Sequence[str]
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Values inside, by the name they have in the exported program."""
        wanted = {f"{name}{suffix}": name for name in names for suffix in _SUFFIXES}
        found: dict[str, list[npt.NDArray[np.float32]]] = {}

        def observe(result: str, value: Tensor) -> None:
            if result in wanted:
                found.setdefault(wanted[result], []).append(value.float().numpy())

        for photo in pixels:
            self.interpreter.observe_photo(photo, observe)
        return {name: np.concatenate(values) for name, values in found.items()}

    def lint(self) -> tuple[Finding, ...]:
        """What is wrong with the package itself.

        * A photo whose colours are not taken in the order RGB.
        * Weights that float16 cannot hold.
        * A layer that was meant to be int8 and is not, or whose weights have no scale of their own
          for each output channel.
        * Scales and zero points of another calibration than the manifest's.
        """
        program = self.interpreter.program
        images = [each for each in program.inputs if isinstance(each, ImageInput)]
        # That a photo has as many channels as the student's is seen where it is run.
        colors = [each for each in images if each.color == "BGR"]
        return (
            *(Finding(each.name, f"takes its colours as {each.color}, not RGB") for each in colors),
            *(
                Finding(place, "has weights beyond 65504, where float16 ends; keep it in float32")
                for place in self.interpreter.infinite_weights()
            ),
            *_integer_findings(program, self.quantization),
            *self._calibration_findings(program),
        )

    def _calibration_findings(self, program: Program) -> tuple[Finding, ...]:
        if self.quantization is None:
            return ()
        stored = {result: (place, scale, zero) for result, place, scale, zero in _stored(program)}
        made = {result.name: each for each in program.operations for result in each.results}
        written = [scale for place, scale, _ in stored.values() if place.startswith("quantize")]
        findings = [
            *lint_scales(written, self.quantization),
            *lint_zero_points(stored.values(), self.quantization),
        ]
        for name, (place, *numbers) in stored.items():
            writer = _source(made[name], "input", made)
            if writer is not None and writer.type == "quantize":
                _, *meant = stored[writer.results[0].name]
                if numbers != meant:
                    findings.append(
                        Finding(place, "reads integers otherwise than they are written")
                    )
        return tuple(findings)

    def infer_natively(
        self, pixels: npt.NDArray[np.uint8]
    ) -> dict[str, npt.NDArray[np.float32]] | None:
        """Core ML's own predictions, on a Mac: by whatever unit Core ML chooses; elsewhere None."""
        if sys.platform != "darwin":
            return None
        rows = [self._core_ml.predict({"image": _as_image(photo)}) for photo in pixels]
        names = [name for name in ("embedding", "logits") if name in rows[0]]
        return {name: np.concatenate([row[name] for row in rows]) for name in names}

    @functools.cached_property
    def _core_ml(self) -> Any:
        coremltools = load_coremltools("Core ML prediction")
        with quiet():
            return coremltools.models.MLModel(str(self.package))


def _stored(program: Program) -> Iterator[tuple[str, str, float, int]]:
    """Of each stored activation, where it is written and read: result, place, scale, zero point."""
    constants = {
        each.results[0].name: constant.value
        for each in program.operations
        if each.type == "const"
        for (constant,) in each.arguments.values()
        if isinstance(constant, Constant)
    }

    def number(operation: Operation, parameter: str) -> float:
        if parameter not in operation.arguments:
            return 0.0  # a zero point that is left out
        (argument,) = operation.arguments[parameter]
        found = argument.value if isinstance(argument, Constant) else constants[argument.name]
        return float(np.asarray(found).item())

    for each in program.operations:
        if each.type in ("quantize", "dequantize"):
            zero = int(number(each, "zero_point"))
            yield each.results[0].name, each.place, number(each, "scale"), zero


def _integer_findings(
    program: Program, quantization: QuantizationRecord | None
) -> tuple[Finding, ...]:
    """Layers are counted, not named: Core ML renames the last one after the model's output."""
    if quantization is None:
        return ()
    made = {result.name: each for each in program.operations for result in each.results}
    layers = [each for each in program.operations if each.type in _LAYERS]
    found = [each for each in layers if _reads_integers(each, made)]
    meant = [name for name, kind in quantization.integer_operators.items() if kind in _LAYERS]
    findings = []
    if len(found) != len(meant):
        problem = f"{len(meant)} layers were meant to be int8, the package has {len(found)}"
        findings.append(Finding("program", problem))
    for layer in found:
        weight = _source(layer, "weight", made)
        if weight is not None:
            findings += [Finding(layer.place, problem) for problem in _weight_problems(weight)]
    return tuple(findings)


def _source(
    operation: Operation, parameter: str, made: Mapping[str, Operation]
) -> Operation | None:
    (argument,) = operation.arguments[parameter]
    return made.get(argument.name) if isinstance(argument, Reference) else None


def _reads_integers(layer: Operation, made: Mapping[str, Operation]) -> bool:
    """Whether both what a layer reads and its weights come from 8 bits."""
    source, weight = _source(layer, "x", made), _source(layer, "weight", made)
    return (
        source is not None
        and weight is not None
        and source.type == "dequantize"
        and weight.type == "constexpr_affine_dequantize"
    )


def _weight_problems(weight: Operation) -> Iterator[str]:
    """What is not as the scheme has it: symmetric, with one scale an output channel."""
    parts = {}
    for name in ("quantized_data", "scale", "zero_point", "axis"):
        (argument,) = weight.arguments[name]
        parts[name] = np.asarray(argument.value if isinstance(argument, Constant) else np.nan)
    if parts["scale"].ndim != 1:
        yield "its weights have one scale for all channels"
    elif int(parts["axis"]) != 0 or len(parts["scale"]) != len(parts["quantized_data"]):
        yield "the scales of its weights do not lie along the output channels"
    if not np.all(parts["scale"] > 0):
        yield "a scale of its weights is not above 0"
    if np.any(parts["zero_point"]):
        yield "its weights have a zero point that is not 0"


def _as_image(photo: npt.NDArray[np.uint8]) -> Image.Image:
    bands = photo[0] if len(photo) == 1 else photo.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(bands))


def open_coreml(folder: Path, manifest: Manifest) -> CoreMLModel:
    """Opens a bundle's model and compares it with the manifest.

    Raises:
        ArtifactError: If the package is damaged, or has other inputs, outputs or labels.
    """
    model = CoreMLModel(folder / manifest.model, quantization=manifest.quantization)
    program = model.interpreter.program
    expected = [(spec.name, *spec.shape[-2:]) for spec in manifest.inputs]
    found = [
        (each.name, each.height, each.width)
        for each in program.inputs
        if isinstance(each, ImageInput)
    ]
    problems = []
    if expected != found:
        problems.append(f"its image inputs are {found}, the manifest says {expected}")
    lacking = [spec.name for spec in manifest.outputs if spec.name not in program.outputs]
    if lacking:
        problems.append(f"it has no output {', '.join(lacking)}")
    if program.labels != manifest.classes:
        problems.append("its labels are not the manifest's: renamed or in another order")
    if problems:
        raise ArtifactError(
            f"{folder / manifest.model}: {'; '.join(problems)}; "
            "the model file belongs to another bundle: export it anew"
        )
    return model
