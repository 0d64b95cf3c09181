"""Equalization: channels of a tensor between two layers get like ranges, for one common scale.

A tensor in integers has one scale, and its widest channel sets it: a channel of a tenth of that
range is left with 25 of 256 levels. But ReLU, pooling and zero padding let a positive factor
through, `f(x / s) = f(x) / s`, and so does a product with a gate. What the layers in front divide a
channel by, the layers behind multiply it with (Nagel et al., 2019, "Data-free quantization through
weight equalization and bias correction", arXiv 1906.04721, section 4.1):

```text
W1[c] -> W1[c] / s_c     b1[c] -> b1[c] / s_c     W2[:, c] -> W2[:, c] * s_c
```

The float network computes what it did. Weights have a scale for every output channel, so the layer
in front does not mind, and neither does a depthwise layer behind: for them every channel gets the
full range for nothing. A dense layer behind has one scale for all the inputs of an output, and
stretching some of them makes the steps of the others coarser. So the factors are taken from the
family `s_c = a_c^p / w_c^q` of activations' largest values `a` and weights' largest values `w` (the
paper's own are p = q = 1/2; Xiao et al., 2023, "SmoothQuant", arXiv 2211.10438, equation 4), by
the least sum of the squared errors that rounding is expected to leave behind each layer:

```text
sum over o, c of   W2[o,c]^2 s_c^2 max_k(a_k / s_k)^2      rounded activations
                +  max_k(|W2[o,k]| s_k)^2 E[x_c^2] / s_c^2    rounded weights
```

in steps of 1/255 of a range on both sides. Factors are whole powers of the fourth root of two, so
that the manifest can name them: verification multiplies the student by the same ones before it
compares layers. Hard-swish, SiLU and ReLU6 bend where they bend, and let no factor through.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from edgeseed.export.program import (
    LAYER_OPERATORS,
    constant,
    input_of,
    is_constant,
    new_constant,
    tidy,
)
from edgeseed.export.quantize.graph.channels import ChannelGroup, depthwise_channels, num_groups
from edgeseed.export.quantize.graph.recording import Recorder
from edgeseed.export.quantize.ranges.observers import PHOTO_TAIL
from edgeseed.export.quantize.ranges.statistics import photo_batches
from edgeseed.export.samples import Photos

_aten = torch.ops.aten
_TRANSPARENT = {
    _aten.relu.default, _aten.mean.dim, _aten.adaptive_avg_pool2d.default,
    _aten.max_pool2d.default, _aten.flatten.using_ints,
}  # fmt: skip
_PADS = {_aten.pad.default, _aten.constant_pad_nd.default}
_POWERS = ((0.25, 0.0), (0.5, 0.0), (0.75, 0.0), (1.0, 0.0), (0.25, 0.25), (0.5, 0.5))
_STEPS = 4
_LEAST_GAIN = 1.02
# A channel that these photos hardly use may be used by others.
_LEAST_SHARE = 1 / 32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Equalization:
    """The factors of the channels of one group of tensors."""

    steps: tuple[int, ...]
    """(C,) channel c is divided by `2 ** (steps[c] / 4)`."""
    gain: float
    """How many times smaller the expected squared error of rounding is."""

    @property
    def factors(self) -> Tensor:
        """(C,) float64 what channels are divided by."""
        return torch.tensor(self.steps, dtype=torch.float64).mul(1 / _STEPS).exp2()

    def to_dict(self) -> dict[str, Any]:
        """For a manifest, where a list would take a line a number."""
        return {"gain": round(self.gain, 3), "steps": " ".join(map(str, self.steps))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Equalization":
        """From a manifest."""
        return cls(gain=values["gain"], steps=tuple(map(int, values["steps"].split())))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Channels:
    """What has been seen of a tensor, (C,) each."""

    largest: Tensor
    energy: Tensor


def equalize_channels(graph_module: fx.GraphModule, photos: Photos) -> dict[str, Equalization]:
    """Scales the channels of every group of tensors that gains by it; outputs stay the same.

    Args:
        graph_module: A float graph with shapes (`node.meta["val"]`) and folded batch norms. Its
            weights are changed in place.
        photos: Typical photos; some dozens are enough.

    Returns:
        The first layer in front of each group that was scaled -> the factors.
    """
    groups = list(_groups_of(graph_module))
    if not groups:
        return {}
    tensors = {tensor for group in groups for _, tensor in group.readers}
    seen = _watch(graph_module, tensors, photos)
    equalizations: dict[str, Equalization] = {}
    for group in groups:
        found = _best_factors(graph_module, group, seen)
        if found.gain > _LEAST_GAIN:
            _scale(graph_module, group, found.factors)
            equalizations[group.name] = found
    tidy(graph_module)
    return equalizations


def apply_factors(graph_module: fx.GraphModule, equalizations: Mapping[str, Equalization]) -> None:
    """Scales a float graph of the same student in place, by the factors of `equalize_channels`."""
    for group in list(_groups_of(graph_module)):
        if group.name in equalizations:
            _scale(graph_module, group, equalizations[group.name].factors)
    tidy(graph_module)


# --------------------------------------------------------------------------- groups


class _FactorGroup(ChannelGroup):
    """Tensors whose channels have one factor: what layers write, up to the layers that read it.

    A residual block's sum has the factor of its skip, so that all blocks of a stage are one group.
    """

    def __init__(self, graph_module: fx.GraphModule, channels: int) -> None:
        super().__init__(graph_module)
        self.channels = channels
        self.fronts: list[fx.Node] = []
        self.readers: list[tuple[fx.Node, fx.Node]] = []
        """Layers behind, each with the tensor that it reads."""

    @property
    def name(self) -> str:
        """Its first layer's."""
        return self.fronts[0].name

    def collect(self, start: fx.Node) -> bool:
        """Follows the channels in both directions; False where a factor does not get through."""
        if not self.follow(start):
            return False
        # A product with both sides in the group would have the factor twice.
        return bool(self.readers) and not any(
            tensor.target is _aten.mul.Tensor and self.tensors.issuperset(tensor.all_input_nodes)
            for tensor in self.tensors
        )

    def before(self, tensor: fx.Node) -> list[fx.Node] | None:
        if _is_layer(tensor) or _is_factor(tensor):
            self.fronts.append(tensor)
            return [] if len(constant(self.module, input_of(tensor, 1))) == self.channels else None
        if not _keeps_channels(tensor, self.channels):
            return None
        if tensor.target is _aten.add.Tensor:
            return list(tensor.all_input_nodes)
        if tensor.target is _aten.mul.Tensor:
            return [max(tensor.all_input_nodes, key=_positions)]
        return [input_of(tensor)]

    def after(self, tensor: fx.Node) -> list[fx.Node] | None:
        found: list[fx.Node] = []
        for user in tensor.users:
            if _is_layer(user):
                if user.args[0] is not tensor or not self._takes_channels(user):
                    return None
                self.readers.append((user, tensor))
            elif not _keeps_channels(user, self.channels):
                return None
            elif user.target is not _aten.mul.Tensor or tensor is max(
                user.all_input_nodes, key=_positions
            ):
                found.append(user)
            else:  # a gate's own factor would be the product's
                return None
        return found if tensor.users else None

    def _takes_channels(self, layer: fx.Node) -> bool:
        """Whether a layer's inputs are the channels: dense, or depthwise with an output each."""
        weight = constant(self.module, input_of(layer, 1))
        if depthwise := depthwise_channels(self.module, layer):
            return depthwise == self.channels
        return num_groups(layer) == 1 and weight.shape[1] == self.channels


def _groups_of(graph_module: fx.GraphModule) -> Iterator[_FactorGroup]:
    """Every group through which a factor gets, once."""
    known: set[fx.Node] = set()
    for node in graph_module.graph.nodes:
        if (_is_layer(node) or _is_factor(node)) and node not in known:
            group = _FactorGroup(graph_module, len(constant(graph_module, input_of(node, 1))))
            if group.collect(node):
                known |= group.tensors
                yield group


def _is_layer(node: fx.Node) -> bool:
    return (
        node.target in LAYER_OPERATORS
        and is_constant(node.args[1])
        and (len(node.args) < 3 or node.args[2] is None or is_constant(node.args[2]))
    )


def _is_factor(node: fx.Node) -> bool:
    """Whether it multiplies the channels of an embedding by constants. See `float_embedding`."""
    value = node.meta.get("val")
    is_matrix = isinstance(value, Tensor) and value.dim() == 2
    return node.target is _aten.mul.Tensor and is_matrix and is_constant(node.args[1])


def _positions(node: fx.Node) -> int:
    value = node.meta.get("val")
    return 0 if value is None or value.dim() < 3 else int(value[0, 0].numel())


def _keeps_channels(node: fx.Node, channels: int) -> bool:
    """Whether an operator lets a factor of each channel through and leaves it where it is."""
    shape: tuple[Any, ...] = getattr(node.meta.get("val"), "shape", ())
    if len(shape) < 2 or str(shape[1]) != str(channels):
        return False
    if node.target in _PADS:
        at = 2 if node.target is _aten.constant_pad_nd.default else 3
        return all(fill in (None, 0, 0.0) for fill in node.args[at:])
    if node.target in (_aten.mul.Tensor, _aten.add.Tensor):
        pair = node.args[:2]
        plain = all(isinstance(item, fx.Node) and not is_constant(item) for item in pair)
        return plain and not node.kwargs and pair[0] is not pair[1]
    return node.target in _TRANSPARENT


# --------------------------------------------------------------------------- factors


def _watch(
    graph_module: fx.GraphModule, tensors: Iterable[fx.Node], photos: Photos
) -> dict[fx.Node, _Channels]:
    largest: dict[fx.Node, list[Tensor]] = {}
    energy: dict[fx.Node, Tensor] = {}

    def see(node: fx.Node, value: Tensor) -> None:
        places = value.reshape(*value.shape[:2], -1)
        largest.setdefault(node, []).append(places.abs().amax(dim=2))
        energy[node] = energy.get(node, 0.0) + places.square().mean(dim=2).sum(dim=0)

    recorder = Recorder(graph_module, {tensor.name for tensor in tensors}, see=see)
    with torch.inference_mode():
        for batch in photo_batches(photos):
            recorder.run(batch)
    return {
        tensor: _Channels(
            # Without the furthest photos, as the calibrator `photos` does it. Of a
            # MobileNetV3-small one photo in seventy went 10 to 60 times as far as a typical one.
            largest=torch.cat(largest[tensor]).quantile(1 - PHOTO_TAIL, dim=0).clone(),
            energy=(energy[tensor] / len(photos)).clone(),
        )
        for tensor in largest
    }


def _best_factors(
    graph_module: fx.GraphModule, group: _FactorGroup, seen: Mapping[fx.Node, _Channels]
) -> Equalization:
    """The factors of least expected error."""
    behind = [(_columns(graph_module, layer), seen[tensor]) for layer, tensor in group.readers]
    best = Equalization(steps=(0,) * group.channels, gain=1.0)
    before = [_expected_error(*each, best.factors.float()) for each in behind]
    for of_values, of_weights in _POWERS:
        steps = tuple((_STEPS * _exponents(behind, of_values, of_weights)).round().int().tolist())
        tried = Equalization(steps=steps, gain=1.0)
        errors = [_expected_error(*each, tried.factors.float()) for each in behind]
        shares = [error / max(was, 1e-30) for error, was in zip(errors, before, strict=True)]
        gain = len(shares) / max(sum(shares), 1e-30)
        if gain > best.gain:
            best = dataclasses.replace(tried, gain=gain)
    return best


def _columns(graph_module: fx.GraphModule, layer: fx.Node) -> Tensor:
    """(O, C, taps), or (1, C, taps) of a depthwise layer, whose outputs have a scale each."""
    weight = constant(graph_module, input_of(layer, 1))
    if depthwise_channels(graph_module, layer):
        return weight.flatten(1).unsqueeze(0)
    return weight.reshape(weight.shape[0], weight.shape[1], -1)


def _exponents(
    behind: Sequence[tuple[Tensor, _Channels]], of_values: float, of_weights: float
) -> Tensor:
    """(C,) log2 of the factors; the geometric mean of what each layer behind would like."""
    logarithm = torch.zeros_like(behind[0][1].largest)
    for weight, channels in behind:
        logarithm += of_values * _relative(channels.largest).log2()
        logarithm -= of_weights * _relative(weight.abs().amax(dim=(0, 2))).log2()
    return logarithm / len(behind)


def _relative(values: Tensor) -> Tensor:
    """Of the largest, and none below a thirty-second."""
    return (values / values.max().clamp_min(1e-30)).clamp_min(_LEAST_SHARE)


def _expected_error(weight: Tensor, channels: _Channels, factors: Tensor) -> float:
    """The module's sum for one layer."""
    scaled = weight * factors.view(1, -1, 1)
    step = (channels.largest / factors).max()
    of_values = step.square() * scaled.square().sum()
    taps = weight.shape[2]
    energy = channels.energy / factors.square() * taps
    if weight.shape[0] == 1:  # every channel by itself: its scale follows its factor
        of_weights = (weight.abs().amax(dim=2)[0].square() * channels.energy * taps).sum()
    else:
        of_weights = scaled.abs().amax(dim=(1, 2)).square().sum() * energy.sum()
    # Steps of a range: values have 255 from zero up, weights 254 on both sides of it.
    return float(of_values + 4 * of_weights)


def _scale(graph_module: fx.GraphModule, group: _FactorGroup, factors: Tensor) -> None:
    """Divides what the layers in front write by (C,) factors, and multiplies it back behind."""
    for front in group.fronts:
        weight = constant(graph_module, input_of(front, 1)).double()
        shape = (-1, *[1] * (weight.dim() - 1))
        _replace(graph_module, front, 1, weight / factors.view(shape))
        if len(front.args) > 2 and front.args[2] is not None:
            bias = constant(graph_module, input_of(front, 2)).double()
            _replace(graph_module, front, 2, bias / factors)
    for layer, _ in group.readers:
        weight = constant(graph_module, input_of(layer, 1)).double()
        along = 0 if depthwise_channels(graph_module, layer) else 1
        shape = tuple(-1 if axis == along else 1 for axis in range(weight.dim()))
        _replace(graph_module, layer, 1, weight * factors.view(shape))


def _replace(graph_module: fx.GraphModule, layer: fx.Node, index: int, value: Tensor) -> None:
    what = "weight" if index == 1 else "bias"
    stored = new_constant(
        graph_module, value.float(), name=f"{layer.name}_even_{what}", before=layer
    )
    layer.update_arg(index, stored)
