"""Small Core ML packages, written to disk by coremltools and read back by the interpreter."""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pytest
from support.coreml import Packages
from support.export import tiny_preprocess
from torch import Tensor

from edgeseed.core.network import StudentNetwork
from edgeseed.export.proof.reference import Outputs, reference_outputs
from edgeseed.export.targets.coreml.interpreter.interpreter import Arithmetic, open_interpreter
from edgeseed.export.targets.coreml.tools import load_coremltools, quiet


class Interpret(Protocol):
    def __call__(
        self,
        build: Callable[..., Any],
        *inputs: Tensor,
        arithmetic: Arithmetic = "float32",
        target: str = "iOS17",
    ) -> list[Tensor]: ...


@pytest.fixture(scope="session")
def coremltools() -> Any:
    found = load_coremltools("a test")
    # As after the collection: every conversion asks for a full one.
    gc.collect()
    gc.freeze()
    return found


@pytest.fixture(scope="session")
def mb(coremltools: Any) -> Any:
    """coremltools' builder of programs."""
    from coremltools.converters.mil import Builder

    return Builder


@pytest.fixture
def save_program(coremltools: Any, mb: Any, tmp_path: Path) -> Callable[..., Path]:
    """Writes the program that `build` makes of inputs of these shapes; no pass touches it."""

    def save(
        build: Callable[..., Any], shapes: Sequence[Sequence[int]], target: str = "iOS17"
    ) -> Path:
        opset = getattr(coremltools.target, target)
        specs = [mb.TensorSpec(shape=tuple(shape)) for shape in shapes]
        package = tmp_path / "program.mlpackage"
        with quiet():
            program = mb.program(input_specs=specs, opset_version=opset)(build)
            coremltools.convert(
                program,
                convert_to="mlprogram",
                minimum_deployment_target=opset,
                compute_precision=coremltools.precision.FLOAT32,
                pass_pipeline=coremltools.PassPipeline.EMPTY,
                skip_model_load=True,
            ).save(str(package))
        return package

    return save


@pytest.fixture
def interpret(save_program: Callable[..., Path]) -> Interpret:
    """The outputs of a small program, in its order, as the interpreter computes them."""

    def run(
        build: Callable[..., Any],
        *inputs: Tensor,
        arithmetic: Arithmetic = "float32",
        target: str = "iOS17",
    ) -> list[Tensor]:
        package = save_program(build, [tuple(each.shape) for each in inputs], target)
        interpreter = open_interpreter(package, arithmetic=arithmetic)
        names = [each.name for each in interpreter.program.inputs]
        outputs = interpreter.run(dict(zip(names, inputs, strict=True)))
        return list(outputs.values())

    return run


@pytest.fixture(scope="session")
def packages(network: StudentNetwork, workplace: Path, made_int8_coreml: Path) -> Packages:
    return Packages(network, workplace / "packages", made_int8_coreml)


@pytest.fixture(scope="session")
def reference(network: StudentNetwork, pixels: npt.NDArray[np.uint8]) -> Outputs:
    return reference_outputs(network, tiny_preprocess(), pixels)
