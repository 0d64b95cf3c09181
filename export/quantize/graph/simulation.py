"""The arithmetic of a quantized graph in float: several times faster, and with gradients.

`quantize` followed by `dequantize` becomes one `fake_quantize`, whose gradient is that of the
identity inside the range (the straight-through estimator of Bengio et al., 2013, arXiv 1308.3432).
It is written in elementary operators: torch's own is not vectorised on CPUs, and took a third of
the time of a training step.
The same bytes read in a second way are the same fake-quantized tensor, stretched and shifted.
Constants are read once.
"""

import operator
from typing import Any, cast

import torch
from torch import Tensor, fx

from edgeseed.export.program import (
    constant,
    copy_graph,
    input_of,
    is_constant,
    new_constant,
    tidy,
)
from edgeseed.export.quantize.graph.in_place import write_over
from edgeseed.export.quantize.graph.rewriting import POINT
from edgeseed.export.quantize.scales import ops

_aten = torch.ops.aten


def simulate(quantized: fx.GraphModule, *, inference: bool = False) -> fx.GraphModule:
    """A QDQ graph in float that computes the same numbers, up to the rounding of ties.

    Args:
        quantized: As `insert_quantization` makes it.
        inference: Whether it is to be run without gradients, as fast as can be. The quantized
            graph itself is changed then, which takes half the time of a copy.
    """
    simulated = quantized if inference else copy_graph(quantized)
    for node in list(simulated.graph.nodes):
        if node.target is ops.dequantize_per_channel.default or (
            node.target is ops.dequantize_per_tensor.default and is_constant(node.args[0])
        ):
            _read_constant(simulated, node)
        elif node.target is ops.dequantize_per_tensor.default:
            _read_tensor(simulated, node)
    if inference:
        # The storing operators are still there and count as readers; `write_over` takes only
        # tensors that have one.
        simulated.graph.eliminate_dead_code()
        write_over(simulated.graph, {fake_quantize: fake_quantize_})
    return tidy(simulated)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: float, low: int, high: int) -> Tensor:
        position = value.mul(1 / scale).round_()
        ctx.save_for_backward((position >= low) & (position <= high))
        return position.clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,), (gradient,) = ctx.saved_tensors, gradients
        return gradient * inside, None, None, None


def fake_quantize(value: Tensor, scale: float, zero_point: int, low: int, high: int) -> Tensor:
    """`value` after a quantizer: of the same shape, on its grid, within its range."""
    low, high = low - zero_point, high - zero_point
    if value.requires_grad and torch.is_grad_enabled():
        found: Tensor = _StraightThrough.apply(value, scale, low, high)
        return found
    return value.mul(1 / scale).round_().clamp_(low, high).mul_(scale)


def fake_quantize_(value: Tensor, scale: float, zero_point: int, low: int, high: int) -> Tensor:
    """The same in place, without gradients."""
    return value.mul_(1 / scale).round_().clamp_(low - zero_point, high - zero_point).mul_(scale)


def draw_ties(simulated: fx.GraphModule, *, by: float, generator: torch.Generator) -> None:
    """Moves every value a little just before it is rounded: ties go one way or the other.

    Most values that lie half-way between two integers are there by construction. Of two tensors of
    integers a product is a whole number times a constant, and where that is half-way in a float,
    it is so at every place with these two integers.

    Args:
        simulated: What `simulate` makes for inference; it is changed.
        by: Standard deviation, relative to the value.
        generator: Of the draws.
    """

    def quantize_moved(value: Tensor, scale: float, zero_point: int, low: int, high: int) -> Tensor:
        moved = torch.randn(value.shape, generator=generator).mul_(by).add_(1).mul_(value)
        return fake_quantize_(moved, scale, zero_point, low, high)

    for node in simulated.graph.nodes:
        if node.target in (fake_quantize, fake_quantize_):
            node.target = quantize_moved
    simulated.recompile()


class _StretchedQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: Tensor, stretch: Tensor, scale: float, low: int, high: int
    ) -> Tensor:
        scale *= float(stretch.exp())
        position = value.mul(1 / scale)
        ctx.save_for_backward(position)
        ctx.grid = (scale, low, high)
        return position.round().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (position,), (gradient,) = ctx.saved_tensors, gradients
        scale, low, high = ctx.grid
        integers = position.round()
        inside = (integers >= low) & (integers <= high)
        of_scale = integers.clamp_(low, high).sub_(position * inside).mul_(gradient).sum()
        # Times the scale, because the parameter is its logarithm.
        return gradient * inside, scale * of_scale, None, None, None


def stretched_quantize(
    value: Tensor, scale: float, zero_point: int, low: int, high: int, stretch: Tensor
) -> Tensor:
    """`fake_quantize` with its scale times e to the power of `stretch`, which has a gradient.

    That of the scale is `round(x / s) - x / s` inside the range and the nearer end of it outside
    (Esser et al., 2020, "Learned step size quantization", arXiv 1902.08153, equation 3).
    """
    low, high = low - zero_point, high - zero_point
    found: Tensor = _StretchedQuantize.apply(value, stretch, scale, low, high)
    return found


def _read_constant(module: fx.GraphModule, node: fx.Node) -> None:
    arguments: list[Any] = [
        constant(module, item) if isinstance(item, fx.Node) else item for item in node.args
    ]
    assert callable(node.target)
    value = node.target(*arguments)
    node.replace_all_uses_with(new_constant(module, value, name=f"{node.name}_value", before=node))
    module.graph.erase_node(node)


def _read_tensor(module: fx.GraphModule, node: fx.Node) -> None:
    """`dequantize(view(clamp(quantize(x))))` -> `view(fake_quantize(x)) * stretch + shift`."""
    # Between storing and reading there may be views, padding and a hard-swish's minimum.
    steps: list[fx.Node] = []
    stored = input_of(node)
    while stored.target is not ops.quantize_per_tensor.default:
        steps.insert(0, stored)
        stored = input_of(stored)
    value, *storing = stored.args
    scale, zero_point, low, top, _ = cast("tuple[float, int, int, int, Any]", tuple(storing))
    read_scale, read_zero = cast("tuple[float, int]", node.args[1:3])
    for step in steps:
        if step.target is _aten.clamp.default:
            # A minimum of bytes is a lower end of their range: one clamp does both.
            top = cast(int, step.args[2])
    with module.graph.inserting_before(node):
        result = module.graph.call_function(fake_quantize, (value, scale, zero_point, low, top))
        result.meta[POINT] = stored.meta.get(POINT)
        for step in steps:
            result = _repeat(module, step, result, scale=scale, zero_point=zero_point)
        if (read_scale, read_zero) != (scale, zero_point):
            # scale * (q - z) becomes read_scale * (q - read_zero), for the same integer q.
            shift = read_scale * (zero_point - read_zero)
            result = module.graph.call_function(operator.mul, (result, read_scale / scale))
            result = module.graph.call_function(operator.add, (result, shift))
    node.replace_all_uses_with(result)
    module.graph.erase_node(node)


def _repeat(
    module: fx.GraphModule, step: fx.Node, value: fx.Node, *, scale: float, zero_point: int
) -> fx.Node:
    """An operator on bytes, on the fake-quantized tensor in place of them."""
    if step.target is _aten.clamp.default:
        return value
    assert callable(step.target)
    if step.target is _aten.constant_pad_nd.default:
        fill = (cast(int, step.args[2]) - zero_point) * scale
        return module.graph.call_function(step.target, (value, step.args[1], fill))
    return module.graph.call_function(step.target, (value, *step.args[1:]), step.kwargs)
