"""Quantization-aware distillation: the integer model learns from the float student it was made of.

It makes up for what rounding changed, on unlabelled photos. The integer graph is simulated with
gradients that pass straight through the rounding (Bengio et al., 2013, arXiv 1308.3432), and its
outputs are pulled towards those of the float student, as in "Quantization-aware training with
knowledge distillation" (Mishra and Marr, 2018, "Apprentice", arXiv 1711.05852):

```text
L = KL(softmax(z_float) || softmax(z_int)) + |e_int - e_float|^2 / mean |e_float|^2
```

with logits `z`, where there is a head, and embeddings `e`. Weights, biases and the widths of the
ranges learn; zero points and the scales of weights stay as calibration chose them, and the graph
keeps its form and its speed. A weight is learnt in steps of its own channel's grid, `w = scale *
round(w0 / scale + d)`, so that one learning rate suits every layer of every network: `d` says by
how many integers a weight moves. A range is learnt by the logarithm of its width (Esser et al.,
2020, "Learned step size quantization", arXiv 1902.08153); the range of what a hard-swish or a
sigmoid reads is tied to the function, and stays. Batch norms are folded already, so there are no
statistics to go wrong.

The result that comes nearest on photos kept aside is taken; if that is the start, nothing changes.
"""

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeseed.core.console import progress
from edgeseed.export.program import LAYER_OPERATORS, constant, input_of, new_constant, tidy
from edgeseed.export.quantize.corrections.bias_correction import channel_axis
from edgeseed.export.quantize.graph.layout import Kind, Layout
from edgeseed.export.quantize.graph.recording import Recorder
from edgeseed.export.quantize.graph.rewriting import (
    POINT,
    UNROUNDED,
    TensorScales,
    insert_quantization,
)
from edgeseed.export.quantize.graph.simulation import fake_quantize, simulate, stretched_quantize
from edgeseed.export.quantize.pairs import limit_pairs, pair_limit_of
from edgeseed.export.quantize.ranges.statistics import batch_size_for
from edgeseed.export.quantize.scales import ops
from edgeseed.export.quantize.scheme import Scheme
from edgeseed.export.samples import Photos

_CHECKS = 6
_WARM_UP = 0.05
_LEAST_AREA = 0.7
# A bias is learnt in hundredths of its channel's deviation: about what one step of a weight moves.
_BIAS_STEP = 0.01
# Rate of a range's logarithm over that of a weight's steps.
_RANGE_RATE = 0.2
_LEARNT_KINDS = {Kind.FREE, Kind.RELU, Kind.RELU6}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RecoveryConfig:
    """Settings of recovery.

    Attributes:
        steps: Number of updates.
        lr: Peak learning rate of Adam, in steps of each weight's grid.
        batch_size: Photos an update; None for as many as fit their size.
        seed: Of the photos' order and crops.

    Raises:
        ValueError: If one of the first three is not above 0.
    """

    steps: int = 600
    # Suits 8 bits. On a grid of 15 integers, where a step is a large part of a weight, it made a
    # tiny network worse than its start, and 0.005 did not.
    lr: float = 0.02
    batch_size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "lr", "batch_size"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name}={value} must be above 0")


def recover(
    graph: fx.GraphModule,
    layout: Layout,
    scales: TensorScales,
    scheme: Scheme,
    photos: Photos,
    *,
    distance: Callable[[TensorScales], float],
    config: RecoveryConfig,
) -> TensorScales:
    """Scales with learned weights, biases and ranges that bring the integer graph nearer to float.

    Args:
        graph: The float graph.
        layout: Its layout.
        scales: Where to start.
        scheme: The integers.
        photos: Photos to learn on, unlabelled; the more, the better.
        distance: Distance to the float graph with given scales, on other photos.
        config: Settings.

    Returns:
        The nearest of `_CHECKS` states on the way, with `learned`; `scales` itself if none came
        nearer.
    """
    quantized = insert_quantization(graph, layout, scales, scheme)
    learner = _Learner(quantized, layout, scheme, config)
    best, least = scales, distance(scales)
    checks = {round(config.steps * check / _CHECKS) for check in range(1, _CHECKS + 1)}
    batches = _batches(photos, config)
    with progress("recovering int8", config.steps, "steps") as bar:
        for step in range(config.steps):
            learner.update(graph, next(batches), step)
            bar.advance()
            if step + 1 in checks:
                found = learner.scales_from(scales)
                reached = distance(found)
                if reached < least:
                    best, least = found, reached
    return best


class _Learner:
    """A simulated integer graph whose layers and ranges are parameters."""

    def __init__(
        self, quantized: fx.GraphModule, layout: Layout, scheme: Scheme, config: RecoveryConfig
    ) -> None:
        self.config = config
        self.scale_dtype = scheme.activation.scale_dtype
        self.layers = [_Layer(quantized, node, scheme) for node in _layers(quantized)]
        self.student = simulate(tidy(quantized))
        self.stretches = _learn_ranges(self.student, layout)
        # Without it, what learnt and what was written differed by 5 % on a coarse network.
        _stretch_bias_grids(self.student, self.stretches)
        steps = [p for layer in self.layers for p in (layer.weight_steps, layer.bias_steps)]
        ranges = list(self.stretches.values())
        groups: list[dict[str, Any]] = [
            {"params": steps},
            {"params": ranges, "lr": _RANGE_RATE * config.lr},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=config.lr)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._share)

    def _share(self, step: int) -> float:
        """Of the peak rate: a line up, then half a cosine down to nothing."""
        warm_up = math.ceil(_WARM_UP * self.config.steps)
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / self.config.steps))

    def update(self, teacher: fx.GraphModule, images: Tensor, step: int) -> None:
        if step == 0:
            _set_bias_units(self.student, self.layers, images)
        with torch.no_grad():
            wanted = teacher(images)
        loss = imitation_loss(self.student(images), wanted)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    def scales_from(self, scales: TensorScales) -> TensorScales:
        """What has been learnt so far, in place of what it started from."""
        with torch.no_grad():
            learned = {layer.name: layer.values() for layer in self.layers}
            factors = {name: float(stretch.exp()) for name, stretch in self.stretches.items()}
        quantizers = {
            name: quantizer.stretched(factors[name], self.scale_dtype)
            for name, quantizer in scales.quantizers.items()
            if name in factors
        }
        return dataclasses.replace(
            scales, learned=learned, quantizers={**scales.quantizers, **quantizers}
        )


def _learn_ranges(student: fx.GraphModule, layout: Layout) -> dict[str, nn.Parameter]:
    """By point, the logarithm of the factor of its range; all readers of a tensor share it."""
    stretches: dict[str, nn.Parameter] = {}
    for node in student.graph.nodes:
        point = node.meta.get(POINT)
        if node.target is not fake_quantize or layout.points.get(point) not in _LEARNT_KINDS:
            continue
        if point not in stretches:
            stretches[point] = nn.Parameter(torch.zeros(()))
            student.register_parameter(f"{point}_stretch", stretches[point])
        with student.graph.inserting_before(node):
            stretch = student.graph.get_attr(f"{point}_stretch")
        node.target = stretched_quantize
        node.args = (*node.args, stretch)
    student.recompile()
    return stretches


def _stretch_bias_grids(student: fx.GraphModule, stretches: Mapping[str, nn.Parameter]) -> None:
    """A bias is kept in steps of its weights times its input: they grow with the input's range."""
    for node in student.graph.nodes:
        bias = node.args[2] if node.target in LAYER_OPERATORS and len(node.args) > 2 else None
        if not isinstance(bias, fx.Node) or bias.target is not _rounded:
            continue
        point = _point_of(input_of(node))
        if point in stretches:
            with student.graph.inserting_before(bias):
                stretch = student.graph.get_attr(f"{point}_stretch")
                factor = student.graph.call_function(_detached_exp, (stretch,))
                grid = student.graph.call_function(operator.mul, (bias.args[1], factor))
            bias.args = (bias.args[0], grid)
    student.recompile()


def _point_of(value: fx.Node) -> str | None:
    """The stored tensor that a value was read from, through padding and views."""
    while value.target not in (stretched_quantize, fake_quantize):
        if value.op != "call_function":
            return None
        value = input_of(value)
    return value.meta.get(POINT)


def _detached_exp(stretch: Tensor) -> Tensor:
    return stretch.detach().exp()


def imitation_loss(student: tuple[Tensor, ...], teacher: tuple[Tensor, ...]) -> Tensor:
    """L of the module's docstring.

    Args:
        student: (N, D) embeddings, and (N, C) logits if there is a head.
        teacher: The same of the float graph.
    """
    error = (student[0] - teacher[0]).square().sum(dim=1).mean()
    loss = error / teacher[0].square().sum(dim=1).mean().clamp_min(1e-12)
    if len(teacher) > 1:
        found, wanted = (values[1].log_softmax(dim=1) for values in (student, teacher))
        loss = loss + F.kl_div(found, wanted, reduction="batchmean", log_target=True)
    return loss


def _layers(quantized: fx.GraphModule) -> list[fx.Node]:
    return [node for node in quantized.graph.nodes if UNROUNDED in node.meta]


class _Layer:
    """One convolution or linear layer: where it starts, and by how many steps it has moved."""

    def __init__(self, quantized: fx.GraphModule, node: fx.Node, scheme: Scheme) -> None:
        self.name = node.name
        self.weight, self.bias = (value.detach() for value in node.meta[UNROUNDED])
        self.pair_limit = pair_limit_of(node, self.weight, scheme)
        reading = input_of(node, 1)
        scales = constant(quantized, input_of(reading, 1))
        self.scales = scales.view(-1, *[1] * (self.weight.dim() - 1))
        self.low, self.high = (int(str(limit)) for limit in reading.args[4:6])
        self.weight_steps = nn.Parameter(torch.zeros_like(self.weight))
        self.bias_steps = nn.Parameter(torch.zeros_like(self.bias))
        # Until the first update measures it: with a unit of zero no bias would move.
        self.bias_unit = torch.zeros_like(self.bias)
        self.bias_grid = _grid_of(quantized, node.args[2])
        self._replace_constants(quantized, node)

    def _replace_constants(self, quantized: fx.GraphModule, node: fx.Node) -> None:
        """The layer reads what is learnt, in place of its stored integers."""
        for what in ("weight", "bias"):
            name = f"{node.name}_{what}_steps"
            quantized.register_parameter(name, getattr(self, f"{what}_steps"))
        base = new_constant(quantized, self.weight, name=f"{node.name}_weight_start", before=node)
        scales = new_constant(quantized, self.scales, name=f"{node.name}_grid", before=node)
        start = new_constant(quantized, self.bias, name=f"{node.name}_bias_start", before=node)
        unit = new_constant(quantized, self.bias_unit, name=f"{node.name}_unit", before=node)
        graph = quantized.graph
        with graph.inserting_before(node):
            steps = graph.get_attr(f"{node.name}_weight_steps")
            limits: dict[str, Any]
            limits = {"low": self.low, "high": self.high, "pair_limit": self.pair_limit}
            weight = graph.call_function(rounded_weight, (base, scales, steps), limits)
            bias_steps = graph.get_attr(f"{node.name}_bias_steps")
            bias = graph.call_function(_moved_bias, (start, unit, bias_steps))
            if self.bias_grid is not None:
                quantized.register_buffer(f"{node.name}_bias_grid", self.bias_grid)
                grid = graph.get_attr(f"{node.name}_bias_grid")
                bias = graph.call_function(_rounded, (bias, grid))
        node.args = (node.args[0], weight, bias, *node.args[3:])

    def values(self) -> tuple[Tensor, Tensor]:
        """Weight and bias as they are now, before rounding."""
        return (
            self.weight + self.scales * self.weight_steps.detach(),
            _moved_bias(self.bias, self.bias_unit, self.bias_steps.detach()),
        )


def rounded_weight(
    start: Tensor, scales: Tensor, steps: Tensor, *, low: int, high: int, pair_limit: int = 0
) -> Tensor:
    """`scale * round(start / scale + steps)`, whose gradient passes through the rounding.

    Args:
        start: (O, ...) weights to start from.
        scales: (O, 1, ...) steps of the grid.
        steps: (O, ...) how far each weight has moved, in steps.
        low: Least integer.
        high: Greatest integer.
        pair_limit: As `pairs.limit_pairs` takes it.
    """
    # Limited before it is rounded: a pair at its limit adds up to a whole number, so that where one
    # weight rounds up the other rounds down. (Two halves go to the even side, one up and one down.)
    position = limit_pairs(torch.clamp(start / scales + steps, low, high), pair_limit)
    return _rounded(position, torch.ones_like(scales)) * scales


def _rounded(value: Tensor, grid: Tensor) -> Tensor:
    """To multiples of `grid`; the gradient is that of the identity."""
    return value + ((value / grid).round() * grid - value).detach()


def _grid_of(quantized: fx.GraphModule, bias: Any) -> Tensor | None:
    """(O,) steps of an integer bias; None for a bias in float."""
    if bias.target is not ops.dequantize_per_channel.default:
        return None
    return constant(quantized, input_of(bias, 1))


def _moved_bias(start: Tensor, unit: Tensor, steps: Tensor) -> Tensor:
    return start + unit * steps


def _set_bias_units(student: fx.GraphModule, layers: Sequence[_Layer], images: Tensor) -> None:
    """Sets the unit in which each layer's bias is learnt, from the deviation of its output."""
    units = {layer.name: layer.bias_unit for layer in layers}

    def see(node: fx.Node, value: Tensor) -> None:
        rows = value.movedim(channel_axis(node), 0)
        # In place: the graph reads the same tensor.
        units[node.name].copy_(_BIAS_STEP * rows.flatten(1).std(dim=1))

    with torch.no_grad():
        Recorder(student, units, see=see).run(images)


# --------------------------------------------------------------------------- photos


def _batches(photos: Photos, config: RecoveryConfig) -> Iterator[Tensor]:
    """(N, 3, H, W) float32 whole numbers 0..255, without end."""
    generator = torch.Generator().manual_seed(config.seed)
    size = min(config.batch_size or batch_size_for(photos), len(photos))
    while True:
        order = torch.randperm(len(photos), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            chosen = order[start : start + size].sort().values.numpy()
            yield random_crops(torch.from_numpy(photos.pixels[chosen]).float(), generator)


def random_crops(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each photo flipped or not, and a part of it enlarged to the whole; bytes stay bytes.

    Args:
        images: (N, 3, H, W), 0..255.
        generator: Of the draw.
    """
    count = len(images)
    side = torch.rand(count, generator=generator).mul(1 - _LEAST_AREA).add(_LEAST_AREA).sqrt()
    flip = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (1 - side).unsqueeze(1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side * flip, side, shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    crops = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    # The order of bytes in which convolutions learn half as fast again on a CPU.
    return crops.round().clamp(0, 255).contiguous(memory_format=torch.channels_last)
