"""An exported program as LiteRT's operators.

PyTorch keeps channels in front of height and width, LiteRT behind. No tensor is moved for that. A
value remembers in which order its axes lie in memory, and a permutation only changes that note. A
`TRANSPOSE` is written where an operator insists on an order. So a convolutional network has none,
and the `permute` in front of ConvNeXt's layers costs nothing.

XNNPACK, which computes on CPUs, folds a `PAD` into the convolution behind it; so a padding that
TensorFlow's `SAME` does not mean is written as one.
"""

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from edgeseed.core.errors import WorkError
from edgeseed.export.program import (
    constant,
    fold_constants,
    input_of,
    is_constant,
    module_name,
)
from edgeseed.export.targets.litert.flatbuffer import ModelBuilder, Scales

Array = npt.NDArray[Any]
_aten = torch.ops.aten
NHWC = (0, 2, 3, 1)
_NLC = (0, 2, 1)
_LOWEST = float(np.finfo(np.float32).min)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Value:
    """A tensor of the file, and what it is in the program."""

    index: int
    shape: tuple[int, ...]
    """The program's."""
    order: tuple[int, ...]
    """Axis i in memory is the program's axis `order[i]`."""
    dtype: str = "float32"
    scales: Scales | None = None

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """As it lies in memory."""
        return tuple(self.shape[axis] for axis in self.order)

    @property
    def is_plain(self) -> bool:
        """Whether it lies in the program's order."""
        return self.order == plain(len(self.shape))


FACTOR = "__x"
"""Begins the end of a tensor's name that says how many times the program's its numbers are."""


def factor_of(name: str) -> float:
    """How many times the program's numbers those of a tensor of this name are."""
    _, mark, text = name.partition(FACTOR)
    return float(text) if mark else 1.0


def with_factor_of(other: str, name: str) -> str:
    """A name with the factor of another tensor's."""
    own = re.sub(rf"{FACTOR}[0-9.e+-]+", "", name)
    _, mark, text = other.partition(FACTOR)
    return f"{own}{mark}{text}"


def plain(rank: int) -> tuple[int, ...]:
    """The program's own order of axes."""
    return tuple(range(rank))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvGeometry:
    """How a convolution or pooling slides."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)

    def pads(self, sizes: Sequence[int], results: Sequence[int]) -> list[tuple[int, int]]:
        """Rows before and after, of height and width, that the results need."""
        found = []
        for at, size in enumerate(sizes):
            reach = (self.kernel[at] - 1) * self.dilation[at] + 1
            whole = (results[at] - 1) * self.stride[at] + reach
            found.append((self.padding[at], max(0, whole - size - self.padding[at])))
        return found

    def is_same(self, sizes: Sequence[int], results: Sequence[int]) -> bool:
        """Whether TensorFlow's `SAME` pads so."""
        for at, (size, pads) in enumerate(zip(sizes, self.pads(sizes, results), strict=True)):
            reach = (self.kernel[at] - 1) * self.dilation[at] + 1
            count = -(-size // self.stride[at])
            total = max((count - 1) * self.stride[at] + reach - size, 0)
            if results[at] != count or pads != (total // 2, total - total // 2):
                return False
        return True


class Lowering:
    """Turns one program into a file.

    Args:
        graph_module: Of the program, for batches of one photo. What depends on constants alone is
            computed in it.
        weights: How the weights of layers are stored: `float32`, `float16` or `int8`.
        input_type: Of the photo's values: `uint8` or `float32`.
    """

    def __init__(
        self, graph_module: fx.GraphModule, *, weights: str = "float32", input_type: str = "uint8"
    ) -> None:
        self.module = graph_module
        self.graph = graph_module.graph
        self.weights = weights
        self.input_type = input_type
        self.builder = ModelBuilder()
        _take_einsum_apart(graph_module)
        # A batch of one makes more of it constant than the program knew.
        fold_constants(graph_module)
        self.values: dict[fx.Node, Value] = {}
        self.parts: dict[fx.Node, list[Value]] = {}
        """Of operators with several results."""
        self.fused = _fused_activations(self.graph)
        self.inputs: dict[str, int] = {}
        self._zeros_around: dict[int, tuple[Value, tuple[tuple[int, int], ...]]] = {}
        """A tensor that was padded with zeros: what it was, and the rows before and after."""

    def run(self, output_names: Sequence[str]) -> dict[str, int]:
        """Writes all operators, and gives the numbers of the outputs.

        Raises:
            WorkError: If LiteRT lacks an operator; it is named.
        """
        outputs: dict[str, int] = {}
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.values[node] = self._image(node)
            elif node.op == "call_function":
                self.visit(node)
            elif node.op == "output":
                for name, each in zip(output_names, node.args[0], strict=True):
                    outputs[name] = self._output(name, each)
        return outputs

    # ------------------------------------------------------------------ values

    def visit(self, node: fx.Node) -> None:
        """Writes what a node computes."""
        if node.target in _CHECKS:
            return
        handler = _HANDLERS.get(node.target)
        if handler is None:
            raise unknown_operator(node)
        found = handler(self, node)
        if isinstance(found, list):
            self.parts[node] = found
        else:
            self.values[node] = found

    def value(self, node: Any) -> Value:
        """What a node gave; a constant becomes one of the file."""
        assert isinstance(node, fx.Node)
        if node not in self.values and is_constant(node):
            array = constant(self.module, node).numpy()
            self.values[node] = self._constant_value(node.name, array)
        return self.values[node]

    def _constant_value(self, name: str, array: Array) -> Value:
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        return Value(
            index=self.builder.constant(name, array), shape=tuple(array.shape),
            order=plain(array.ndim), dtype=str(array.dtype),
        )  # fmt: skip

    def result(
        self,
        name: str,
        shape: Sequence[int],
        order: Sequence[int],
        *,
        like: Value | None = None,
        scales: Scales | None = None,
        dtype: str | None = None,
    ) -> Value:
        """A tensor that is yet to be computed."""
        if like is not None:
            if scales is None:
                # The same integers, so as many times the program's numbers as they are.
                name = with_factor_of(self.builder.tensors[like.index].name, name)
            scales, dtype = scales or like.scales, dtype or like.dtype
        shape, order = tuple(int(size) for size in shape), tuple(order)
        stored = [shape[axis] for axis in order]
        index = self.builder.tensor(name, stored, dtype or "float32", scales=scales)
        return Value(index=index, shape=shape, order=order, dtype=dtype or "float32", scales=scales)

    def in_order(self, value: Value, order: Sequence[int]) -> Value:
        """The same value with its axes in memory in another order."""
        order = tuple(order)
        if value.order == order:
            return value
        name = f"{self.builder.tensors[value.index].name}_moved"
        moved = self.result(name, value.shape, order, like=value)
        if _same_sequence(value, order):
            self.reshape(value, moved)
            return moved
        axes = np.array([value.order.index(axis) for axis in order], np.int32)
        permutation = self.builder.constant("permutation", axes)
        self.emit("TRANSPOSE", [value.index, permutation], moved, options="TransposeOptions")
        return moved

    def with_last_axis_last(self, value: Value) -> Value:
        """The value as layers over the last axis read it: with that axis innermost in memory."""
        rank = len(value.shape)
        return value if value.order[-1] == rank - 1 else self.in_order(value, plain(rank))

    def plain_value(self, node: Any) -> Value:
        """A node's value in the program's own order."""
        value = self.value(node)
        return self.in_order(value, plain(len(value.shape)))

    def reshape(self, source: Value, result: Value) -> None:
        """Writes the same sequence of numbers in the shape of `result`."""
        shape = np.array(result.stored_shape, np.int32)
        self.emit(
            "RESHAPE", [source.index, self.builder.constant("shape", shape)], result,
            options="ReshapeOptions", newShape=shape,
        )  # fmt: skip

    def emit(
        self,
        kind: str,
        inputs: Sequence[int],
        result: Value,
        *,
        options: str = "",
        version: int | None = None,
        **values: Any,
    ) -> Value:
        """Writes one operator with one result."""
        if version is None:
            version = _VERSIONS.get((kind, result.dtype), 1)
        self.builder.operator(
            kind, inputs, [result.index], options=options, version=version, **values
        )
        return result

    def _image(self, node: fx.Node) -> Value:
        """The photo as an app gives it, as float32."""
        shape = tuple(int(size) for size in node.meta["val"].shape)
        if self.input_type == "float32":
            image = self.result(node.name, shape, NHWC)
            self.inputs[node.name] = image.index
            return image
        image = self.result(node.name, shape, NHWC, dtype="uint8", scales=Scales.of(1.0, 0))
        self.inputs[node.name] = image.index
        real = self.result(f"{node.name}_real", shape, NHWC)
        return self.emit("DEQUANTIZE", [image.index], real, options="DequantizeOptions")

    def _output(self, name: str, node: fx.Node) -> int:
        value = self.plain_value(node)
        is_computed = self.builder.tensors[value.index].buffer == 0
        if not is_computed or value.dtype != "float32":
            raise WorkError(f"LiteRT cannot express this network: output {name} is not computed")
        self.builder.tensors[value.index].name = name
        return value.index

    # ------------------------------------------------------------------ elementwise

    def elementwise(
        self, node: fx.Node, kind: str, left: Any, right: Any, *, options: str = ""
    ) -> Value:
        """A binary operator with broadcasting; either side may be a constant or a number."""
        shape = tuple(int(size) for size in node.meta["val"].shape)
        order = self._common_order(left, right, rank=len(shape))
        first, second = (self.operand(each, shape, order) for each in (left, right))
        result = self.result(node.name, shape, order)
        values: dict[str, Any] = {}
        if options in ("AddOptions", "SubOptions", "MulOptions", "DivOptions"):
            values["fusedActivationFunction"] = self.fused.get(node, 0)
        return self.emit(kind, [first, second], result, options=options, **values)

    def _common_order(self, left: Any, right: Any, *, rank: int) -> tuple[int, ...]:
        values = [
            self.value(each)
            for each in (left, right)
            if isinstance(each, fx.Node) and not is_constant(each)
        ]
        full = [value for value in values if len(value.shape) == rank]
        if not full:
            return plain(rank)
        # The larger side stays as it lies: moving the other costs less.
        return max(full, key=lambda value: (math.prod(value.shape), not value.is_plain)).order

    def operand(self, source: Any, shape: Sequence[int], order: tuple[int, ...]) -> int:
        """The number of a tensor that is broadcast to `shape`, its axes in an order."""
        if isinstance(source, int | float):
            return self.number(source)
        assert isinstance(source, fx.Node)
        if is_constant(source):
            array = constant(self.module, source).numpy().astype(np.float32)
            return self.constant_in(source.name, array, order, shape=shape)
        value = self.value(source)
        missing = len(shape) - len(value.shape)
        if missing:
            value = self.in_order(value, plain(len(value.shape)))
            wider = self.result(
                f"{source.name}_wider", (1,) * missing + value.shape, plain(len(shape)), like=value
            )
            self.reshape(value, wider)
            value = wider
        return self.in_order(value, order).index

    def number(self, value: float) -> int:
        """A constant of one number."""
        return self.builder.constant("number", np.array(value, np.float32))

    def constant_in(
        self, name: str, array: Array, order: Sequence[int], *, shape: Sequence[int]
    ) -> int:
        """A constant that is broadcast to `shape`, its axes in an order."""
        if array.ndim > 0:
            array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
            array = array.transpose(tuple(order))
            stored = [shape[axis] for axis in order]
            if array.ndim > 2 and array.size == array.shape[-1] < 16 < stored[-2]:
                # A constant a channel of few channels: a row of them is what kernels read fast.
                array = np.broadcast_to(array, (1,) * (array.ndim - 2) + tuple(stored[-2:]))
        return self.builder.constant(name, array)

    def unary(self, node: fx.Node, kind: str, *, options: str = "", **values: Any) -> Value:
        """An operator of one tensor that keeps its shape."""
        source = self.value(node.args[0])
        result = self.result(node.name, source.shape, source.order)
        return self.emit(kind, [source.index], result, options=options, **values)

    def step(
        self, name: str, kind: str, source: Value, other: int | None = None, *, options: str = "",
        shape: Sequence[int] | None = None, **values: Any,
    ) -> Value:  # fmt: skip
        """One operator inside of what is a single one in the program."""
        result = self.result(name, shape or source.shape, source.order)
        inputs = [source.index] if other is None else [source.index, other]
        return self.emit(kind, inputs, result, options=options, **values)

    # ------------------------------------------------------------------ layers

    def stored_weight(self, name: str, array: Array, *, axis: int) -> int:
        """The weight of a layer in the type that the precision has; read as float32."""
        if self.weights == "float32":
            return self.builder.constant(name, array)
        if self.weights == "float16":
            stored = self.builder.constant(f"{name}_half", array.astype(np.float16))
            version = 3
        else:
            integers, scales = per_channel(array, axis=axis)
            stored = self.builder.constant(f"{name}_integers", integers, scales=scales)
            version = 5
        real = self.result(name, array.shape, plain(array.ndim))
        options = "DequantizeOptions"
        return self.emit("DEQUANTIZE", [stored], real, options=options, version=version).index

    def bias(self, node: fx.Node, size: int) -> int:
        """A layer's bias, or zeros."""
        source = node.args[2] if len(node.args) > 2 else None
        if not isinstance(source, fx.Node):
            return self.builder.constant(f"{node.name}_bias", np.zeros(size, np.float32))
        return self.builder.constant(f"{node.name}_bias", constant(self.module, source).numpy())

    def emit_conv(
        self, node: fx.Node, source: Value, weight: Array, bias: int, result: Value,
        *, store: Callable[[Array, int], int],
    ) -> Value:  # fmt: skip
        """Writes a convolution, with a `PAD` in front where it needs one.

        Args:
            node: The program's.
            source: In the order of `NHWC`.
            weight: (O, I, H, W).
            bias: Number of its tensor.
            result: Where it goes.
            store: Stores the weight as LiteRT orders it, with the axis of its output channels, and
                gives the number of its tensor.
        """
        channels = source.shape[1]
        depthwise = is_depthwise(node, weight.shape, channels)
        kernel, axis = stored_kernel(weight, depthwise=depthwise)
        geometry = conv_geometry(node, weight.shape)
        source, geometry = self._without_zeros(source, result, geometry)
        source, padding = self.padded(node, source, result, geometry)
        values: dict[str, Any] = {
            "padding": padding,
            "strideH": geometry.stride[0], "strideW": geometry.stride[1],
            "dilationHFactor": geometry.dilation[0], "dilationWFactor": geometry.dilation[1],
            "fusedActivationFunction": self.fused.get(node, 0),
        }  # fmt: skip
        kind, options = "CONV_2D", "Conv2DOptions"
        if depthwise:
            kind, options = "DEPTHWISE_CONV_2D", "DepthwiseConv2DOptions"
            values["depthMultiplier"] = len(weight) // channels
        inputs = [source.index, store(kernel, axis), bias]
        return self.emit(kind, inputs, result, options=options, **values)

    def _without_zeros(
        self, source: Value, result: Value, geometry: ConvGeometry
    ) -> tuple[Value, ConvGeometry]:
        """What was padded with zeros for a convolution, if `SAME` pads so as well.

        Networks from TensorFlow pad one row more after than before, which is what `SAME` means.
        Written as an operator it copies the whole tensor.
        """
        if source.index not in self._zeros_around:
            return source, geometry
        inner, (batch, channels, rows, columns) = self._zeros_around[source.index]
        before = (geometry.padding[0] + rows[0], geometry.padding[1] + columns[0])
        whole = dataclasses.replace(geometry, padding=before)
        if any(batch) or any(channels) or not whole.is_same(inner.shape[2:], result.shape[2:]):
            return source, geometry
        # Its `PAD` goes when the file is finished, unless something else reads it as well.
        return inner, whole

    def padded(
        self, node: fx.Node, source: Value, result: Value, geometry: ConvGeometry,
        *, fill: float = 0.0,
    ) -> tuple[Value, int]:  # fmt: skip
        """The input of a sliding operator, padded if need be, and the operator's own padding."""
        padding = self.builder.schema.Padding
        sizes, results = source.shape[2:], result.shape[2:]
        pads = geometry.pads(sizes, results)
        if not any(map(any, pads)):
            return source, padding.VALID
        if fill == 0.0 and geometry.is_same(sizes, results):
            return source, padding.SAME
        return self.pad(node, source, [(0, 0), (0, 0), *pads], fill=fill), padding.VALID

    def pad(
        self, node: fx.Node, source: Value, pads: Sequence[tuple[int, int]], *, fill: float
    ) -> Value:
        """Writes constant values around a tensor; `pads` by the program's axes."""
        shape = [size + sum(pads[axis]) for axis, size in enumerate(source.shape)]
        result = self.result(f"{node.name}_padded", shape, source.order, like=source)
        rows = np.array([pads[axis] for axis in source.order], np.int32)
        inputs = [source.index, self.builder.constant("pads", rows)]
        if fill == 0.0:
            if len(pads) == len(NHWC):
                self._zeros_around[result.index] = (source, tuple(pads))
            return self.emit("PAD", inputs, result, options="PadOptions")
        return self.emit(
            "PADV2", [*inputs, self._fill(source, fill)], result, options="PadV2Options"
        )

    def _fill(self, source: Value, fill: float) -> int:
        """A constant of one number as `source` stores it, or the nearest that it can store."""
        if source.scales is None:
            return self.number(fill)
        ends = np.iinfo(source.dtype)
        integer = round(fill / float(source.scales.scale[0])) + int(source.scales.zero_point[0])
        stored = np.array(min(max(integer, ends.min), ends.max), source.dtype)
        return self.builder.constant("number", stored, scales=source.scales)


def _take_einsum_apart(graph_module: fx.GraphModule) -> None:
    """Writes each `einsum` as the products and moved axes that PyTorch computes it by."""
    graph = graph_module.graph
    for node in graph.find_nodes(op="call_function", target=_aten.einsum.default):
        operands: Any = node.args[1]
        values = [each.meta["val"] for each in operands]

        def product(*tensors: Tensor, equation: Any = node.args[0]) -> Tensor:
            return torch.einsum(equation, *tensors)

        with values[0].fake_mode:
            made = make_fx(product)(*values).graph
        places = dict(zip(made.find_nodes(op="placeholder"), operands, strict=True))
        with graph.inserting_before(node):
            result = graph.graph_copy(made, places)
        node.replace_all_uses_with(result)
        graph.erase_node(node)


def unknown_operator(node: fx.Node) -> WorkError:
    """The error for what LiteRT, or this lowering, lacks."""
    place = module_name(node)
    where = f"{place} computes ({node.name})" if place else f"{node.name} computes"
    return WorkError(
        f"LiteRT cannot express this network: it has no {node.target}, which {where}; "
        "export it to another target, such as onnx"
    )


def per_channel(weight: Array, *, axis: int) -> tuple[Array, Scales]:
    """Integers and scales that mean what `target.round_per_channel` gives."""
    others = tuple(each for each in range(weight.ndim) if each != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    integers = np.rint(weight / scale).astype(np.int8)
    flat = scale.reshape(-1)
    zeros = np.zeros(len(flat), np.int64)
    return integers, Scales(scale=flat, zero_point=zeros, axis=axis)


def _same_sequence(value: Value, order: tuple[int, ...]) -> bool:
    """Whether another order of axes leaves every number where it is: only axes of 1 change."""
    before = [axis for axis in value.order if value.shape[axis] != 1]
    return before == [axis for axis in order if value.shape[axis] != 1]


RELU, RELU6 = 1, 3  # schema.ActivationFunctionType
_FUSING = {
    _aten.conv2d.default, _aten.conv2d.padding, _aten.linear.default, _aten.add.Tensor,
    _aten.mul.Tensor,
}  # fmt: skip


def _activation(node: fx.Node) -> int:
    if node.target is _aten.relu.default:
        return RELU
    if node.target is _aten.relu6.default:
        return RELU6
    if node.target in (_aten.hardtanh.default, _aten.clamp.default):
        return RELU6 if list(node.args[1:3]) == [0, 6] else 0
    return 0


def _fused_activations(graph: fx.Graph) -> dict[fx.Node, int]:
    """Layers and sums with a ReLU as their only reader, which they compute along."""
    found = {}
    for node in graph.nodes:
        code = _activation(node) if node.op == "call_function" else 0
        source = node.args[0] if code else None
        if isinstance(source, fx.Node) and source.target in _FUSING and len(source.users) == 1:
            found[source] = code
    return found


# ------------------------------------------------------------------ handlers: layers


def conv_geometry(node: fx.Node, weight_shape: Sequence[int]) -> ConvGeometry:
    """How a `conv2d` or `conv1d` node slides."""
    arguments = [*node.args, *[None] * 7]
    stride, padding, dilation = (_pair(each) for each in arguments[3:6])
    if node.target in (_aten.conv1d.default, _aten.conv1d.padding):
        # Photos one pixel high: nothing slides along height.
        stride, padding, dilation = (
            each and (alone, each[1]) for each, alone in ((stride, 1), (padding, 0), (dilation, 1))
        )
    kernel = (int(weight_shape[2]), int(weight_shape[3]))
    dilation = dilation or (1, 1)
    if isinstance(arguments[4], str):
        reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        padding = (reach[0] // 2, reach[1] // 2) if arguments[4] == "same" else (0, 0)
    return ConvGeometry(
        kernel=kernel, stride=stride or (1, 1), padding=padding or (0, 0), dilation=dilation
    )


def _pair(value: Any) -> tuple[int, int] | None:
    if value is None or isinstance(value, str):
        return None
    if isinstance(value, int):
        return (value, value)
    items = [int(item) for item in value]
    return (items[0], items[-1]) if items else None


def conv_groups(node: fx.Node) -> int:
    """Of a `conv2d` node."""
    return int(str(node.args[6])) if len(node.args) > 6 else 1


def is_depthwise(node: fx.Node, weight_shape: Sequence[int], channels: int) -> bool:
    """Whether each output channel reads one input channel."""
    return conv_groups(node) == channels > 1 and weight_shape[1] == 1


def stored_kernel(weight: Array, *, depthwise: bool) -> tuple[Array, int]:
    """(O, I, H, W) as LiteRT orders it, and the axis of the output channels there."""
    if depthwise:
        return np.ascontiguousarray(weight.transpose(1, 2, 3, 0)), 3
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1)), 0


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Of what a node gives."""
    return tuple(int(size) for size in node.meta["val"].shape)


def _conv(lowering: Lowering, node: fx.Node) -> Value:
    if not is_constant(node.args[1]):
        raise unknown_operator(node)
    source = lowering.in_order(lowering.value(node.args[0]), NHWC)
    weight = constant(lowering.module, input_of(node, 1)).numpy()

    def store(kernel: Array, axis: int) -> int:
        return lowering.stored_weight(f"{node.name}_weight", kernel, axis=axis)

    bias = lowering.bias(node, len(weight))
    result = lowering.result(node.name, shape_of(node), NHWC)
    return lowering.emit_conv(node, source, weight, bias, result, store=store)


def _conv1d(lowering: Lowering, node: fx.Node) -> Value:
    """A convolution of photos that are one pixel high."""
    if not is_constant(node.args[1]):
        raise unknown_operator(node)
    weight = constant(lowering.module, input_of(node, 1)).numpy()[:, :, None]

    def store(kernel: Array, axis: int) -> int:
        return lowering.stored_weight(f"{node.name}_weight", kernel, axis=axis)

    source = _one_pixel_high(lowering, lowering.value(node.args[0]), f"{node.name}_row")
    count, channels, length = shape_of(node)
    wide = lowering.result(f"{node.name}_wide", (count, channels, 1, length), NHWC)
    lowering.emit_conv(node, source, weight, lowering.bias(node, channels), wide, store=store)
    result = lowering.result(node.name, shape_of(node), _NLC)
    lowering.reshape(wide, result)
    return result


def _one_pixel_high(lowering: Lowering, value: Value, name: str) -> Value:
    """(N, C, L) as (N, C, 1, L)."""
    value = lowering.in_order(value, _NLC)
    count, channels, length = value.shape
    row = lowering.result(name, (count, channels, 1, length), NHWC, like=value)
    lowering.reshape(value, row)
    return row


def _columns(lowering: Lowering, node: fx.Node) -> Value:
    """`im2col`, windows as columns: a convolution that copies, one output a place of the window."""
    kernel, dilation, padding, stride = (_pair(each) or (1, 1) for each in node.args[1:5])
    geometry = ConvGeometry(kernel=kernel, stride=stride, padding=padding, dilation=dilation)
    source = lowering.in_order(lowering.value(node.args[0]), NHWC)
    count, channels = source.shape[:2]
    places = math.prod(kernel)
    rows, columns = (
        (size + 2 * pad - (width - 1) * apart - 1) // step + 1
        for size, width, pad, apart, step in zip(
            source.shape[2:], kernel, padding, dilation, stride, strict=True
        )
    )
    wide = lowering.result(f"{node.name}_wide", (count, channels * places, rows, columns), NHWC)
    copies = np.eye(places, dtype=np.float32).reshape(1, *kernel, places)
    source, own = lowering.padded(node, source, wide, geometry)
    lowering.emit(
        "DEPTHWISE_CONV_2D",
        [
            source.index,
            lowering.stored_weight(f"{node.name}_weight", np.tile(copies, channels), axis=3),
            lowering.builder.constant(f"{node.name}_bias", np.zeros(channels * places, np.float32)),
        ],
        wide, options="DepthwiseConv2DOptions", padding=own, depthMultiplier=places,
        strideH=stride[0], strideW=stride[1],
        dilationHFactor=dilation[0], dilationWFactor=dilation[1],
    )  # fmt: skip
    result = lowering.result(node.name, shape_of(node), _NLC)
    lowering.reshape(wide, result)
    return result


def _conv_transpose(lowering: Lowering, node: fx.Node) -> Value:
    """`conv_transpose2d`: LiteRT's without padding, and what PyTorch's padding takes is cut off."""
    arguments = [*node.args, *[None] * 8]
    if arguments[6] not in (None, 1) or _pair(arguments[7]) not in (None, (1, 1)):
        raise unknown_operator(node)
    if not is_constant(node.args[1]):
        raise unknown_operator(node)
    stride, padding = _pair(arguments[3]) or (1, 1), _pair(arguments[4]) or (0, 0)
    source = lowering.in_order(lowering.value(node.args[0]), NHWC)
    weight = constant(lowering.module, input_of(node, 1)).numpy()
    shape = shape_of(node)
    sizes = [
        (size - 1) * step + reach
        for size, step, reach in zip(source.shape[2:], stride, weight.shape[2:], strict=True)
    ]
    if any(before + wanted > size
           for before, wanted, size in zip(padding, shape[2:], sizes, strict=True)):  # fmt: skip
        raise unknown_operator(node)  # output_padding beyond what the kernel reaches
    found = lowering.result(f"{node.name}_whole", (*shape[:2], *sizes), NHWC)
    kernel = np.ascontiguousarray(weight.transpose(1, 2, 3, 0))
    inputs = [
        lowering.builder.constant("shape", np.array(found.stored_shape, np.int32)),
        lowering.stored_weight(f"{node.name}_weight", kernel, axis=0),
        source.index,
        lowering.bias(node, shape[1]),
    ]
    lowering.emit(
        "TRANSPOSE_CONV", inputs, found, options="TransposeConvOptions", version=3,
        padding=lowering.builder.schema.Padding.VALID, strideH=stride[0], strideW=stride[1],
    )  # fmt: skip
    for axis in (2, 3):
        if shape[axis] != found.shape[axis]:
            name = f"{node.name}_cut{axis}"
            found = _cut(lowering, name, found, axis, padding[axis - 2], shape[axis])
    return found


def _linear(lowering: Lowering, node: fx.Node) -> Value:
    source = lowering.with_last_axis_last(lowering.value(node.args[0]))
    if not is_constant(node.args[1]):
        raise unknown_operator(node)
    weight = constant(lowering.module, input_of(node, 1)).numpy()
    return lowering.emit(
        "FULLY_CONNECTED",
        [
            source.index,
            lowering.stored_weight(f"{node.name}_weight", weight, axis=0),
            lowering.bias(node, len(weight)),
        ],
        lowering.result(node.name, shape_of(node), source.order),
        options="FullyConnectedOptions",
        keepNumDims=len(source.shape) != 2,
        fusedActivationFunction=lowering.fused.get(node, 0),
    )


def _scaled_dot_product(lowering: Lowering, node: fx.Node) -> Value:
    query, key, value = (lowering.plain_value(each) for each in node.args[:3])
    arguments = [*node.args, *[None] * 6]
    if arguments[5]:
        raise unknown_operator(node)
    scale = node.kwargs.get("scale") or query.shape[-1] ** -0.5
    name = node.name
    shares_shape = (*query.shape[:-1], key.shape[-2])
    scaled = lowering.step(
        f"{name}_scaled", "MUL", query, lowering.number(float(str(scale))), options="MulOptions"
    )
    shares = lowering.step(
        f"{name}_products", "BATCH_MATMUL", scaled, key.index, options="BatchMatMulOptions",
        shape=shares_shape, adjY=True,
    )  # fmt: skip
    if isinstance(arguments[3], fx.Node):
        mask = lowering.operand(arguments[3], shares_shape, plain(len(shares_shape)))
        shares = lowering.step(f"{name}_masked", "ADD", shares, mask, options="AddOptions")
    shares = lowering.step(f"{name}_shares", "SOFTMAX", shares, options="SoftmaxOptions", beta=1.0)
    return lowering.step(
        name, "BATCH_MATMUL", shares, value.index, options="BatchMatMulOptions",
        shape=shape_of(node),
    )  # fmt: skip


def _matmul(lowering: Lowering, node: fx.Node) -> Value:
    left, right = (lowering.plain_value(each) for each in node.args[:2])
    if min(len(left.shape), len(right.shape)) < 2:
        raise unknown_operator(node)
    return lowering.step(
        node.name, "BATCH_MATMUL", left, right.index, options="BatchMatMulOptions",
        shape=shape_of(node),
    )  # fmt: skip


# ------------------------------------------------------------------ handlers: elementwise


def _binary(kind: str, options: str) -> Callable[[Lowering, fx.Node], Value]:
    def handle(lowering: Lowering, node: fx.Node) -> Value:
        if node.kwargs.get("alpha", 1) != 1:
            raise unknown_operator(node)
        return lowering.elementwise(node, kind, node.args[0], node.args[1], options=options)

    return handle


def _unary(kind: str, options: str = "") -> Callable[[Lowering, fx.Node], Value]:
    return lambda lowering, node: lowering.unary(node, kind, options=options)


def _same(lowering: Lowering, node: fx.Node) -> Value:
    return lowering.value(node.args[0])


def _relu(lowering: Lowering, node: fx.Node) -> Value:
    if input_of(node) in lowering.fused:
        return lowering.value(node.args[0])
    code = _activation(node)
    if not code:
        return _clamp(lowering, node)
    return lowering.unary(node, "RELU6" if code == RELU6 else "RELU")


def _clamp(lowering: Lowering, node: fx.Node) -> Value:
    value = lowering.value(node.args[0])
    low, high = [*node.args[1:3], None, None][:2]
    if node.target is _aten.hardtanh.default and len(node.args) < 3:
        low, high = -1.0, 1.0
    for kind, limit, what in (("MAXIMUM", low, "low"), ("MINIMUM", high, "high")):
        if limit is not None:
            number = lowering.number(float(str(limit)))
            name, options = f"{node.name}_{what}", "MaximumMinimumOptions"
            value = lowering.step(name, kind, value, number, options=options)
    return value


def _hardsigmoid(lowering: Lowering, node: fx.Node) -> Value:
    value = lowering.value(node.args[0])
    shifted = lowering.step(
        f"{node.name}_shifted", "ADD", value, lowering.number(3.0), options="AddOptions",
        fusedActivationFunction=RELU6,
    )  # fmt: skip
    return lowering.step(node.name, "MUL", shifted, lowering.number(1 / 6), options="MulOptions")


def _silu(lowering: Lowering, node: fx.Node) -> Value:
    value = lowering.value(node.args[0])
    gate = lowering.step(f"{node.name}_gate", "LOGISTIC", value)
    return lowering.step(node.name, "MUL", value, gate.index, options="MulOptions")


def _gelu(lowering: Lowering, node: fx.Node) -> Value:
    approximate = node.kwargs.get("approximate", "none") == "tanh"
    return lowering.unary(node, "GELU", options="GeluOptions", approximate=approximate)


def _leaky_relu(lowering: Lowering, node: fx.Node) -> Value:
    slope = float(str(node.args[1])) if len(node.args) > 1 else 0.01
    return lowering.unary(node, "LEAKY_RELU", options="LeakyReluOptions", alpha=slope)


def _power(lowering: Lowering, node: fx.Node) -> Value:
    if node.args[1] == 2:
        return lowering.unary(node, "SQUARE", options="SquareOptions")
    if node.args[1] == 0.5:
        return lowering.unary(node, "SQRT")
    value = lowering.value(node.args[0])
    exponent = lowering.number(float(str(node.args[1])))
    return lowering.step(node.name, "POW", value, exponent, options="PowOptions")


def _batch_norm(lowering: Lowering, node: fx.Node) -> Value:
    value = lowering.value(node.args[0])
    tensors = [
        constant(lowering.module, each).double().numpy() if isinstance(each, fx.Node) else None
        for each in node.args[1:5]
    ]
    weight, bias, mean, var = tensors
    assert mean is not None
    assert var is not None
    gain = (1.0 if weight is None else weight) / np.sqrt(var + float(str(node.args[7])))
    shift = (0.0 if bias is None else bias) - mean * gain
    shape = (1, -1, *[1] * (len(value.shape) - 2))
    rows = [
        lowering.constant_in(
            node.name, each.reshape(shape).astype(np.float32), value.order, shape=value.shape
        )
        for each in (gain, shift)
    ]
    scaled = lowering.step(f"{node.name}_scaled", "MUL", value, rows[0], options="MulOptions")
    return lowering.step(node.name, "ADD", scaled, rows[1], options="AddOptions")


# ------------------------------------------------------------------ handlers: reductions


def reduce_axes(
    lowering: Lowering, name: str, kind: str, value: Value, axes: Sequence[int], *, keep: bool
) -> Value:
    """A mean, sum or maximum over the program's axes."""
    rank = len(value.shape)
    axes = [axis % rank for axis in axes]
    stored = np.array(sorted(value.order.index(axis) for axis in axes), np.int32)
    kept = [1 if axis in axes else size for axis, size in enumerate(value.shape)]
    result = lowering.result(f"{name}_kept" if not keep else name, kept, value.order, like=value)
    lowering.emit(
        kind, [value.index, lowering.builder.constant("axes", stored)], result,
        options="ReducerOptions", keepDims=True,
    )  # fmt: skip
    return result if keep else _without_axes(lowering, name, result, axes)


def _without_axes(lowering: Lowering, name: str, value: Value, axes: Sequence[int]) -> Value:
    """A value without some axes of one."""
    left = [axis for axis in range(len(value.shape)) if axis not in axes]
    order = [left.index(axis) for axis in value.order if axis in left]
    result = lowering.result(name, [value.shape[axis] for axis in left], order, like=value)
    lowering.reshape(value, result)
    return result


def _axes(value: Any, rank: int) -> list[int]:
    if value is None or (isinstance(value, list | tuple) and not value):
        return list(range(rank))
    return [int(axis) for axis in value] if isinstance(value, list | tuple) else [int(value)]


def _reduction(kind: str) -> Callable[[Lowering, fx.Node], Value]:
    def handle(lowering: Lowering, node: fx.Node) -> Value:
        value = lowering.value(node.args[0])
        axes = _axes(node.args[1] if len(node.args) > 1 else None, len(value.shape))
        keep = bool(node.args[2]) if len(node.args) > 2 else False
        return reduce_axes(lowering, node.name, kind, value, axes, keep=keep)

    return handle


def _vector_norm(lowering: Lowering, node: fx.Node) -> Value:
    arguments: list[Any] = [*node.args, None, None, None]
    source, order, dims, keep = arguments[:4]
    if order not in (None, 2):
        raise unknown_operator(node)
    value = lowering.value(source)
    axes = _axes(dims, len(value.shape))
    squares = lowering.step(f"{node.name}_squares", "SQUARE", value, options="SquareOptions")
    total = reduce_axes(lowering, f"{node.name}_sum", "SUM", squares, axes, keep=bool(keep))
    return lowering.step(node.name, "SQRT", total)


def _average_pool(lowering: Lowering, node: fx.Node) -> Value:
    value = lowering.in_order(lowering.value(node.args[0]), NHWC)
    return _average_windows(lowering, node, value, list(node.args[1:]), shape_of(node), node.name)


def _average_pool1d(lowering: Lowering, node: fx.Node) -> Value:
    """The mean of windows of photos that are one pixel high."""
    source = _one_pixel_high(lowering, lowering.value(node.args[0]), f"{node.name}_row")
    given: list[Any] = [*node.args[1:], None, None]
    kernel, stride, padding = given[0], given[1] or given[0], given[2] or [0]
    windows = [[1, *kernel], [1, *stride], [0, *padding], *node.args[4:]]
    count, channels, length = shape_of(node)
    shape = (count, channels, 1, length)
    means = _average_windows(lowering, node, source, windows, shape, f"{node.name}_wide")
    result = lowering.result(node.name, shape_of(node), _NLC, like=means)
    lowering.reshape(means, result)
    return result


def _average_windows(
    lowering: Lowering, node: fx.Node, value: Value, windows: list[Any], shape: Sequence[int],
    name: str,
) -> Value:  # fmt: skip
    """The mean of windows, whatever PyTorch divides their sums by.

    LiteRT divides by what of a window lies in the photo. Where PyTorch counts otherwise, zeros are
    put around, and a constant a position makes up for the difference. `windows` is what
    `avg_pool2d` takes behind its input.
    """
    kernel = _pair(windows[0]) or (1, 1)
    arguments = [*windows, *[None] * 4]
    geometry = ConvGeometry(
        kernel=kernel, stride=_pair(arguments[1]) or kernel, padding=_pair(arguments[2]) or (0, 0)
    )
    own = lowering.builder.schema.Padding.VALID
    pads = geometry.pads(value.shape[2:], shape[2:])
    ones = torch.ones(1, 1, *value.shape[2:])
    # Of a photo of ones: what PyTorch gives, and what LiteRT would.
    wanted = _aten.avg_pool2d.default(ones, *windows, **node.kwargs)
    around = F.pad(ones, [*pads[1], *pads[0]])
    given = F.avg_pool2d(around, kernel, geometry.stride)[:, :, : shape[2], : shape[3]]
    if any(map(any, pads)):
        if geometry.is_same(value.shape[2:], shape[2:]) and bool((wanted == 1).all()):
            own, given = lowering.builder.schema.Padding.SAME, wanted
        else:
            value = lowering.pad(node, value, [(0, 0), (0, 0), *pads], fill=0.0)
    factors = (wanted / given).numpy()
    is_plain = np.allclose(factors, 1, rtol=0, atol=1e-6)
    plain = name if is_plain else f"{name}_means"
    result = _windows_means(lowering, plain, value, geometry, shape, padding=own)
    if is_plain:
        return result
    row = lowering.constant_in(f"{name}_factors", factors, NHWC, shape=shape)
    return lowering.step(name, "MUL", result, row, options="MulOptions")


def _windows_means(
    lowering: Lowering, name: str, value: Value, geometry: ConvGeometry, shape: Sequence[int],
    *, padding: int,
) -> Value:  # fmt: skip
    return lowering.emit(
        "AVERAGE_POOL_2D", [value.index], lowering.result(name, shape, NHWC),
        options="Pool2DOptions", padding=padding,
        strideH=geometry.stride[0], strideW=geometry.stride[1],
        filterHeight=geometry.kernel[0], filterWidth=geometry.kernel[1],
    )  # fmt: skip


def _adaptive_pool(lowering: Lowering, node: fx.Node) -> Value:
    value, shape = lowering.value(node.args[0]), shape_of(node)
    if shape[2:] == (1, 1):
        value = lowering.in_order(value, NHWC)
        return reduce_axes(lowering, node.name, "MEAN", value, (2, 3), keep=True)
    if any(size % count for size, count in zip(value.shape[2:], shape[2:], strict=True)):
        pool: Any = node.target
        return _by_matrices(lowering, node, lambda lines, axis: pool(lines, [shape[axis], 1]))
    step = (value.shape[2] // shape[2], value.shape[3] // shape[3])
    geometry = ConvGeometry(kernel=step, stride=step, padding=(0, 0))
    own = lowering.builder.schema.Padding.VALID
    value = lowering.in_order(value, NHWC)
    return _windows_means(lowering, node.name, value, geometry, shape, padding=own)


_RESIZES: Mapping[Any, tuple[str, str]] = {
    _aten.upsample_nearest2d.vec: ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighborOptions"),
    _aten.upsample_bilinear2d.vec: ("RESIZE_BILINEAR", "ResizeBilinearOptions"),
}


def _resize(lowering: Lowering, node: fx.Node) -> Value:
    """`interpolate`, by LiteRT's own operator where it has one that is the same."""
    value, shape = lowering.value(node.args[0]), shape_of(node)
    arguments: list[Any] = list(node.args[2:])
    *flags, given = arguments
    factors: Any = given if isinstance(given, list | tuple) else (None, None)
    # PyTorch steps by the factor that was asked for, LiteRT by what the two sizes say.
    is_exact = all(
        factor is None or size * float(str(factor)) == wanted
        for size, factor, wanted in zip(value.shape[2:], factors, shape[2:], strict=True)
    )
    if node.target not in _RESIZES or not is_exact:
        resize: Any = node.target
        plain_form = resize.overloadpacket.default
        return _by_matrices(
            lowering,
            node,
            lambda lines, axis: plain_form(
                lines, [shape[axis], 1], *flags, factors[axis - 2], None
            ),
        )
    kind, options = _RESIZES[node.target]
    value = lowering.in_order(value, NHWC)
    corners = bool(flags and flags[0])
    return lowering.emit(
        kind,
        [value.index, lowering.builder.constant("size", np.array(shape[2:], np.int32))],
        lowering.result(node.name, shape, NHWC),
        options=options,
        version=3,
        alignCorners=corners,
        halfPixelCenters=bool(flags) and not corners,
    )


def _by_matrices(
    lowering: Lowering, node: fx.Node, along: Callable[[torch.Tensor, int], torch.Tensor]
) -> Value:
    """What is linear along height and along width on their own: `rows @ x @ columns`.

    Args:
        lowering: Where to.
        node: The program's.
        along: The operator on (1, M, size, 1), for height (axis 2) or width (3) of the photo.
    """
    value = lowering.plain_value(node.args[0])
    rows, columns = (
        along(torch.eye(size).reshape(1, size, size, 1), axis)[0, :, :, 0].numpy()
        for axis, size in ((2, value.shape[2]), (3, value.shape[3]))
    )
    wide = lowering.step(
        f"{node.name}_wide", "BATCH_MATMUL", value,
        lowering.builder.constant(f"{node.name}_columns", columns[None, None]),
        options="BatchMatMulOptions", shape=(*value.shape[:3], columns.shape[1]),
    )  # fmt: skip
    left = lowering.builder.constant(f"{node.name}_rows", rows.T[None, None])
    result = lowering.result(node.name, shape_of(node), plain(4))
    return lowering.emit("BATCH_MATMUL", [left, wide.index], result, options="BatchMatMulOptions")


def _max_pool(lowering: Lowering, node: fx.Node) -> Value:
    value = lowering.in_order(lowering.value(node.args[0]), NHWC)
    return max_pool(lowering, node, value, lowering.result(node.name, shape_of(node), NHWC))


def max_pool(lowering: Lowering, node: fx.Node, value: Value, result: Value) -> Value:
    """Writes the pooling of a `max_pool2d` node, of any type."""
    arguments = [*node.args, *[None] * 6]
    kernel = _pair(arguments[1]) or (1, 1)
    if _pair(arguments[4]) not in (None, (1, 1)):
        raise unknown_operator(node)
    geometry = ConvGeometry(
        kernel=kernel, stride=_pair(arguments[2]) or kernel, padding=_pair(arguments[3]) or (0, 0)
    )
    sizes, results = value.shape[2:], result.shape[2:]
    padding = lowering.builder.schema.Padding
    own = padding.VALID
    pads = geometry.pads(sizes, results)
    if geometry.is_same(sizes, results):
        own = padding.SAME  # it leaves out what is beyond the border
    elif any(map(any, pads)):
        # Zeros are no less than what a ReLU gives, and never win against it.
        fill = 0.0 if _gives_no_negatives(node, value) else _LOWEST
        value = lowering.pad(node, value, [(0, 0), (0, 0), *pads], fill=fill)
    return lowering.emit(
        "MAX_POOL_2D", [value.index], result, options="Pool2DOptions", padding=own,
        strideH=geometry.stride[0], strideW=geometry.stride[1],
        filterHeight=kernel[0], filterWidth=kernel[1],
    )  # fmt: skip


def _gives_no_negatives(node: fx.Node, value: Value) -> bool:
    """Whether what a pooling reads is nowhere below zero."""
    if value.scales is not None:  # then its lowest integer stands for zero
        return int(value.scales.zero_point[0]) <= np.iinfo(value.dtype).min
    return input_of(node).target in (_aten.relu.default, _aten.relu6.default)


def _softmax(lowering: Lowering, node: fx.Node) -> Value:
    value = lowering.value(node.args[0])
    rank = len(value.shape)
    axis = int(str(node.args[1])) % rank
    if value.order[-1] != axis:
        order = [each for each in value.order if each != axis] + [axis]
        value = lowering.in_order(value, order)
    return lowering.step(node.name, "SOFTMAX", value, options="SoftmaxOptions", beta=1.0)


def _layer_norm(lowering: Lowering, node: fx.Node) -> Value:
    arguments = [*node.args, *[None] * 5]
    value = lowering.value(arguments[0])
    sizes: Any = arguments[1]
    axes = range(len(value.shape) - len(sizes), len(value.shape))
    epsilon = 1e-5 if arguments[4] is None else float(str(arguments[4]))
    found = _standardise(lowering, node, value, axes, epsilon)
    return _scale_and_shift(lowering, node, found, arguments[2], arguments[3])


def _group_norm(lowering: Lowering, node: fx.Node) -> Value:
    arguments = [*node.args, *[None] * 5]
    value, groups = lowering.value(arguments[0]), int(str(arguments[1]))
    epsilon = 1e-5 if arguments[4] is None else float(str(arguments[4]))
    if groups == 1 or len(value.shape) != 4:
        if groups != 1:
            raise unknown_operator(node)
        found = _standardise(lowering, node, value, range(1, len(value.shape)), epsilon)
    else:
        value = lowering.in_order(value, NHWC)
        count, channels, height, width = value.shape
        # Channels lie behind the pixels: the groups are a further axis there.
        shape = (count, height * width, groups, channels // groups)
        grouped = lowering.result(f"{node.name}_grouped", shape, plain(4))
        lowering.reshape(value, grouped)
        found = _standardise(lowering, node, grouped, (1, 3), epsilon)
        joined = lowering.result(f"{node.name}_joined", value.shape, NHWC)
        lowering.reshape(found, joined)
        found = joined
    return _scale_and_shift(lowering, node, found, arguments[2], arguments[3], by_channel=True)


def _rms_norm(lowering: Lowering, node: fx.Node) -> Value:
    arguments = [*node.args, *[None] * 4]
    value = lowering.value(arguments[0])
    sizes: Any = arguments[1]
    axes = range(len(value.shape) - len(sizes), len(value.shape))
    # PyTorch's own default is that of the type.
    default = float(np.finfo(np.float32).eps)
    epsilon = default if arguments[3] is None else float(str(arguments[3]))
    squares = lowering.step(f"{node.name}_squares", "SQUARE", value, options="SquareOptions")
    found = _divide_by_root(lowering, node, value, squares, axes, epsilon)
    return _scale_and_shift(lowering, node, found, arguments[2], None)


def _variance(lowering: Lowering, node: fx.Node) -> Value:
    arguments = [*node.args, *[None] * 4]
    value = lowering.value(arguments[0])
    axes = _axes(arguments[1], len(value.shape))
    count = math.prod(value.shape[axis] for axis in axes)
    if node.target is _aten.var.dim:
        correction, keep = int(arguments[2] is not False), bool(arguments[3])
    else:
        given = node.kwargs.get("correction", 1)
        correction = 1 if given is None else int(str(given))
        keep = bool(node.kwargs.get("keepdim", False))
    _, squares = _centred(lowering, node, value, axes)
    kept = reduce_axes(lowering, f"{node.name}_kept", "MEAN", squares, axes, keep=True)
    if correction:
        share = lowering.number(count / (count - correction))
        kept = lowering.step(f"{node.name}_true", "MUL", kept, share, options="MulOptions")
    axes = [axis % len(value.shape) for axis in axes]
    return kept if keep else _without_axes(lowering, node.name, kept, axes)


def _centred(
    lowering: Lowering, node: fx.Node, value: Value, axes: Sequence[int]
) -> tuple[Value, Value]:
    """`x - mean`, and its square."""
    mean = reduce_axes(lowering, f"{node.name}_mean", "MEAN", value, axes, keep=True)
    centred = lowering.step(f"{node.name}_centred", "SUB", value, mean.index, options="SubOptions")
    squares = lowering.step(f"{node.name}_squares", "SQUARE", centred, options="SquareOptions")
    return centred, squares


def _standardise(
    lowering: Lowering, node: fx.Node, value: Value, axes: Sequence[int], epsilon: float
) -> Value:
    """`(x - mean) / sqrt(variance + epsilon)`, in its parts."""
    centred, squares = _centred(lowering, node, value, axes)
    return _divide_by_root(lowering, node, centred, squares, axes, epsilon)


def _divide_by_root(
    lowering: Lowering, node: fx.Node, value: Value, squares: Value, axes: Sequence[int],
    epsilon: float,
) -> Value:  # fmt: skip
    """`x / sqrt(mean of squares + epsilon)`."""
    power = reduce_axes(lowering, f"{node.name}_power", "MEAN", squares, axes, keep=True)
    safe = lowering.step(
        f"{node.name}_safe", "ADD", power, lowering.number(epsilon), options="AddOptions"
    )
    factor = lowering.step(f"{node.name}_factor", "RSQRT", safe)
    return lowering.step(node.name, "MUL", value, factor.index, options="MulOptions")


def _scale_and_shift(
    lowering: Lowering, node: fx.Node, value: Value, weight: Any, bias: Any,
    *, by_channel: bool = False,
) -> Value:  # fmt: skip
    """`x * weight + bias`, of the last axes or, `by_channel`, of the second."""
    for kind, options, source in (("MUL", "MulOptions", weight), ("ADD", "AddOptions", bias)):
        if isinstance(source, fx.Node):
            array = constant(lowering.module, source).numpy()
            if by_channel:
                array = array.reshape(-1, *[1] * (len(value.shape) - 2))
            row = lowering.constant_in(source.name, array, value.order, shape=value.shape)
            name = f"{node.name}_{kind.lower()}"
            value = lowering.step(name, kind, value, row, options=options)
    return value


# ------------------------------------------------------------------ handlers: moving values


def reshaped(lowering: Lowering, node: fx.Node, value: Value) -> Value:
    """A value in the shape of a node, whatever its type."""
    shape = shape_of(node)
    if shape == value.shape:
        return value
    positions = (0, 2, 1)
    if (
        value.order == NHWC
        and len(shape) == 3
        and shape == (value.shape[0], value.shape[1], value.shape[2] * value.shape[3])
    ):
        # Pixels in a row: they lie so in memory.
        result = lowering.result(node.name, shape, positions, like=value)
    else:
        value = lowering.in_order(value, plain(len(value.shape)))
        result = lowering.result(node.name, shape, plain(len(shape)), like=value)
    lowering.reshape(value, result)
    return result


def _view(lowering: Lowering, node: fx.Node) -> Value:
    return reshaped(lowering, node, lowering.value(node.args[0]))


def _permute(lowering: Lowering, node: fx.Node) -> Value:
    value = lowering.value(node.args[0])
    rank = len(value.shape)
    if node.target is _aten.permute.default:
        moved: Any = node.args[1]
        axes = [int(axis) % rank for axis in moved]
    else:
        axes = list(range(rank))
        pair = (0, 1) if node.target is _aten.t.default else node.args[1:3]
        first, second = (int(str(axis)) % rank for axis in pair)
        axes[first], axes[second] = axes[second], axes[first]
    return dataclasses.replace(
        value,
        shape=tuple(value.shape[axis] for axis in axes),
        order=tuple(axes.index(axis) for axis in value.order),
    )


def _concatenate(lowering: Lowering, node: fx.Node) -> Value:
    sources: Any = node.args[0]
    values = [lowering.value(each) for each in sources]
    axis = int(str(node.args[1])) if len(node.args) > 1 else 0
    return concatenated(lowering, node, values, axis)


def concatenated(
    lowering: Lowering, node: fx.Node, values: Sequence[Value], axis: int,
    *, name: str | None = None, shape: Sequence[int] | None = None,
) -> Value:  # fmt: skip
    """Values one behind the other along an axis of the program, of any type."""
    order = next((each.order for each in values if not each.is_plain), values[0].order)
    moved = [lowering.in_order(each, order) for each in values]
    result = lowering.result(name or node.name, shape or shape_of(node), order, like=moved[0])
    at = order.index(axis % len(order))
    return lowering.emit(
        "CONCATENATION", [each.index for each in moved], result, options="ConcatenationOptions",
        axis=at,
    )  # fmt: skip


def _cut(lowering: Lowering, name: str, value: Value, axis: int, start: int, size: int) -> Value:
    """`size` positions of an axis, from `start` on."""
    shape = list(value.shape)
    shape[axis] = size
    result = lowering.result(name, shape, value.order, like=value)
    begins = np.array([start if each == axis else 0 for each in value.order], np.int32)
    inputs = [
        value.index, lowering.builder.constant("begins", begins),
        lowering.builder.constant("sizes", np.array(result.stored_shape, np.int32)),
    ]  # fmt: skip
    return lowering.emit("SLICE", inputs, result, options="SliceOptions")


def _stack(lowering: Lowering, node: fx.Node) -> Value:
    sources: Any = node.args[0]
    values = [lowering.value(each) for each in sources]
    shape = shape_of(node)
    axis = (int(str(node.args[1])) if len(node.args) > 1 else 0) % len(shape)
    order = next((each.order for each in values if not each.is_plain), values[0].order)
    moved = [lowering.in_order(each, order) for each in values]
    wider = [each + (each >= axis) for each in order]
    wider.insert(axis, axis)
    result = lowering.result(node.name, shape, wider, like=moved[0])
    return lowering.emit(
        "PACK", [each.index for each in moved], result, options="PackOptions",
        valuesCount=len(moved), axis=axis,
    )  # fmt: skip


def _slice_scatter(lowering: Lowering, node: fx.Node) -> Value:
    """A tensor with a part of it replaced: what is before, the new part, and what is behind."""
    value, part = (lowering.value(each) for each in node.args[:2])
    arguments = [*node.args, *[None] * 4]
    axis = int(str(arguments[2] or 0)) % len(value.shape)
    if arguments[5] not in (None, 1):
        raise unknown_operator(node)
    size, length = value.shape[axis], part.shape[axis]
    start = 0 if arguments[3] is None else int(str(arguments[3]))
    start = min(start + size if start < 0 else start, size)
    end = start + length
    pieces = [part]
    if start:
        pieces.insert(0, _cut(lowering, f"{node.name}_before", value, axis, 0, start))
    if end < size:
        pieces.append(_cut(lowering, f"{node.name}_behind", value, axis, end, size - end))
    return part if len(pieces) == 1 else concatenated(lowering, node, pieces, axis)


def _repeat_each(lowering: Lowering, node: fx.Node) -> Value:
    """`repeat_interleave`: each position of an axis so many times."""
    arguments = [*node.args, *[None] * 3]
    value = lowering.value(arguments[0])
    if arguments[2] is None:
        value = lowering.in_order(value, plain(len(value.shape)))
        flat = lowering.result(f"{node.name}_flat", (math.prod(value.shape),), (0,), like=value)
        lowering.reshape(value, flat)
        value, axis = flat, 0
    else:
        axis = int(str(arguments[2])) % len(value.shape)
    times = int(str(arguments[1]))
    positions = np.repeat(np.arange(value.shape[axis], dtype=np.int32), times)
    result = lowering.result(node.name, shape_of(node), value.order, like=value)
    inputs = [value.index, lowering.builder.constant("positions", positions)]
    return lowering.emit(
        "GATHER", inputs, result, options="GatherOptions", axis=value.order.index(axis)
    )


def _slice(lowering: Lowering, node: fx.Node) -> Value:
    value = lowering.value(node.args[0])
    arguments = [*node.args, *[None] * 5]
    axis = int(str(arguments[1] or 0)) % len(value.shape)
    start = 0 if arguments[2] is None else int(str(arguments[2]))
    step = 1 if arguments[4] is None else int(str(arguments[4]))
    size = shape_of(node)[axis]
    if start < 0:
        start += value.shape[axis]
    if step == 1:
        same = size == value.shape[axis]
        return value if same else _cut(lowering, node.name, value, axis, start, size)
    result = lowering.result(node.name, shape_of(node), value.order, like=value)
    rows = [
        [start if each == axis else 0 for each in value.order],
        [start + (size - 1) * step + 1 if each == axis else value.shape[each]
         for each in value.order],
        [step if each == axis else 1 for each in value.order],
    ]  # fmt: skip
    inputs = [lowering.builder.constant("slice", np.array(row, np.int32)) for row in rows]
    return lowering.emit(
        "STRIDED_SLICE", [value.index, *inputs], result, options="StridedSliceOptions"
    )


def _select(lowering: Lowering, node: fx.Node) -> Value:
    value = lowering.value(node.args[0])
    axis = int(str(node.args[1])) % len(value.shape)
    at = int(str(node.args[2])) % value.shape[axis]
    cut = _cut(lowering, f"{node.name}_cut", value, axis, at, 1)
    return _without_axes(lowering, node.name, cut, [axis])


def _split(lowering: Lowering, node: fx.Node) -> list[Value]:
    value = lowering.value(node.args[0])
    axis = int(str(node.args[2])) if len(node.args) > 2 else 0
    found, start = [], 0
    for number, each in enumerate(node.meta["val"]):
        size = int(each.shape[axis])
        name = f"{node.name}_{number}"
        found.append(_cut(lowering, name, value, axis % len(value.shape), start, size))
        start += size
    return found


def _unbind(lowering: Lowering, node: fx.Node) -> list[Value]:
    value = lowering.value(node.args[0])
    axis = (int(str(node.args[1])) if len(node.args) > 1 else 0) % len(value.shape)
    found = []
    for at in range(value.shape[axis]):
        cut = _cut(lowering, f"{node.name}_{at}_cut", value, axis, at, 1)
        found.append(_without_axes(lowering, f"{node.name}_{at}", cut, [axis]))
    return found


def _getitem(lowering: Lowering, node: fx.Node) -> Value:
    source = input_of(node)
    if source not in lowering.parts:
        raise unknown_operator(source)
    return lowering.parts[source][int(str(node.args[1]))]


def _roll(lowering: Lowering, node: fx.Node) -> Value:
    value = lowering.value(node.args[0])
    shifts: Any = node.args[1]
    axes: Any = node.args[2] if len(node.args) > 2 else []
    if len(shifts) != len(axes):
        raise unknown_operator(node)
    for number, (shift, each) in enumerate(zip(shifts, axes, strict=True)):
        axis = int(each) % len(value.shape)
        size = value.shape[axis]
        behind = int(shift) % size
        if not behind:
            continue
        name = f"{node.name}_{number}"
        pieces = [
            _cut(lowering, f"{name}_end", value, axis, size - behind, behind),
            _cut(lowering, f"{name}_start", value, axis, 0, size - behind),
        ]
        value = concatenated(lowering, node, pieces, axis, name=name, shape=value.shape)
    return value


def _index(lowering: Lowering, node: fx.Node) -> Value:
    """Slices in the order of a constant list, along one axis."""
    lists: Any = node.args[1]
    axes = [axis for axis, each in enumerate(lists) if each is not None]
    if len(axes) != 1 or not is_constant(lists[axes[0]]):
        raise unknown_operator(node)
    wanted = constant(lowering.module, lists[axes[0]])
    if wanted.dim() != 1 or wanted.dtype == torch.bool:
        raise unknown_operator(node)
    value = lowering.plain_value(node.args[0])
    # Negative numbers count from the end, which LiteRT does not know.
    numbers = (wanted % value.shape[axes[0]]).numpy().astype(np.int32)
    result = lowering.result(node.name, shape_of(node), value.order, like=value)
    return lowering.emit(
        "GATHER", [value.index, lowering.builder.constant(f"{node.name}_numbers", numbers)], result,
        options="GatherOptions", axis=axes[0],
    )  # fmt: skip


def _expand(lowering: Lowering, node: fx.Node) -> Value:
    """`expand`, and `copy`, which is what a slice is replaced by where it is written to."""
    source = node.args[1 if node.target is _aten.copy.default else 0]
    value, shape = lowering.value(source), shape_of(node)
    if value.shape == shape:
        return value
    value = lowering.in_order(value, plain(len(value.shape)))
    result = lowering.result(node.name, shape, plain(len(shape)), like=value)
    wanted = lowering.builder.constant("shape", np.array(shape, np.int32))
    return lowering.emit(
        "BROADCAST_TO", [value.index, wanted], result, options="BroadcastToOptions"
    )


def zero_pads(node: fx.Node, rank: int) -> tuple[list[tuple[int, int]], float]:
    """Rows before and after each axis of a padding node, and what they hold."""
    flat: Any = node.args[1]
    is_pad = node.target is _aten.pad.default
    fill: Any = node.args[3 if is_pad else 2] if len(node.args) > (3 if is_pad else 2) else 0
    if is_pad and len(node.args) > 2 and node.args[2] != "constant":
        raise unknown_operator(node)
    pads = [(0, 0)] * rank
    for at in range(len(flat) // 2):
        pads[rank - 1 - at] = (int(flat[2 * at]), int(flat[2 * at + 1]))
    return pads, float(fill or 0)


def _pad(lowering: Lowering, node: fx.Node) -> Value:
    value = lowering.value(node.args[0])
    pads, fill = zero_pads(node, len(value.shape))
    if any(each < 0 for pair in pads for each in pair):
        raise unknown_operator(node)
    return lowering.pad(node, value, pads, fill=fill)


_VERSIONS: Mapping[tuple[str, str], int] = {
    ("CONV_2D", "int8"): 3, ("DEPTHWISE_CONV_2D", "int8"): 3, ("FULLY_CONNECTED", "int8"): 4,
    ("ADD", "int8"): 2, ("MUL", "int8"): 2, ("SUB", "int8"): 2, ("MEAN", "int8"): 2,
    ("PAD", "int8"): 2, ("PADV2", "int8"): 2, ("CONCATENATION", "int8"): 2,
    ("MAX_POOL_2D", "int8"): 2, ("LOGISTIC", "int8"): 2, ("TRANSPOSE", "int8"): 2,
    ("SLICE", "int8"): 2, ("STRIDED_SLICE", "int8"): 2, ("BROADCAST_TO", "float32"): 2,
}  # fmt: skip

_CHECKS = {_aten._assert_tensor_metadata.default}
"""Operators that compute nothing."""

_HANDLERS: dict[Any, Callable[[Lowering, fx.Node], Value | list[Value]]] = {
    _aten.conv2d.default: _conv,
    _aten.conv2d.padding: _conv,
    _aten.conv1d.default: _conv1d,
    _aten.conv1d.padding: _conv1d,
    _aten.conv_transpose2d.input: _conv_transpose,
    _aten.im2col.default: _columns,
    _aten.linear.default: _linear,
    _aten.scaled_dot_product_attention.default: _scaled_dot_product,
    _aten.matmul.default: _matmul,
    _aten.bmm.default: _matmul,
    _aten.add.Tensor: _binary("ADD", "AddOptions"),
    _aten.add.Scalar: _binary("ADD", "AddOptions"),
    _aten.sub.Tensor: _binary("SUB", "SubOptions"),
    _aten.mul.Tensor: _binary("MUL", "MulOptions"),
    _aten.mul.Scalar: _binary("MUL", "MulOptions"),
    _aten.div.Tensor: _binary("DIV", "DivOptions"),
    _aten.div.Scalar: _binary("DIV", "DivOptions"),
    _aten.maximum.default: _binary("MAXIMUM", "MaximumMinimumOptions"),
    _aten.minimum.default: _binary("MINIMUM", "MaximumMinimumOptions"),
    _aten.relu.default: _relu,
    _aten.relu6.default: _relu,
    _aten.hardtanh.default: _relu,
    _aten.clamp.default: _relu,
    _aten.clamp_min.default: _clamp,
    _aten.hardswish.default: _unary("HARD_SWISH", "HardSwishOptions"),
    _aten.hardsigmoid.default: _hardsigmoid,
    _aten.sigmoid.default: _unary("LOGISTIC"),
    _aten.tanh.default: _unary("TANH"),
    _aten.exp.default: _unary("EXP", "ExpOptions"),
    _aten.sqrt.default: _unary("SQRT"),
    _aten.rsqrt.default: _unary("RSQRT"),
    _aten.abs.default: _unary("ABS", "AbsOptions"),
    _aten.neg.default: _unary("NEG", "NegOptions"),
    _aten.elu.default: _unary("ELU"),
    _aten.silu.default: _silu,
    _aten.gelu.default: _gelu,
    _aten.leaky_relu.default: _leaky_relu,
    _aten.pow.Tensor_Scalar: _power,
    _aten.batch_norm.default: _batch_norm,
    _aten.mean.dim: _reduction("MEAN"),
    _aten.sum.dim_IntList: _reduction("SUM"),
    _aten.amax.default: _reduction("REDUCE_MAX"),
    _aten.linalg_vector_norm.default: _vector_norm,
    _aten.norm.ScalarOpt_dim: _vector_norm,
    _aten.adaptive_avg_pool2d.default: _adaptive_pool,
    _aten.avg_pool2d.default: _average_pool,
    _aten.avg_pool1d.default: _average_pool1d,
    _aten.max_pool2d.default: _max_pool,
    _aten.upsample_nearest2d.vec: _resize,
    _aten.upsample_bilinear2d.vec: _resize,
    _aten.upsample_bicubic2d.vec: _resize,
    _aten.softmax.int: _softmax,
    _aten._softmax.default: _softmax,
    _aten.layer_norm.default: _layer_norm,
    _aten.group_norm.default: _group_norm,
    _aten.rms_norm.default: _rms_norm,
    _aten.var.dim: _variance,
    _aten.var.correction: _variance,
    **dict.fromkeys(
        (
            _aten.flatten.using_ints, _aten.view.default, _aten.reshape.default,
            _aten._unsafe_view.default, _aten.unflatten.int,
            _aten.squeeze.dims, _aten.squeeze.dim, _aten.unsqueeze.default,
        ),
        _view,
    ),
    **dict.fromkeys(
        (_aten.permute.default, _aten.transpose.int, _aten.t.default), _permute
    ),
    **dict.fromkeys(
        (_aten.contiguous.default, _aten.clone.default, _aten.alias.default,
         _aten.detach.default, _aten.type_as.default, _aten.to.dtype, _aten._to_copy.default),
        _same,
    ),
    _aten.cat.default: _concatenate,
    _aten.stack.default: _stack,
    _aten.slice_scatter.default: _slice_scatter,
    _aten.repeat_interleave.self_int: _repeat_each,
    _aten.slice.Tensor: _slice,
    _aten.select.int: _select,
    _aten.split.Tensor: _split,
    _aten.split_with_sizes.default: _split,
    _aten.chunk.default: _split,
    _aten.unbind.int: _unbind,
    operator.getitem: _getitem,
    _aten.roll.default: _roll,
    _aten.index.Tensor: _index,
    _aten.expand.default: _expand,
    _aten.expand_as.default: _expand,
    _aten.copy.default: _expand,
    _aten.constant_pad_nd.default: _pad,
    _aten.pad.default: _pad,
}  # fmt: skip
