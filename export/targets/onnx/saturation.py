"""Finds weights of an int8 ONNX file that x86 CPUs without VNNI multiply wrongly.

See `quantize.pairs` for what such a processor does with two weights and two activations.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import NodeProto, TensorProto, numpy_helper

from edgeseed.export.quantize.pairs import count_overfull
from edgeseed.export.quantize.schemes.x86 import SCHEME
from edgeseed.export.target import Finding


def lint_pairs(graph: onnx.GraphProto) -> Iterator[Finding]:
    """One finding for each layer with pairs of weights that can saturate, and how many."""
    for node, weights in _unsigned_layers(graph):
        overfull = count_overfull(torch.from_numpy(weights), SCHEME.pair_limit)
        if overfull:
            num_pairs = len(weights) * -(-weights[0].size // 2)
            yield Finding(
                node.output[0],
                f"{overfull} of {num_pairs} pairs of its weights do not fit 16 bits: x86 CPUs "
                "without VNNI compute other numbers; export it anew",
            )


def _unsigned_layers(graph: onnx.GraphProto) -> Iterator[tuple[NodeProto, npt.NDArray[np.int8]]]:
    """Layers whose activations are uint8, with their int8 weights as (O, I, ...)."""
    constants = {item.name: item for item in graph.initializer}
    reading = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        activation, weight = (reading.get(name) for name in node.input[:2])
        if activation is None or weight is None or weight.input[0] not in constants:
            continue
        stored = constants[weight.input[0]]
        zero = constants.get(activation.input[2]) if len(activation.input) > 2 else None
        is_unsigned = zero is None or zero.data_type == TensorProto.UINT8
        if not is_unsigned or stored.data_type != TensorProto.INT8:
            continue
        values = numpy_helper.to_array(stored)
        attributes = {item.name: item.i for item in node.attribute}
        if _is_depthwise(node, values, attributes):
            continue
        inputs_first = node.op_type == "MatMul" or (
            node.op_type == "Gemm" and not attributes.get("transB")
        )
        yield node, values.T.copy() if inputs_first else values.copy()


def _is_depthwise(
    node: NodeProto, weights: npt.NDArray[np.int8], attributes: Mapping[str, int]
) -> bool:
    """Whether ONNX Runtime's depthwise kernel takes it, which adds in 32 bits."""
    groups = attributes.get("group", 1)
    return node.op_type == "Conv" and groups == len(weights) > 1 and weights.shape[1] == 1
