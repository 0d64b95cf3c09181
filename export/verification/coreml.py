"""A Core ML model as the reference interpreter computes it; on a Mac, also as Core ML predicts."""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from edgeseed.core.bundle import Manifest
from edgeseed.core.errors import ArtifactError
from edgeseed.export._coremltools import load_coremltools, quiet
from edgeseed.export.targets._target import Finding, Model
from edgeseed.export.verification.mil.interpreter import Arithmetic, Interpreter, open_interpreter
from edgeseed.export.verification.mil.program import ImageInput

# What Core ML appends to a program's names when it brings values to float16.
_SUFFIXES = ("_cast_fp16", "")


class CoreMLModel(Model):
    """An open `.mlpackage`.

    Args:
        package: The folder.
        arithmetic: How the interpreter rounds; see its module.
    """

    runner = "Core ML reference interpreter"

    def __init__(self, package: Path, *, arithmetic: Arithmetic = "declared") -> None:
        self.package = package
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
        """What is wrong with the package itself."""
        return ()

    def predict(self, pixels: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        """Core ML's own predictions, on a Mac: the real thing, on whatever unit Core ML chooses.

        Raises:
            ArtifactError: If this is no Mac.
        """
        if sys.platform != "darwin":
            raise ArtifactError(f"{self.package}: only macOS predicts with Core ML")
        rows = [self._core_ml.predict({"image": _as_image(photo)}) for photo in pixels]
        names = [name for name in ("embedding", "logits") if name in rows[0]]
        return {name: np.concatenate([row[name] for row in rows]) for name in names}

    @functools.cached_property
    def _core_ml(self) -> Any:
        coremltools = load_coremltools("Core ML prediction")
        with quiet():
            return coremltools.models.MLModel(str(self.package))


def _as_image(photo: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(photo.transpose(1, 2, 0)))


def open_coreml(folder: Path, manifest: Manifest) -> CoreMLModel:
    """Opens a bundle's model and compares it with the manifest.

    Raises:
        ArtifactError: If the package is damaged, or has other inputs, outputs or labels.
    """
    model = CoreMLModel(folder / manifest.model)
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
