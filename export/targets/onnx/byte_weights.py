"""Float ONNX weights stored as bytes, one scale an output channel: a quarter of the file.

The bytes go through `Cast` and `Mul`, which ONNX Runtime computes once when it loads the file: from
then on the model runs as fast, and takes as much memory, as the float one. `DequantizeLinear` would
say the same in one node, but ONNX Runtime keeps that one for its integer kernels and never folds
it: MobileNetV3-L then unpacks all of its weights for every photo and takes three times as long.
"""

import math
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

# A compressed tensor has a scale and two nodes beside it; below this size that eats what it saves.
SMALLEST_COMPRESSED = 512
_LARGEST = 127
# What float32 leaves of a whole number of steps.
_EXACT = 1e-6


def store_as_bytes(model: ModelProto, *, only_exact: bool = False) -> ModelProto:
    """A copy of a model whose large float32 weights are int8, symmetric per output channel.

    Args:
        model: It is not changed.
        only_exact: Whether to leave weights as they are that bytes do not hold exactly.

    Returns:
        The copy. It computes in float32, with weights that are off by at most half a step.
    """
    copied = ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    axes = _channel_axes(copied)
    kept, unpacking = [], []
    for tensor in graph.initializer:
        if tensor.name not in axes:
            kept.append(tensor)
            continue
        weights = numpy_helper.to_array(tensor)
        packed, scale = pack(weights, axis=axes[tensor.name])
        if only_exact and not np.allclose(packed * scale, weights, rtol=_EXACT, atol=0):
            kept.append(tensor)
            continue
        names = (f"{tensor.name}_bytes", f"{tensor.name}_scale", f"{tensor.name}_steps")
        kept += [
            numpy_helper.from_array(packed, names[0]),
            numpy_helper.from_array(scale, names[1]),
        ]
        unpacking += [
            helper.make_node("Cast", [names[0]], [names[2]], name=names[2], to=TensorProto.FLOAT),
            helper.make_node("Mul", [names[2], names[1]], [tensor.name], name=tensor.name),
        ]
    # In front: ONNX wants a value's node before those that read it.
    nodes = [*unpacking, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    return copied


def pack(
    weights: npt.NDArray[np.float32], *, axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Bytes and the scale that gives the weights back by multiplication.

    Args:
        weights: Of any shape.
        axis: Which of its dimensions is the output channels.
    """
    others = tuple(index for index in range(weights.ndim) if index != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    # A channel of zeros has no range; any scale gives its zeros back.
    scale = np.where(largest > 0, largest / _LARGEST, 1).astype(np.float32)
    return np.clip(np.rint(weights / scale), -_LARGEST, _LARGEST).astype(np.int8), scale


def large_float_readers(graph: onnx.GraphProto) -> list[NodeProto]:
    """Convolutions and matrix products whose weights are a large float32 constant."""
    large = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT and math.prod(tensor.dims) >= SMALLEST_COMPRESSED
    }
    return [
        node
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in large
    ]


def _channel_axes(model: ModelProto) -> Mapping[str, int]:
    """Large weights that only convolutions and matrix products read -> axis of output channels."""
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    large = {node.input[1] for node in large_float_readers(model.graph)}
    axes: dict[str, set[int | None]] = defaultdict(set)
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in large:
                is_weight = place == 1
                axes[name].add(_channel_axis(node, len(shapes[name])) if is_weight else None)
    found = {}
    for name, several in axes.items():
        # Two readers with different axes: no one scale a channel serves both.
        (axis, *others) = several
        if axis is not None and not others:
            found[name] = axis
    return found


def _channel_axis(node: NodeProto, num_dimensions: int) -> int | None:
    if node.op_type == "Conv":
        return 0
    if node.op_type == "MatMul":
        return num_dimensions - 1
    if node.op_type == "Gemm":
        transposed = any(item.name == "transB" and item.i for item in node.attribute)
        return 0 if transposed else 1
    return None
