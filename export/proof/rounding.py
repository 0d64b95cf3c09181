"""What rounding alone does to a student's outputs: the measure that quantized files are held to.

A quantized model differs from the float student, and a limit that is wide enough for that lets real
faults pass: a softmax or an offset at the output, a channel of zeros, two swapped rows. But how far
rounding may move the outputs is known: by the simulated program, which computes in torch what the
file is meant to compute. The file has to be as near to the float student as the simulation is, and
nearer to the simulation than that.

How much nearer depends on the network. Kernels add in another order, so a value half-way between
two integers is rounded to the other one, and a deep network amplifies that. Measured as a share of
what rounding costs, a sound file of a small network was a hundredth away from the simulation. One
of a MobileNetV3-L at 64 pixels was half away. So the program is simulated twice, the second time
with other last bits: of its weights, and of every value that is about to be rounded. (Weights alone
leave out what is half-way because its factors are integers. In a MobileViT-v2, ONNX Runtime rounds
60 times 251 in one product to 118, as is right, and float32 rounds it to 119.) A file may differ by
what the two differ by as well.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from edgeseed.core.bundle import SIMULATED_FILE
from edgeseed.core.errors import ArtifactError
from edgeseed.export.call import Batch
from edgeseed.export.program import LAYER_OPERATORS, constant, input_of, is_constant
from edgeseed.export.proof.reference import Outputs
from edgeseed.export.quantize.graph.simulation import draw_ties, simulate

_PHOTOS_AT_A_TIME = 16
# About one unit in the last place of float32.
_LAST_BITS = 2e-7
_AGAIN = "again_"
RoundWeight = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Simulated:
    """What rounding alone makes of the student's outputs."""

    outputs: Outputs
    again: Outputs | None = None
    """The same with other last bits; None where nothing is rounded to integers on the way, and in
    bundles of before this was kept."""


def simulate_integers(
    program: ExportedProgram, pixels: npt.NDArray[np.uint8], *, batch: Batch
) -> Simulated:
    """Outputs of a quantized program, its integers simulated in float32, twice.

    Args:
        program: With quantize and dequantize operators.
        pixels: (N, 3, H, W) photos.
        batch: Of the program.
    """
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    simulated = simulate(graph, inference=True)
    outputs = _run(simulated, pixels, batch=batch)
    generator = torch.Generator().manual_seed(0)
    for name, value in [*simulated.named_parameters(), *simulated.named_buffers()]:
        if value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            _set(simulated, name, value.detach() * (1 + _LAST_BITS * noise))
    draw_ties(simulated, by=_LAST_BITS, generator=generator)
    return Simulated(outputs=outputs, again=_run(simulated, pixels, batch=batch))


def simulate_rounded_weights(
    program: ExportedProgram,
    pixels: npt.NDArray[np.uint8],
    *,
    batch: Batch,
    round_weight: RoundWeight,
) -> Simulated:
    """Outputs of a float program whose layers have rounded weights.

    Args:
        program: Float; it is not changed.
        pixels: (N, 3, H, W) photos.
        batch: Of the program.
        round_weight: A layer's weight, (out, in, ...), as the format stores it.
    """
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    return Simulated(outputs=_run(round_layers(graph, round_weight), pixels, batch=batch))


def round_layers(graph: fx.GraphModule, round_weight: RoundWeight) -> fx.GraphModule:
    """The graph itself, changed: its layers have rounded weights."""
    for node in graph.graph.nodes:
        if node.target in LAYER_OPERATORS and is_constant(node.args[1]):
            weight = constant(graph, input_of(node, 1))
            rounded = torch.from_numpy(round_weight(weight.numpy()))
            _set(graph, str(input_of(node, 1).target), rounded)
    return graph


def write_simulated(folder: Path, simulated: Simulated) -> None:
    """Writes the simulated outputs on the proof photos into a bundle."""
    again = {f"{_AGAIN}{name}": each for name, each in (simulated.again or {}).items()}
    arrays: dict[str, Any] = {**simulated.outputs, **again}
    np.savez(folder / SIMULATED_FILE, **arrays)


def read_simulated(folder: Path) -> Simulated | None:
    """The simulated outputs of a bundle; None where there are none.

    Raises:
        ArtifactError: If they cannot be read.
    """
    path = folder / SIMULATED_FILE
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); export anew") from error
    again = {
        name.removeprefix(_AGAIN): found.pop(name)
        for name in list(found)
        if name.startswith(_AGAIN)
    }
    return Simulated(outputs=found, again=again or None)


def _set(graph: fx.GraphModule, path: str, value: Tensor) -> None:
    *parents, name = path.split(".")
    module: Any = graph
    for part in parents:
        module = getattr(module, part)
    old = getattr(module, name)
    # The program's own tensors are the student's: only this graph reads the new one.
    delattr(module, name)
    module.register_buffer(name, value.reshape(old.shape))


def _run(graph: fx.GraphModule, pixels: npt.NDArray[np.uint8], *, batch: Batch) -> Outputs:
    size = _PHOTOS_AT_A_TIME if batch == "dynamic" else batch
    parts: list[tuple[Tensor, ...]] = []
    with torch.inference_mode():
        for start in range(0, len(pixels), size):
            piece = np.asarray(pixels[start : start + size])
            count = len(piece)
            if batch != "dynamic":
                # A program of one fixed batch gets a full one; the copies' results are dropped.
                piece = np.resize(piece, (size, *piece.shape[1:]))
            found = graph(torch.from_numpy(piece).float())
            parts.append(tuple(each[:count] for each in found))
    columns = zip(*parts, strict=True)
    return {
        name: torch.cat(values).numpy()
        for name, values in zip(("embedding", "logits"), columns, strict=False)
    }
