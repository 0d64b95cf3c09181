"""Why a model is not the student: the outputs are compared with what known mistakes would give.

A mistake in preprocessing leaves the weights right and every layer wrong, so no layer can be
blamed. But the student itself can be made to make the same mistake: if it then agrees with the
model, the mistake is found. A mistake in a weight shows at the first layer that does not make of
its own input what the student's layer makes of it, by far more than eight bits round off; its shape
there says what it is: off by a constant in each channel is a bias, off by a factor is a scale. An
error that a layer only inherits and enlarges, as the head of unsure classes does, is no mistake.
Ranges of another time do not fit the student's values (see `calibration`).
"""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn

from edgeseed.core.agreement import relative_error, relative_rms
from edgeseed.core.network import StudentNetwork
from edgeseed.core.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from edgeseed.core.records import QuantizationRecord
from edgeseed.export.program import input_of
from edgeseed.export.proof.gates import Array
from edgeseed.export.proof.reference import (
    Outputs,
    comparable_graph,
    layer_names,
    layer_outputs,
    network_outputs,
    reference_outputs,
)
from edgeseed.export.proof.scale_lint import range_uses, stale_calibration
from edgeseed.export.target import Model

NUM_PHOTOS = 8
# A mistake explains the outputs when the student that makes it is this many times nearer than the
# right one.
_EXPLAINS = 5.0
# Of the largest value; integers alone may bring a single value this far off.
_LEAST_MISTAKE = 0.1
_UNEXPLAINED = 0.25
# An activation between two layers may round several times over.
_BEYOND_ROUNDING = 5.0
_BYTE_LEVELS = 255
_LEVELS = {"uint16": 65535}
"""Steps between the least and the largest of a type that is no byte."""
_WORST_LAYERS = 3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LayerError:
    """How far one layer's output is from the float student's."""

    name: str
    error: float
    """Root mean square of the difference over that of the float output."""
    added: float
    """What this layer adds to the error of the layer before it."""


def likely_cause(
    model: Model,
    network: StudentNetwork,
    preprocess: Preprocess,
    pixels: npt.NDArray[np.uint8],
    *,
    tolerance: float,
    quantization: QuantizationRecord | None = None,
) -> str:
    """One sentence on what is probably wrong, or an empty one.

    Args:
        model: The exported model.
        network: The student.
        preprocess: The student's own preprocessing.
        pixels: (N, 3, H, W) photos; a few are enough.
        tolerance: Relative error below which outputs count as the same.
        quantization: The manifest's record of it; None for a float model.
    """
    pixels = np.asarray(pixels[:NUM_PHOTOS])
    outputs = model.infer(pixels)
    reference = reference_outputs(network, preprocess, pixels)
    return (
        _output_mistake(outputs, reference, tolerance)
        or _input_mistake(outputs, reference, network, preprocess, pixels)
        or _calibration_mistake(network, preprocess, pixels, quantization)
        or _layer_mistake(model, network, preprocess, pixels, quantization)
    )


def _output_mistake(outputs: Outputs, reference: Outputs, tolerance: float) -> str:
    if any(not np.isfinite(values).all() for values in outputs.values()):
        return "the model's outputs are not finite: a range overflowed, or a scale is zero"
    if "logits" not in reference:
        return ""
    logits, truth = outputs["logits"], reference["logits"]
    direct = relative_rms(logits, truth)
    in_order = relative_rms(np.sort(logits, axis=1), np.sort(truth, axis=1))
    # Of integers the embedding and the sorted logits err too, but not by as much.
    nearest = _EXPLAINS * max(in_order, _distance(outputs, reference))
    if direct > max(tolerance, nearest):
        return "the logits are the student's in another order: the head or the labels were shuffled"
    return ""


def _distance(outputs: Outputs, reference: Outputs) -> float:
    return relative_rms(outputs["embedding"], reference["embedding"])


def _input_mistake(
    outputs: Outputs,
    reference: Outputs,
    network: StudentNetwork,
    preprocess: Preprocess,
    pixels: npt.NDArray[np.uint8],
) -> str:
    right = _distance(outputs, reference)
    distances = {}
    for what, make in _mistakes(network, preprocess, pixels).items():
        # torch has no statistics of one photo whose last map is one pixel, and says so.
        with contextlib.suppress(ValueError):
            distances[what] = _distance(outputs, make())
    what = min(distances, key=lambda name: distances[name])
    return f"outputs match if {what}" if distances[what] * _EXPLAINS < right else ""


def _mistakes(
    network: StudentNetwork, preprocess: Preprocess, pixels: npt.NDArray[np.uint8]
) -> dict[str, Callable[[], Outputs]]:
    def normalized(pixels: npt.NDArray[np.uint8], **changes: Any) -> Callable[[], Outputs]:
        changed = dataclasses.replace(preprocess, **changes)
        return lambda: reference_outputs(network, changed, pixels)

    mean, std = preprocess.mean, preprocess.std
    ones = (1.0,) * len(mean)
    halves = (0.5,) * len(mean)
    found = {
        "pixels are taken as 0..1 (no division by 255)": normalized(
            pixels, mean=tuple(m / 255 for m in mean), std=tuple(s / 255 for s in std)
        ),
        "pixels are divided by 255 twice": normalized(
            pixels, std=tuple(s * 255 for s in std), mean=tuple(m * 255 for m in mean)
        ),
        "mean is not subtracted": normalized(pixels, mean=tuple(0.0 for _ in mean)),
        "std is not divided by": normalized(pixels, std=ones),
        "mean and std are 0.5": normalized(pixels, mean=halves, std=halves),
        "mean is 0.5": normalized(pixels, mean=halves),
        "photos are upside down": normalized(np.ascontiguousarray(pixels[:, :, ::-1])),
        "batch norm uses the statistics of the batch (training mode)": lambda: _training_mode(
            network, preprocess, pixels, batch=len(pixels)
        ),
        # Core ML's batch of photos is one, whatever is asked of it.
        "batch norm uses the statistics of each photo (training mode)": lambda: _training_mode(
            network, preprocess, pixels, batch=1
        ),
    }
    if preprocess.channels >= 3:
        order = [2, 1, 0, *range(3, preprocess.channels)]
        swapped = {"mean": tuple(mean[c] for c in order), "std": tuple(std[c] for c in order)}
        usual = {"mean": (*IMAGENET_MEAN, *mean[3:]), "std": (*IMAGENET_STD, *std[3:])}
        found |= {
            "the input channels are swapped: BGR in place of RGB": normalized(pixels[:, order]),
            "mean and std are ImageNet's": normalized(pixels, **usual),
            "mean and std are in the order BGR": normalized(pixels, **swapped),
        }
    if preprocess.width is None:
        turned = np.ascontiguousarray(pixels.swapaxes(2, 3))
        found["height and width are swapped"] = normalized(turned)
    return found


def _training_mode(
    network: StudentNetwork,
    preprocess: Preprocess,
    pixels: npt.NDArray[np.uint8],
    *,
    batch: int,
) -> Outputs:
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.train()

    def batches() -> Iterator[torch.Tensor]:
        for start in range(0, len(pixels), batch):
            yield torch.from_numpy(preprocess.normalize(pixels[start : start + batch]))

    return network_outputs(network, batches())


def _calibration_mistake(
    network: StudentNetwork,
    preprocess: Preprocess,
    pixels: npt.NDArray[np.uint8],
    quantization: QuantizationRecord | None,
) -> str:
    if quantization is None:
        return ""
    graph = comparable_graph(network, preprocess, quantization)
    return stale_calibration(range_uses(graph, pixels, quantization))


def layer_errors(
    model: Model,
    network: StudentNetwork,
    preprocess: Preprocess,
    pixels: npt.NDArray[np.uint8],
    *,
    quantization: QuantizationRecord | None = None,
) -> list[LayerError]:
    """Errors of the convolutions and linear layers that the model shows, in the order they run."""
    graph = comparable_graph(network, preprocess, quantization)
    program, inside = _both_insides(model, graph, pixels, quantization)
    errors: list[LayerError] = []
    before = 0.0
    for name, value in inside.items():
        error = relative_rms(value, program[name])
        errors.append(LayerError(name=name, error=error, added=max(error - before, 0.0)))
        before = error
    return errors


def worst_layers(errors: list[LayerError]) -> str:
    """The layers that add most, for a message."""
    worst = sorted(errors, key=lambda layer: -layer.added)[:_WORST_LAYERS]
    return ", ".join(f"{layer.name} (+{layer.added:.1%}, to {layer.error:.1%})" for layer in worst)


def _both_insides(
    model: Model,
    graph: fx.GraphModule,
    pixels: npt.NDArray[np.uint8],
    quantization: QuantizationRecord | None,
) -> tuple[Outputs, Outputs]:
    """The layers' outputs of the float program and of the model, by name."""
    shifts = {} if quantization is None else quantization.shifted
    renamed = {} if quantization is None else quantization.renamed
    pixels = np.asarray(pixels[:NUM_PHOTOS])
    names = layer_names(graph)
    program = layer_outputs(graph, pixels, names)
    found = {
        **_last_layers(graph, model.infer(pixels)),
        **_layers_of(model, pixels, names, renamed),
    }
    inside = {}
    for name in names:
        if name in found:
            # A quantized layer may have more channels, of zeros, and a constant added to its bias;
            # one that sees a single position may have lost its height and width.
            value = found[name][:, : program[name].shape[1]] - np.float32(shifts.get(name, 0.0))
            if (
                value.shape == program[name].shape[: value.ndim]
                and value.size == program[name].size
            ):
                inside[name] = value.reshape(program[name].shape)
    return program, inside


def _layers_of(
    model: Model,
    pixels: npt.NDArray[np.uint8],
    names: Sequence[str],
    renamed: Mapping[str, str],
) -> Outputs:
    """The layers that the model shows; `renamed` says by what name a layer goes in the model."""
    theirs = [renamed.get(name, name) for name in names]
    found = model.layers(pixels, theirs)
    return {name: found[their] for name, their in zip(names, theirs, strict=True) if their in found}


def _last_layers(graph: fx.GraphModule, outputs: Outputs) -> Outputs:
    """A layer whose output is the model's own goes by the output's name there."""
    (last,) = graph.graph.find_nodes(op="output")
    nodes: Any = last.args[0]
    return {node.name: value for node, value in zip(nodes, outputs.values(), strict=False)}


def _layer_mistake(
    model: Model,
    network: StudentNetwork,
    preprocess: Preprocess,
    pixels: npt.NDArray[np.uint8],
    quantization: QuantizationRecord | None,
) -> str:
    graph = comparable_graph(network, preprocess, quantization)
    _, inside = _both_insides(model, graph, pixels, quantization)
    replay = _Replay(graph, inside, quantization)
    with torch.inference_mode():
        replay.run(torch.from_numpy(np.asarray(pixels)).float())
    for name, value in inside.items():
        # By what its own input gives: errors of layers before, that hide a mistake where they are
        # large, do not count.
        own = relative_error(value, replay.expected[name])
        if own > _LEAST_MISTAKE and replay.is_beyond_rounding(name):
            what = _describe(value, replay.expected[name])
            return f"the first layer that differs is {name}: {what}"
    return ""


class _Replay(fx.Interpreter):
    """Runs the float program on what the model itself computed: each layer on its own input.

    Args:
        graph: The float program.
        inside: The model's values of the layers, by name.
        quantization: In which ranges and steps the model stores values, as far as it is known.
    """

    def __init__(
        self, graph: fx.GraphModule, inside: Outputs, quantization: QuantizationRecord | None
    ) -> None:
        super().__init__(graph)
        self.inside = inside
        self.ranges = {} if quantization is None else quantization.ranges
        stored = "" if quantization is None else quantization.activations
        self.levels = _LEVELS.get(stored, _BYTE_LEVELS)
        self.expected: Outputs = {}
        """What the student's layer makes of the model's input to it."""
        self.rounded: Outputs = {}
        """The same with that input and the weights rounded as the model stores them."""

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name not in self.inside:
            return value
        assert isinstance(value, Tensor)
        self.expected[n.name] = value.numpy()
        source, weight, *others = self.fetch_args_kwargs_from_env(n)[0]
        assert callable(n.target)
        assert isinstance(source, Tensor)
        assert isinstance(weight, Tensor)
        low, high = self.ranges.get(input_of(n).name, source.aminmax())
        stored = _round(source, float(low), float(high), self.levels)
        rounded = stored, _round_channels(weight)
        self.rounded[n.name] = n.target(*rounded, *others).numpy()
        # Layers behind read what the model itself has here: none is blamed for this one.
        return torch.from_numpy(self.inside[n.name])

    def is_beyond_rounding(self, name: str) -> bool:
        """Whether the model's layer is further from the student's than its rounding explains."""
        expected = self.expected[name]
        own = relative_rms(self.inside[name], expected)
        return own > _BEYOND_ROUNDING * relative_rms(self.rounded[name], expected)


def _round(value: Tensor, low: float, high: float, levels: int) -> Tensor:
    step = max((high - low) / levels, 1e-20)
    return low + torch.round((value.clamp(low, high) - low) / step) * step


def _round_channels(weight: Tensor) -> Tensor:
    """To eight bits, one scale an output channel."""
    step = weight.abs().flatten(1).amax(1) * (2 / _BYTE_LEVELS)
    step = step.clamp(min=1e-20).reshape(-1, *[1] * (weight.ndim - 1))
    return torch.round(weight / step) * step


def _describe(value: Array, truth: Array) -> str:
    """Channel by channel: an added constant, a factor, or neither.

    What explains three quarters of the difference's energy is the mistake; the rest may be the
    noise of integers.
    """
    # In float64: a broken weight gives values whose squares float32 does not hold.
    rows = [
        np.moveaxis(array, 1, 0).reshape(array.shape[1], -1).astype(np.float64)
        for array in (value, truth)
    ]
    difference = rows[0] - rows[1]
    energy = float(np.mean(difference**2))
    # Small noise in place of large values is no small multiple of them.
    of_factor = min(energy, float(np.mean(rows[0] ** 2)))
    factor = float(np.sum(rows[0] * rows[1]) / max(float(np.sum(rows[1] ** 2)), 1e-20))
    around_mean = difference - difference.mean(axis=1, keepdims=True)
    left = {
        "each channel is off by a constant, so a bias was dropped or changed": (
            around_mean, energy,
        ),
        f"it is {factor:.3g} times too large, so a scale is wrong": (
            rows[0] - factor * rows[1], of_factor,
        ),
    }  # fmt: skip
    shares = {
        what: float(np.mean(rest**2)) / max(whole, 1e-20) for what, (rest, whole) in left.items()
    }
    what = min(shares, key=lambda name: shares[name])
    if shares[what] < _UNEXPLAINED:
        return what
    worst = int(np.abs(difference).max(axis=1).argmax())
    return f"its weights are not the student's (channel {worst} differs most)"
