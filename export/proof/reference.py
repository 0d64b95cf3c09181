"""The student in torch, at float precision: what every exported model is compared with."""

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from edgeseed.core.network import StudentNetwork
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.records import QuantizationRecord
from edgeseed.export.exact_normalisation import centre_on_whole_numbers
from edgeseed.export.program import LAYER_OPERATORS, build_program, float_graph
from edgeseed.export.quantize.corrections.equalization import Equalization, apply_factors
from edgeseed.export.quantize.graph.recording import Recorder

Outputs = dict[str, npt.NDArray[np.float32]]
_BATCH = 16
# Further draws of float16's rounding, between two powers of two (and below one, or what float16
# just holds would overflow), and the photos that see them.
_STRETCHES = (0.59, 0.71, 0.84)
_MOST_MOVED = 32


def reference_outputs(
    network: StudentNetwork, preprocess: Preprocess, pixels: npt.NDArray[np.uint8]
) -> Outputs:
    """Runs the student on photos, normalised by the code that it was trained with.

    Args:
        network: The student, in evaluation mode.
        preprocess: The student's own.
        pixels: (N, 3, H, W) RGB.

    Returns:
        `embedding` (N, D) and, where there is a head, `logits` (N, C).
    """
    return network_outputs(network, _normalized(preprocess, pixels))


def network_outputs(network: StudentNetwork, batches: Iterator[Tensor]) -> Outputs:
    """Runs the student on batches that are normalised already."""
    embeddings, logits = [], []
    with torch.inference_mode():
        for batch in batches:
            output = network(batch)
            embeddings.append(output.embedding.numpy())
            if output.logits is not None:
                logits.append(output.logits.numpy())
    outputs = {"embedding": np.concatenate(embeddings)}
    return outputs | ({"logits": np.concatenate(logits)} if logits else {})


def _normalized(preprocess: Preprocess, pixels: npt.NDArray[np.uint8]) -> Iterator[Tensor]:
    for start in range(0, len(pixels), _BATCH):
        batch = torch.from_numpy(preprocess.normalize(np.asarray(pixels[start : start + _BATCH])))
        # The order in which torch's convolutions on CPUs are nearly twice as fast, and as exact.
        yield batch.contiguous(memory_format=torch.channels_last)


def rounded_outputs(
    network: StudentNetwork, preprocess: Preprocess, pixels: npt.NDArray[np.uint8]
) -> Outputs:
    """As `reference_outputs`, of the student whose weights and values are rounded to float16.

    Every network amplifies that rounding as it likes, whatever format it is exported to: what a
    float16 file differs by is to be seen beside it. Weights are rounded as files keep them, with
    batch norms folded, and values after every operator; sums within one are float32.
    """
    return _RoundedStudent(network, preprocess).outputs(pixels)


def rounded_draws(
    network: StudentNetwork,
    preprocess: Preprocess,
    pixels: npt.NDArray[np.uint8],
    reference: Outputs,
) -> list[tuple[Outputs, Outputs]]:
    """As `rounded_outputs`, several times, each beside the reference of the same photos.

    One rounding is one draw, and so is a file's: the largest error of one says little of another's.
    (A GhostNet's file was 2 % beyond twice the error of a single draw.) The first draw sees all
    photos, the others those that it moved most.

    Args:
        network: The student, in evaluation mode.
        preprocess: The student's own.
        pixels: (N, 3, H, W) RGB.
        reference: What `reference_outputs` gives for them.
    """
    student = _RoundedStudent(network, preprocess)
    first = student.outputs(pixels)
    # As parity counts it: of each photo, by the size of its own answer.
    moved = [
        np.abs(first[name] - values).max(axis=1) / np.maximum(np.abs(values).max(axis=1), 1e-30)
        for name, values in reference.items()
    ]
    chosen = np.argsort(-np.max(moved, axis=0), kind="stable")[:_MOST_MOVED]
    wanted = {name: values[chosen] for name, values in reference.items()}
    others = [student.outputs(pixels[chosen], stretch=stretch) for stretch in _STRETCHES]
    return [(first, reference), *((drawn, wanted) for drawn in others)]


class _RoundedStudent:
    """The student's graph, run with weights and values in float16."""

    def __init__(self, network: StudentNetwork, preprocess: Preprocess) -> None:
        # A copy: the program's own tensors are the student's.
        self.graph = copy.deepcopy(float_graph(build_program(network, preprocess)))
        centre_on_whole_numbers(self.graph)
        tensors = (*self.graph.parameters(), *self.graph.buffers())
        self.weights = [(t, t.data.clone()) for t in tensors if t.is_floating_point()]

    def outputs(self, pixels: npt.NDArray[np.uint8], *, stretch: float = 1.0) -> Outputs:
        """One draw: with everything stretched before it is rounded, other values go up and down."""
        for tensor, exact in self.weights:
            tensor.data = _rounded(exact, stretch)
        rounding = _Rounding(self.graph, stretch=stretch)
        parts: list[tuple[Tensor, ...]] = []
        with torch.inference_mode():
            for start in range(0, len(pixels), _BATCH):
                batch = np.asarray(pixels[start : start + _BATCH])
                parts.append(tuple(rounding.run(torch.from_numpy(batch).float())))
        return {
            name: torch.cat(values).numpy()
            for name, values in zip(("embedding", "logits"), zip(*parts, strict=True), strict=False)
        }


class _Rounding(fx.Interpreter):
    """Runs a graph and rounds what its operators give to float16."""

    def __init__(self, graph: fx.GraphModule, *, stretch: float = 1.0) -> None:
        super().__init__(graph)
        self.stretch = stretch

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Runs one operator."""
        is_plain = len(args) == 3 and kwargs.keys() <= {"scale"}
        if target is torch.ops.aten.scaled_dot_product_attention.default and is_plain:
            return _rounded_attention(*args, **kwargs, stretch=self.stretch)
        return _rounded(super().call_function(target, args, kwargs), self.stretch)


def _rounded(value: Any, stretch: float) -> Any:
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        return value
    plain = value.half().float()
    # What float16 holds, it holds in every draw: bytes of a photo, and whole numbers taken off.
    return torch.where(plain == value, value, (value * stretch).half().float() / stretch)


def _rounded_attention(
    query: Tensor, key: Tensor, value: Tensor, *, stretch: float, scale: float | None = None
) -> Any:
    """Attention is one operator in torch, and four in files: each of them rounds."""
    scaled = _rounded(query * (query.shape[-1] ** -0.5 if scale is None else scale), stretch)
    shares = _rounded(_rounded(scaled @ key.mT, stretch).softmax(dim=-1), stretch)
    return _rounded(shares @ value, stretch)


def comparable_graph(
    network: StudentNetwork, preprocess: Preprocess, quantization: QuantizationRecord | None
) -> fx.GraphModule:
    """The float program as the quantized one was made of it: layer by layer the same numbers.

    Args:
        network: The student.
        preprocess: The student's own preprocessing.
        quantization: The manifest's record, which says how channels were evened out; None for a
            float model.
    """
    graph = copy.deepcopy(float_graph(build_program(network, preprocess)))
    if quantization is not None:
        equalizations = {
            name: Equalization.from_dict(dataclasses.asdict(each))
            for name, each in quantization.equalized.items()
        }
        apply_factors(graph, equalizations)
    return graph


def layer_names(graph_module: fx.GraphModule) -> tuple[str, ...]:
    """Names of the convolutions and linear layers, in the order they run."""
    return tuple(node.name for node in graph_module.graph.nodes if node.target in LAYER_OPERATORS)


def layer_outputs(
    graph_module: fx.GraphModule, pixels: npt.NDArray[np.uint8], names: Sequence[str]
) -> Outputs:
    """Values of the named nodes of a float graph (see `export.program.float_graph`)."""
    values: Outputs = {}

    def keep(node: fx.Node, value: Tensor) -> None:
        values[node.name] = value.float().numpy().copy()

    with torch.inference_mode():
        Recorder(graph_module, names, see=keep).run(torch.from_numpy(np.asarray(pixels)).float())
    return values
