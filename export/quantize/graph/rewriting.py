"""Rewrites a float graph so that it computes what integer kernels will.

Every quantized tensor is stored once (`quantize_per_tensor`) and read by each of its users
(`dequantize_per_tensor`): the QDQ form, from which runtimes build integer operators. We insert the
operators ourselves, by the scheme, in place of a framework's annotations. torchao's PT2E was
measured to lower to ONNX and Core ML as well, but it stores and reads a tensor with the same scale
and zero point, always; the gain here comes from reading the same bytes in two ways:

```text
hard-swish(x) = x * relu6(x + 3) / 6
    store   u = x in steps of 3/z with zero point z: the lowest integer is exactly -3, below which
            hard-swish is constant, so nothing is lost by saturating there
    read    x            = (u - z) * 3/z
    read    relu6(x+3)/6 = min(u, 2z) / (2z)          the same bytes, one minimum, zero point 0
    multiply the two: one integer multiplication in place of two passes in float

hard-sigmoid(x) = relu6(x + 3) / 6
    add 3 to the bias in front, store in steps of 6/255 with zero point 0: the saturation of the
    integers is the relu6; read in steps of 1/255: the division is free, and no operator is left

gates           squeeze-and-excitation's bytes are repeated along the row (`Scheme.gate_channels`)

plain           none of the above: each operator reads and stores for itself (`Scheme.plain_qdq`)

relu, relu6     the store's own saturation at 0 and at 6
silu(x)         x * sigmoid(x), both read from the same bytes; the sigmoid is a table of 256 entries
the photo       is bytes already: stored in steps of 1, and the normalisation folded into the first
            convolution. A mean that all colours share goes into the bias, and the byte nearest to
            it is zero. Other means cannot: the convolution pads with zeros, and a padded zero
            stands for the mean. So the bytes are read with a grey near the means as zero point, and
            a fourth channel of ones, which padding ends like the photo, carries the rest
            of each channel's mean: exact also in the outermost row. (Kernels prefer four channels
            to three anyway: 283 -> 168 us for MobileNetV3-L's first layer.)
```
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from edgeseed.export.program import constant, copy_graph, input_of, new_constant, tidy
from edgeseed.export.quantize.graph.layout import (
    WHITE,
    Kind,
    Layout,
    grey_of,
    image_of,
    weighted_input,
)
from edgeseed.export.quantize.pairs import pair_limit_of
from edgeseed.export.quantize.scales import (
    Quantizer,
    in_stored_type,
    ops,
    quantize_channels,
    quantizer_for_range,
    weight_scales,
)
from edgeseed.export.quantize.scheme import IntegerFormat, Scheme

_aten = torch.ops.aten
_INT32 = (-(2**31), 2**31 - 1)
# Half of what 32 bits hold: the sum of products is added in the same number.
_LARGEST_BIAS = 2.0**30
_ONE_CHANNEL = [0, 0, 0, 0, 0, 1]
"""As `pad` takes it: one more channel at the end."""
# A hard-sigmoid is stored as x + 3, see above.
HARDSIGMOID_SHIFT = 3.0
UNROUNDED = "unrounded"
"""Key of a layer's `meta`: its weight and bias before they became integers."""
POINT = "point"
"""Key of a quantizing node's `meta`: the name of the tensor that it stores."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorScales:
    """All numbers that calibration and the corrections choose; keys are node names."""

    quantizers: Mapping[str, Quantizer]
    """Tensor that is stored in integers -> its scale and zero point."""
    bias_corrections: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    """Layer -> (O,) what is added to its bias (`corrections/bias_correction.py`)."""
    gains: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    """Layer -> (O,) what its output is multiplied by before that. The scales of its weights take
    the factor in, so it costs nothing."""
    weight_scales: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """Layer -> (O,) scales of its weights. Filled at the first insertion, as they depend on the
    weights alone."""
    rounded: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    """Layer -> its weights, already rounded together (`corrections/rounding.py`)."""
    learned: Mapping[str, tuple[Tensor, Tensor]] = dataclasses.field(default_factory=dict)
    """Layer -> weight and bias that recovery learned, before rounding; normalisation, shift and
    correction are in them (`search/recovery.py`)."""


def quantizer_of_kind(
    kind: Kind, low: float, high: float, number_format: IntegerFormat
) -> Quantizer:
    """The quantizer of a tensor, from its kind and its measured range."""
    if kind is Kind.HARDSWISH:
        return _hardswish_quantizer(high, number_format)
    if kind is Kind.HARDSIGMOID:
        # Of x + 3, see above.
        return quantizer_for_range(0.0, 6.0, number_format)
    if kind is Kind.THREES:
        return _threes_quantizer(number_format)
    if kind is Kind.SIGMOID:
        return quantizer_for_range(0.0, number_format.unit_end, number_format)
    if kind is Kind.IMAGE:
        base = quantizer_for_range(0.0, 255.0, number_format)
        step = torch.tensor(1 / number_format.byte_steps, dtype=torch.float32)
        return dataclasses.replace(base, scale=float(step))
    if kind in (Kind.RELU, Kind.RELU6):
        return quantizer_for_range(
            0.0, min(high, 6.0) if kind is Kind.RELU6 else high, number_format
        )
    return quantizer_for_range(low, high, number_format)


def _hardswish_quantizer(high: float, number_format: IntegerFormat) -> Quantizer:
    """Steps of 3/z from -3, for a whole z, up to about `high`."""
    # -3 has to be an integer exactly: the step is 3/z, and the upper end follows from it.
    z = round(3 * number_format.levels / (max(high, 0.1) + 3))
    z = min(max(z, 1), number_format.levels)
    base = quantizer_for_range(0.0, 1.0, number_format)
    scale = float(torch.tensor(3 / z, dtype=torch.float32))
    return dataclasses.replace(base, scale=scale, zero_point=number_format.low + z)


def _threes_quantizer(number_format: IntegerFormat) -> Quantizer:
    """Whole steps from -3 to a little above 3: a gate that is shut or open is so exactly."""
    z = number_format.levels // 2
    base = quantizer_for_range(0.0, 1.0, number_format)
    scale = float(torch.tensor(3 / z, dtype=torch.float32))
    return dataclasses.replace(base, scale=scale, zero_point=number_format.low + z)


def insert_quantization(
    graph_module: fx.GraphModule, layout: Layout, scales: TensorScales, scheme: Scheme
) -> fx.GraphModule:
    """A copy of the graph in QDQ form; layers keep their names, for the reports."""
    copy = copy_graph(graph_module)
    inserter = _Inserter(copy, layout, scales, scheme)
    for node in list(copy.graph.nodes):
        inserter.visit(node)
    inserter.serve_float_readers()
    if scheme.stem_channels:
        _fold_factors(copy, layout)
    return tidy(copy)


def _fold_factors(graph_module: fx.GraphModule, layout: Layout) -> None:
    """The factor of the normalisation goes into the weights of a first layer that stays in float.

    Exact, because a padded zero times the factor is zero. The mean has to stay outside.
    """
    for node in graph_module.graph.nodes:
        if node.target is not _aten.conv2d.default or node.name in layout.operators:
            continue
        if image_of(node) is None:
            continue
        scaled, weight = weighted_input(node), constant(graph_module, input_of(node, 1))
        factor = constant(graph_module, input_of(scaled, 1)).view(1, -1, 1, 1)
        folded = new_constant(
            graph_module, weight * factor, name=f"{node.name}_scaled", before=node
        )
        node.args = (node.args[0], folded, *node.args[2:])
        scaled.replace_all_uses_with(input_of(scaled))


class _Inserter:
    def __init__(
        self, graph_module: fx.GraphModule, layout: Layout, scales: TensorScales, scheme: Scheme
    ) -> None:
        self.module = graph_module
        self.graph = graph_module.graph
        self.layout = layout
        self.scales = scales
        self.scheme = scheme
        self.stored: dict[fx.Node, tuple[fx.Node, Quantizer]] = {}
        self.readers: set[fx.Node] = set()
        self.handlers: dict[str, Callable[[fx.Node], None]] = {
            "conv": self._layer, "linear": self._layer, "relu": self._relu,
            "hardswish": self._hardswish, "hardsigmoid": self._hardsigmoid, "silu": self._silu,
            "view": self._view, "max_pool": self._same_steps, "concat": self._plain,
            "add": self._plain, "mul": self._mul, "pool": self._plain, "sigmoid": self._plain,
        }  # fmt: skip
        if scheme.plain_qdq:
            operators = ("hardswish", "hardsigmoid", "mul")
            self.handlers |= {**dict.fromkeys(operators, self._plain), "view": self._same_steps}

    def visit(self, node: fx.Node) -> None:
        operator = self.layout.operators.get(node.name)
        if operator is not None:
            self.handlers[operator](node)
        elif node.name in self.layout.points:
            self._store(node, value=node)

    # ------------------------------------------------------------------ storing and reading

    def _store(self, point: fx.Node, *, value: fx.Node) -> None:
        """Quantizes `value`, which is what `point` of the float graph has become."""
        quantizer = self.scales.quantizers[point.name]
        with self.graph.inserting_after(value):
            stored = self.graph.call_function(
                ops.quantize_per_tensor.default, (value, *quantizer.arguments)
            )
        stored.meta[POINT] = point.name
        self.readers.add(stored)
        self.stored[point] = (stored, quantizer)

    def _read(self, point: fx.Node, *, before: fx.Node) -> fx.Node:
        stored, quantizer = self.stored[point]
        return self._read_as(stored, quantizer, before=before)

    def _read_as(self, stored: fx.Node, quantizer: Quantizer, *, before: fx.Node) -> fx.Node:
        with self.graph.inserting_before(before):
            return self.graph.call_function(
                ops.dequantize_per_tensor.default, (stored, *quantizer.arguments)
            )

    def serve_float_readers(self) -> None:
        """Whoever still reads the float value of a stored tensor gets the stored one."""
        for point, (stored, quantizer) in self.stored.items():
            for user in [user for user in point.users if user not in self.readers]:
                # Integer operators have read it for themselves, in `visit`.
                if self.layout.operators.get(user.name) is None:
                    value = self._read_as(stored, quantizer, before=user)
                    user.replace_input_with(point, value)

    # ------------------------------------------------------------------ operators

    def _plain(self, node: fx.Node) -> None:
        """An operator with an integer kernel of its own: reads its inputs, stores its output.

        Of a sum that its layer writes (`Scheme.residual_skips`) only the skip is stored.
        """
        for source in list(node.all_input_nodes):
            if source in self.stored:
                node.replace_input_with(source, self._read(source, before=node))
        self._store_unless_joined(node)

    def _mul(self, node: fx.Node) -> None:
        """A gate of one value a channel is repeated along the row, where that is faster."""
        gate, width = self._narrow_gate(node)
        if gate is not None:
            stored, quantizer = self.stored[gate]
            with self.graph.inserting_before(node):
                repeated = self.graph.call_function(
                    _aten.repeat.default, (stored, [1, 1, 1, width])
                )
            value = self._read_as(repeated, quantizer, before=node)
            node.replace_input_with(gate, value)
        self._plain(node)

    def _narrow_gate(self, node: fx.Node) -> tuple[fx.Node | None, int]:
        """The factor of shape (N, C, 1, 1) whose other is (N, C, H, W), and that W."""
        pair = [input_of(node, 0), input_of(node, 1)]
        shapes: list[tuple[int, ...]] = [
            tuple(getattr(item.meta.get("val"), "shape", ())) for item in pair
        ]
        if any(len(shape) != 4 or shape[1] >= self.scheme.gate_channels for shape in shapes):
            return None, 0
        for gate, of_gate, of_other in zip(pair, shapes, reversed(shapes), strict=True):
            if of_gate[2:] == (1, 1) and of_other[3] > 1:
                return gate, int(of_other[3])
        return None, 0

    def _store_unless_joined(self, node: fx.Node) -> None:
        if node.name in self.layout.points:
            self._store(node, value=node)

    def _relu(self, node: fx.Node) -> None:
        source = input_of(node)
        if source in self.stored:
            node.replace_input_with(source, self._read(source, before=node))
            self._store(node, value=node)
            return
        self._store(node, value=source if self.scheme.saturation_is_activation else node)

    def _hardswish(self, node: fx.Node) -> None:
        source = input_of(node)
        stored, quantizer = self.stored[source]
        z = quantizer.zero_point - quantizer.low
        x = self._read(source, before=node)
        # 2z steps up from -3 is 3, where relu6 ends. A range that ends before needs no minimum.
        top = quantizer.low + 2 * z
        if top < quantizer.high:
            with self.graph.inserting_before(node):
                stored = self.graph.call_function(_aten.clamp.default, (stored, None, top))
        gate = quantizer.read_as(scale=1 / (2 * z), zero_point=quantizer.low)
        self._store(node, value=self._product(x, self._read_as(stored, gate, before=node), node))

    def _hardsigmoid(self, node: fx.Node) -> None:
        source = input_of(node)
        stored, quantizer = self.stored[source]
        # No operator is left: whoever reads it reads the layer's own bytes in other steps.
        self.stored[node] = (
            stored,
            quantizer.read_as(scale=quantizer.scale / 6, zero_point=quantizer.low),
        )

    def _silu(self, node: fx.Node) -> None:
        source = input_of(node)
        gate = quantizer_of_kind(Kind.SIGMOID, 0, 1, self.scheme.activation)
        x = self._read(source, before=node)
        with self.graph.inserting_before(node):
            sigmoid = self.graph.call_function(
                _aten.sigmoid.default, (self._read(source, before=node),)
            )
            # Read, sigmoid, store: runtimes make one table of these three.
            table = self.graph.call_function(
                ops.quantize_per_tensor.default, (sigmoid, *gate.arguments)
            )
        self._store(node, value=self._product(x, self._read_as(table, gate, before=node), node))

    def _product(self, left: fx.Node, right: fx.Node, node: fx.Node) -> fx.Node:
        with self.graph.inserting_before(node):
            return self.graph.call_function(_aten.mul.Tensor, (left, right))

    def _view(self, node: fx.Node) -> None:
        source = input_of(node)
        stored, quantizer = self.stored[source]
        with self.graph.inserting_before(node):
            assert callable(node.target)
            # The bytes themselves are moved: nothing is rounded a second time.
            moved = self.graph.call_function(node.target, (stored, *node.args[1:]), node.kwargs)
        self.stored[node] = (moved, quantizer)

    def _same_steps(self, node: fx.Node) -> None:
        """What moves or drops values stores its output in the steps of its input."""
        source = input_of(node)
        _, quantizer = self.stored[source]
        node.replace_input_with(source, self._read(source, before=node))
        with self.graph.inserting_after(node):
            stored = self.graph.call_function(
                ops.quantize_per_tensor.default, (node, *quantizer.arguments)
            )
        self.readers.add(stored)
        self.stored[node] = (stored, quantizer)

    # ------------------------------------------------------------------ layers

    def _layer(self, node: fx.Node) -> None:
        weight, bias = self._weights(node)
        source = weighted_input(node)
        first = input_of(node)
        # The one that reads the stored tensor: the layer, or the zero padding in front of it.
        reader = node if first is source else first
        image = image_of(node)
        if image is not None and self.layout.points.get(image.name) is Kind.IMAGE:
            weight, owed, value = self._fold_normalisation(source, image, weight, before=reader)
            # The weights get their gain further down. What they owe grows with them.
            bias = bias + owed * self.scales.gains.get(node.name, 1.0)
            scale = self.stored[image][1].scale
        else:
            value, scale = self._read(source, before=reader), self.stored[source][1].scale
        reader.replace_input_with(source, value)
        # Behind the folding: what was rounded has the normalisation in it (see `UNROUNDED`).
        weight = self.scales.rounded.get(node.name, weight)
        scales = self._weight_scales(node, weight)
        if (gain := self.scales.gains.get(node.name)) is not None:
            # Weights and steps grow alike: the integers stay as they were rounded.
            weight = weight * gain.view(-1, *[1] * (weight.dim() - 1))
            scales = in_stored_type(scales * gain, self.scheme.weight.scale_dtype)
        # Last, because normalisation, gain and correction are in what was learnt already.
        weight, bias = self.scales.learned.get(node.name, (weight, bias))
        self._set_weights(node, weight, bias, scales, input_scale=scale)
        self._store_unless_joined(node)

    def _weights(self, node: fx.Node) -> tuple[Tensor, Tensor]:
        bias_node = node.args[2] if len(node.args) > 2 else None
        weight = constant(self.module, input_of(node, 1))
        bias = torch.zeros(len(weight))
        if isinstance(bias_node, fx.Node):
            bias = constant(self.module, bias_node)
        # Shift, gain, correction: in the order in which they were found. `correct` measures outputs
        # that are shifted already, multiplies them, and corrects the mean that is left.
        if self.layout.points.get(node.name) is Kind.HARDSIGMOID:
            bias = bias + HARDSIGMOID_SHIFT
        bias = bias * self.scales.gains.get(node.name, 1.0)
        return weight, bias + self.scales.bias_corrections.get(node.name, 0.0)

    def _weight_scales(self, node: fx.Node, weight: Tensor) -> Tensor:
        scales = self.scales.weight_scales.get(node.name)
        if scales is None:
            limit = pair_limit_of(node, weight, self.scheme)
            scales = weight_scales(weight, self.scheme.weight, pair_limit=limit)
            self.scales.weight_scales[node.name] = scales
        return scales

    def _fold_normalisation(
        self, scaled: fx.Node, image: fx.Node, weight: Tensor, *, before: fx.Node
    ) -> tuple[Tensor, Tensor, fx.Node]:
        """Weights that normalise, what the bias is owed, and the photo read as `byte - grey`.

        With a channel of ones behind, which carries the means, nothing is owed.
        """
        shifted, factor = input_of(scaled), input_of(scaled, 1)
        offset = input_of(shifted, 1)
        mean = constant(self.module, offset).view(1, -1, 1, 1).double()
        folded = weight.double() * constant(self.module, factor).view(1, -1, 1, 1).double()
        grey = grey_of(mean)
        # What each tap owes for reading `byte - grey` in place of `byte - mean`.
        owed = (folded * (grey - mean)).sum(dim=1, keepdim=True)
        if self.scheme.exact_image == "one mean":
            value = self._read_from_grey(image, grey, before=before)
            return folded.float(), owed.sum(dim=(1, 2, 3)).float(), value
        weight = torch.cat([folded, owed / (WHITE - grey)], dim=1).float()
        read = self._read_plain_image if self.scheme.plain_qdq else self._read_image
        return weight, torch.zeros(len(weight)), read(image, grey, before=before)

    def _read_from_grey(self, image: fx.Node, grey: int, *, before: fx.Node) -> fx.Node:
        """(N, C, H, W): `byte - grey`, subtracted before it is stored: exact."""
        of_bytes, quantizer = self.stored[image]
        number = torch.tensor(float(grey))
        constant_grey = new_constant(self.module, number, name="grey", before=of_bytes)
        zero_point = quantizer.low + grey * round(1 / quantizer.scale)
        reading = dataclasses.replace(quantizer, zero_point=zero_point)
        with self.graph.inserting_before(of_bytes):
            value = self.graph.call_function(_aten.sub.Tensor, (image, constant_grey))
            stored = self.graph.call_function(
                ops.quantize_per_tensor.default, (value, *reading.arguments)
            )
        stored.meta = dict(of_bytes.meta)
        self.readers.add(value)
        return self._read_as(stored, reading, before=before)

    def _read_image(self, image: fx.Node, grey: int, *, before: fx.Node) -> fx.Node:
        """(N, C + 1, H, W): `byte - grey`, and a channel of `255 - grey`."""
        stored, quantizer = self.stored[image]
        steps = round(1 / quantizer.scale)
        with self.graph.inserting_before(before):
            stored = self.graph.call_function(
                _aten.constant_pad_nd.default,
                (stored, _ONE_CHANNEL, quantizer.low + WHITE * steps),
            )
        reading = dataclasses.replace(quantizer, zero_point=quantizer.low + grey * steps)
        return self._read_as(stored, reading, before=before)

    def _read_plain_image(self, image: fx.Node, grey: int, *, before: fx.Node) -> fx.Node:
        """The same by a subtraction and a padding of real numbers, in whole steps: exact."""
        stored, quantizer = self.stored[image]
        number = torch.tensor(quantizer.low + grey * round(1 / quantizer.scale))
        constant_grey = new_constant(
            self.module, number.to(quantizer.dtype), name="grey", before=before
        )
        shifted = dataclasses.replace(quantizer, zero_point=int(number))
        value = self._read_as(stored, quantizer, before=before)
        subtracted = self._read_as(constant_grey, quantizer, before=before)
        with self.graph.inserting_before(before):
            value = self.graph.call_function(_aten.sub.Tensor, (value, subtracted))
        value = self._again(value, shifted, before=before)
        with self.graph.inserting_before(before):
            value = self.graph.call_function(
                _aten.constant_pad_nd.default, (value, _ONE_CHANNEL, float(WHITE - grey))
            )
        return self._again(value, shifted, before=before)

    def _again(self, value: fx.Node, quantizer: Quantizer, *, before: fx.Node) -> fx.Node:
        """A real number stored and read."""
        with self.graph.inserting_before(before):
            stored = self.graph.call_function(
                ops.quantize_per_tensor.default, (value, *quantizer.arguments)
            )
        return self._read_as(stored, quantizer, before=before)

    def _set_weights(
        self, node: fx.Node, weight: Tensor, bias: Tensor, scales: Tensor, *, input_scale: float
    ) -> None:
        number_format = self.scheme.weight
        if self.scheme.integer_bias:
            # A channel whose weights have died has a bias many times its weights: it must fit, too.
            scales = torch.maximum(scales, bias.abs() / (input_scale * _LARGEST_BIAS))
        integers = quantize_channels(
            weight,
            scales,
            low=number_format.low,
            high=number_format.high,
            dtype=number_format.dtype,
            pair_limit=pair_limit_of(node, weight, self.scheme),
        )
        arguments = list(node.args)
        arguments[1] = self._constant_channels(
            node, integers, scales, (number_format.low, number_format.high), "weight"
        )
        if self.scheme.integer_bias:
            # The steps of the sum of products, so that the bias is added as it is.
            bias_scales = (scales.double() * input_scale).float()
            integers = quantize_channels(
                bias, bias_scales, low=_INT32[0], high=_INT32[1], dtype=torch.int32
            )
            new_bias = self._constant_channels(node, integers, bias_scales, _INT32, "bias")
        else:
            new_bias = new_constant(self.module, bias, name=f"{node.name}_bias", before=node)
        # A slice, since a layer without a bias has no third argument to replace.
        arguments[2:3] = [new_bias]
        node.args = tuple(arguments)
        node.meta[UNROUNDED] = (weight, bias)

    def _constant_channels(
        self, node: fx.Node, integers: Tensor, scales: Tensor, limits: tuple[int, int], what: str
    ) -> fx.Node:
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        values: list[Any] = [
            new_constant(self.module, tensor, name=f"{node.name}_{what}_{part}", before=node)
            for tensor, part in ((integers, "integers"), (scales, "scales"), (zeros, "zeros"))
        ]
        with self.graph.inserting_before(node):
            return self.graph.call_function(
                ops.dequantize_per_channel.default, (*values, 0, *limits, integers.dtype)
            )
