"""A quantized program as LiteRT's integer operators, so that XNNPACK takes every one of them.

The program says of each stored tensor in which steps it is written, and of each reader in which it
is read (see `quantize.graph.rewriting`): hard-swish and hard-sigmoid come from that. A tensor of a
LiteRT file has one scale and one zero point. What follows:

* *Another zero point.* hard-swish reads the bytes `u` of `x` a second time as `min(u, 2z) - low`.
  That is `x + 3` with a ReLU6 behind, in the same steps: an `ADD` of a constant, exact.
* *Another scale.* The bytes are the same, so the number that the file says is so many times the
  program's: six times, behind a hard-swish. The factor goes along through what is linear (products,
  means, padding), by way of the declared scale alone, and into the next layer's weight scales,
  where it ends. Nothing is computed for it. A tensor with a factor says so in its name: `__x6`.
* LiteRT's own `HARD_SWISH` of integers is not taken by XNNPACK, and would split the graph in two at
  each one.
* A layer whose result stays in float (the head) is a `FULLY_CONNECTED` of float inputs and integer
  weights, which rounds its input as it runs.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from edgeseed.core.errors import WorkError
from edgeseed.export.program import constant, input_of, is_constant
from edgeseed.export.quantize.graph.layout import operator_of
from edgeseed.export.quantize.scales import ops
from edgeseed.export.targets.litert.flatbuffer import Scales
from edgeseed.export.targets.litert.lowering import (
    FACTOR,
    NHWC,
    RELU6,
    Lowering,
    Value,
    concatenated,
    max_pool,
    plain,
    reduce_axes,
    shape_of,
    zero_pads,
)

Array = npt.NDArray[Any]
_aten = torch.ops.aten
_QUANTIZE = ops.quantize_per_tensor.default
_DEQUANTIZE = ops.dequantize_per_tensor.default
_CHANNELS = ops.dequantize_per_channel.default
_PADS = (_aten.constant_pad_nd.default, _aten.pad.default)
_LOWERED = {"conv", "linear", "add", "mul", "pool", "max_pool", "concat", "sigmoid"}
_SAME = 1e-6
_LARGEST_RATIO = 256
SHIFTED = "_shifted"
"""Ends the name of a tensor that is another's integers with another zero point."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Read:
    """A stored tensor as one of its readers sees it."""

    value: Value
    scale: float
    """The program's; the file's may be a factor larger."""

    @property
    def declared(self) -> float:
        """The file's scale."""
        assert self.value.scales is not None
        return float(self.value.scales.scale[0])

    @property
    def zero_point(self) -> int:
        """Of both."""
        assert self.value.scales is not None
        return int(self.value.scales.zero_point[0])

    @property
    def factor(self) -> float:
        """How many times the program's numbers those of the file are."""
        return self.declared / self.scale


def _named(name: str, factor: float) -> str:
    return name if abs(factor - 1) < _SAME else f"{name}{FACTOR}{factor:.9g}"


class IntegerLowering(Lowering):
    """As `Lowering`, for a program with quantize and dequantize operators."""

    def __init__(self, graph_module: fx.GraphModule, *, input_type: str = "uint8") -> None:
        super().__init__(graph_module, input_type=input_type)
        self.inside: set[fx.Node] = set()
        """Operators that are written together with the quantize operator behind them."""
        self.shifted: dict[tuple[fx.Node, int, int], Value] = {}
        for node in self.graph.nodes:
            if node.target is _QUANTIZE and self._is_integer(node.args[0]):
                self.inside.add(node.args[0])
                self.inside.update(each for each in node.args[0].all_input_nodes
                                   if each.target in _PADS)  # fmt: skip

    def _is_integer(self, node: Any) -> bool:
        """Whether all that a node reads is in integers, and only its rounded result is read."""
        if not isinstance(node, fx.Node) or node.op != "call_function" or len(node.users) > 1:
            return False
        kind = _kind_of(node)
        if kind not in _LOWERED:
            return False
        if kind in ("conv", "linear"):
            return _is_read(_unpadded(node)) and input_of(node, 1).target is _CHANNELS
        return all(_is_read(each) for each in node.all_input_nodes)

    def visit(self, node: fx.Node) -> None:
        """Writes what a node computes, unless it is written with its reader."""
        if node.target is _QUANTIZE:
            self.values[node] = self._store(node)
        elif node.target in (_DEQUANTIZE, _CHANNELS) or node in self.inside:
            return
        elif node.target is _aten.clamp.default and input_of(node).target is _QUANTIZE:
            return  # with whoever reads it, see `_read`
        elif _kind_of(node) in ("conv", "linear") and input_of(node, 1).target is _CHANNELS:
            self.values[node] = self._layer_to_float(node)
        else:
            super().visit(node)

    def value(self, node: Any) -> Value:
        """What a node gave; stored integers as real numbers where a float operator reads them."""
        if isinstance(node, fx.Node) and node.target is _DEQUANTIZE and node not in self.values:
            self.values[node] = self._dequantized(node)
        return super().value(node)

    # ------------------------------------------------------------------ reading

    def _read(self, node: fx.Node) -> Read:
        """What a dequantize operator reads."""
        stored = input_of(node)
        top = None
        if stored.target is _aten.clamp.default:
            top = int(str(stored.args[2]))
            stored = input_of(stored)
        scale, zero_point = float(str(node.args[1])), int(str(node.args[2]))
        read = Read(value=self.values[stored], scale=scale)
        if zero_point == read.zero_point and top is None:
            return read
        key = (stored, zero_point, -1 if top is None else top)
        if key not in self.shifted:
            self.shifted[key] = self._shift(stored.name, read.value, zero_point, top)
        return Read(value=self.shifted[key], scale=scale)

    def _shift(self, name: str, value: Value, zero_point: int, top: int | None) -> Value:
        """The same bytes, with another of them for zero, and none above `top`."""
        read = Read(value=value, scale=1.0)
        added = (read.zero_point - zero_point) * read.declared
        fused = 0
        if top is not None:
            if round(6 / read.declared) + zero_point != top:
                raise WorkError(
                    f"LiteRT cannot express {name}: a maximum of {top} is not that of a ReLU6"
                )
            fused = RELU6
        # 64 is a power of two: the kernel's factor for the constant is a whole number of steps.
        other = self.builder.constant(
            f"{name}_added", np.full((1,) * len(value.shape), 64, np.int8),
            scales=Scales.of(added / 64, 0),
        )  # fmt: skip
        result = self.result(
            f"{name}{SHIFTED}", value.shape, value.order, like=value,
            scales=Scales.of(read.declared, zero_point),
        )  # fmt: skip
        return self.emit(
            "ADD", [value.index, other], result, options="AddOptions",
            fusedActivationFunction=fused,
        )  # fmt: skip

    def _without_factor(self, read: Read) -> Read:
        """The same integers in the program's own steps."""
        if abs(read.factor - 1) < _SAME:
            return read
        value = read.value
        name = self.builder.tensors[value.index].name.partition(FACTOR)[0]
        other = self.builder.constant(
            f"{name}_factor", np.full((1,) * len(value.shape), 64, np.int8),
            scales=Scales.of(1 / read.factor / 64, 0),
        )  # fmt: skip
        result = self.result(
            f"{name}_scaled", value.shape, value.order, like=value,
            scales=Scales.of(read.scale, read.zero_point),
        )  # fmt: skip
        self.emit("MUL", [value.index, other], result, options="MulOptions")
        return Read(value=result, scale=read.scale)

    def _dequantized(self, node: fx.Node) -> Value:
        read = self._read(node)
        name = self.builder.tensors[read.value.index].name.partition(FACTOR)[0]
        real = self.result(f"{name}_real", read.value.shape, read.value.order)
        self.emit("DEQUANTIZE", [read.value.index], real, options="DequantizeOptions", version=2)
        if abs(read.factor - 1) < _SAME:
            return real
        number = self.number(1 / read.factor)
        return self.step(f"{name}_true", "MUL", real, number, options="MulOptions")

    # ------------------------------------------------------------------ storing

    def _store(self, node: fx.Node) -> Value:
        """The integers of a quantize operator, and the operator that makes them."""
        source = input_of(node)
        scale, zero_point = float(str(node.args[1])), int(str(node.args[2]))
        if source not in self.inside:
            value = self.value(source)
            result = self.result(
                f"{source.name}_stored", value.shape, value.order, dtype="int8",
                scales=Scales.of(scale, zero_point),
            )  # fmt: skip
            return self.emit("QUANTIZE", [value.index], result, options="QuantizeOptions")
        kind = _kind_of(source)
        if kind in ("conv", "linear"):
            return self._layer(source, node, scale, zero_point)
        reads = [self._read(each) for each in source.all_input_nodes]
        if kind == "concat":
            return self._concat(source, reads, scale, zero_point)
        # A table reads real numbers, and terms of a sum need one factor; those of a product do not.
        if kind == "sigmoid" or (kind == "add" and not _same_factor(reads)):
            reads = [self._without_factor(each) for each in reads]
        factor = math.prod(each.factor for each in reads) if kind == "mul" else reads[0].factor
        scales = Scales.of(scale * factor, zero_point)
        name = _named(source.name, factor)
        if kind == "pool":
            value = self.in_order(reads[0].value, NHWC)
            found = _reduce_like(self, name, value, shape_of(source), scales)
        elif kind == "max_pool":
            value = self.in_order(reads[0].value, NHWC)
            result = self.result(name, shape_of(source), NHWC, like=value)
            found = max_pool(self, source, value, result)
        elif kind == "sigmoid":
            value = reads[0].value
            result = self.result(name, value.shape, value.order, like=value, scales=scales)
            found = self.emit("LOGISTIC", [value.index], result)
        else:
            found = self._pair(source, name, kind, reads, scales)
        return found

    def _pair(
        self, node: fx.Node, name: str, kind: str | None, reads: Sequence[Read], scales: Scales
    ) -> Value:
        """A sum or a product; `x + x` reads the same tensor twice."""
        values = [read.value for read in (reads if len(reads) == 2 else [*reads, *reads])]
        shape = shape_of(node)
        wide = max(values, key=lambda each: (math.prod(each.shape), not each.is_plain))
        moved = [self.in_order(each, wide.order).index for each in values]
        result = self.result(name, shape, wide.order, like=wide, scales=scales)
        operator, options = ("ADD", "AddOptions") if kind == "add" else ("MUL", "MulOptions")
        return self.emit(operator, moved, result, options=options)

    def _concat(self, node: fx.Node, reads: Sequence[Read], scale: float, zero_point: int) -> Value:
        """Joined tensors have to be in the same steps."""
        wanted = Scales.of(scale, zero_point)
        values = []
        for read in map(self._without_factor, reads):
            value = read.value
            if abs(read.declared - scale) > _SAME * scale or read.zero_point != zero_point:
                name = f"{self.builder.tensors[value.index].name}_for_{node.name}"
                again = self.result(name, value.shape, value.order, like=value, scales=wanted)
                self.emit("QUANTIZE", [value.index], again, options="QuantizeOptions", version=2)
                value = again
            values.append(value)
        axis = int(str(node.args[1])) if len(node.args) > 1 else 0
        return concatenated(self, node, values, axis)

    # ------------------------------------------------------------------ layers

    def _layer(self, node: fx.Node, store: fx.Node, scale: float, zero_point: int) -> Value:
        """A convolution or linear layer from integers to integers."""
        read = self._read(_unpadded(node))
        declared = _read_scale(store) or scale
        integers, scales = self._channels(input_of(node, 1))
        bias, _ = self._channels(input_of(node, 2))
        # The sums' steps, which the kernel multiplies by steps of the result: what the program has.
        steps = (read.scale * scales.astype(np.float64)) * (declared / scale)
        steps = multipliable(node, steps / declared, integers, bias) * declared
        weight_scales = steps / read.declared
        out = Scales.of(declared, zero_point)
        name = _named(node.name, declared / scale)
        source = self._padded_source(node, read.value)
        bias_index = self.builder.constant(
            f"{node.name}_bias", bias.astype(np.int32), scales=_row(steps, axis=0)
        )
        if _kind_of(node) == "linear":
            source = self.with_last_axis_last(source)
            weight = self.builder.constant(
                f"{node.name}_weight", integers, scales=_row(weight_scales, axis=0)
            )
            result = self.result(name, shape_of(node), source.order, dtype="int8", scales=out)
            return self.emit(
                "FULLY_CONNECTED", [source.index, weight, bias_index], result,
                options="FullyConnectedOptions", keepNumDims=len(source.shape) != 2, version=12,
            )  # fmt: skip
        source = self.in_order(source, NHWC)

        def store_kernel(kernel: Array, axis: int) -> int:
            scales = _row(weight_scales, axis=axis)
            return self.builder.constant(f"{node.name}_weight", kernel, scales=scales)

        result = self.result(name, shape_of(node), NHWC, dtype="int8", scales=out)
        return self.emit_conv(node, source, integers, bias_index, result, store=store_kernel)

    def _padded_source(self, node: fx.Node, value: Value) -> Value:
        """With the zeros that a padding operator in front of a layer puts around."""
        first = input_of(node)
        if first.target not in _PADS:
            return value
        pads, _ = zero_pads(first, len(value.shape))
        return self.pad(first, value, pads, fill=0.0)

    def _channels(self, node: fx.Node) -> tuple[Array, npt.NDArray[np.float32]]:
        """Integers and scales of a constant with one scale a channel."""
        integers, scales = (constant(self.module, input_of(node, at)).numpy() for at in (0, 1))
        return integers, scales

    def _layer_to_float(self, node: fx.Node) -> Value:
        """A layer that reads integers and gives real numbers."""
        integers, scales = self._channels(input_of(node, 1))
        real_bias = np.zeros(len(integers), np.float32)
        if len(node.args) > 2 and isinstance(node.args[2], fx.Node):
            if input_of(node, 2).target is _CHANNELS:
                of_bias, bias_scales = self._channels(input_of(node, 2))
                real_bias = (of_bias * bias_scales.astype(np.float64)).astype(np.float32)
            elif is_constant(node.args[2]):
                real_bias = constant(self.module, input_of(node, 2)).numpy()
        bias = self.builder.constant(f"{node.name}_bias", real_bias)
        if _kind_of(node) == "conv":
            source = self.in_order(self.value(input_of(node)), NHWC)

            def store(kernel: Array, axis: int) -> int:
                stored = self.builder.constant(
                    f"{node.name}_integers", kernel, scales=_row(scales, axis=axis)
                )
                weight = self.result(f"{node.name}_weight", kernel.shape, plain(4))
                self.emit("DEQUANTIZE", [stored], weight, options="DequantizeOptions", version=5)
                return weight.index

            result = self.result(node.name, shape_of(node), NHWC)
            return self.emit_conv(node, source, integers, bias, result, store=store)
        source = self.with_last_axis_last(self._unrounded(input_of(node)))
        weight_index = self.builder.constant(
            f"{node.name}_weight", integers, scales=_row(scales, axis=0)
        )
        return self.emit(
            "FULLY_CONNECTED", [source.index, weight_index, bias],
            self.result(node.name, shape_of(node), source.order),
            options="FullyConnectedOptions", keepNumDims=len(source.shape) != 2,
            asymmetricQuantizeInputs=True, fusedActivationFunction=self.fused.get(node, 0),
            version=12,
        )  # fmt: skip

    def _unrounded(self, node: fx.Node) -> Value:
        """The float tensor that a dequantize operator's integers come from, where there is one.

        The layer rounds its input itself, to its own range: rounding it before would do so twice.
        """
        store = input_of(node) if node.target is _DEQUANTIZE else None
        if store is not None and store.target is _QUANTIZE and input_of(store) not in self.inside:
            return self.value(input_of(store))
        return self.value(node)


def multipliable(node: fx.Node, ratios: Array, integers: Array, bias: Array) -> Array:
    """Steps of a layer's sums by steps of its result, as XNNPACK takes them.

    A channel of zeros takes any. XNNPACK refuses a graph with a ratio of 256 or more, and LiteRT
    2.3 may free memory twice on its way out.

    Args:
        node: The layer.
        ratios: (O,) of its channels.
        integers: (O, ...) its weights.
        bias: (O,) its bias.

    Raises:
        WorkError: If a channel that is not all zeros has a ratio that is too large.
    """
    dead = ~integers.reshape(len(integers), -1).any(axis=1) & (bias == 0)
    ratios = np.where(dead, np.minimum(ratios, 1.0), ratios)
    if ratios.max() >= _LARGEST_RATIO:
        raise WorkError(
            f"{node.name}: a step of its sums is {ratios.max():.0f} steps of its result, LiteRT's "
            f"kernels take less than {_LARGEST_RATIO}: in the calibration photos its results are "
            f"nearly constant; give photos like those of the app, or --keep-float {node.name}"
        )
    return ratios


def _same_factor(reads: Sequence[Read]) -> bool:
    return all(abs(each.factor / reads[0].factor - 1) < _SAME for each in reads)


def _reduce_like(
    lowering: Lowering, name: str, value: Value, shape: Sequence[int], scales: Scales
) -> Value:
    """The mean over height and width, in integers."""
    like = dataclasses.replace(value, scales=scales)
    kept = reduce_axes(lowering, name, "MEAN", like, (2, 3), keep=True)
    if tuple(shape) == kept.shape:
        return kept
    result = lowering.result(f"{name}_flat", shape, plain(len(shape)), like=kept)
    lowering.reshape(lowering.in_order(kept, plain(4)), result)
    return result


def _row(scales: Array, *, axis: int) -> Scales:
    return Scales(
        scale=np.asarray(scales, np.float32), zero_point=np.zeros(len(scales), np.int64), axis=axis
    )


def _kind_of(node: fx.Node) -> str | None:
    """As `operator_of`, whose layers want constant weights: here they are dequantized ones."""
    if node.target is _aten.conv2d.default:
        return "conv"
    return "linear" if node.target is _aten.linear.default else operator_of(node)


def _unpadded(node: fx.Node) -> fx.Node:
    """What a layer reads, before a padding operator."""
    first = input_of(node)
    return input_of(first) if first.target in _PADS and len(first.users) == 1 else first


def _is_read(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is _DEQUANTIZE


def _read_scale(store: fx.Node) -> float | None:
    """The scale that all readers of stored integers read, where it is not the stored one.

    Only where they agree on it and on the zero point: a hard-sigmoid's, which is read as a sixth.
    """
    found = set()
    waiting = list(store.users)
    while waiting:
        user = waiting.pop()
        if user.target is _DEQUANTIZE:
            found.add((float(str(user.args[1])), int(str(user.args[2]))))
        elif user.target is _aten.clamp.default:
            return None
        else:
            waiting += list(user.users)
    if len(found) != 1:
        return None
    ((scale, zero_point),) = found
    return scale if zero_point == int(str(store.args[2])) else None
