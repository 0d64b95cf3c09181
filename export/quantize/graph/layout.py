"""The layout: which operators of a graph compute in integers, and which tensors are stored in them.

Convolutions and linear layers are integer wherever the scheme has them. All other operators follow
their inputs: an addition of two float tensors gains nothing from being quantized.
"""

import dataclasses
import enum
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx

from edgeseed.export.program import constant, input_of, is_constant
from edgeseed.export.quantize.corrections.float_embedding import tail_of
from edgeseed.export.quantize.scheme import Operator, Scheme

_aten = torch.ops.aten
_VIEWS = {
    _aten.flatten.using_ints, _aten.view.default, _aten.reshape.default,
    _aten.squeeze.dims, _aten.squeeze.dim, _aten.unsqueeze.default,
}  # fmt: skip
_PADS = {_aten.pad.default, _aten.constant_pad_nd.default}
WHITE = 255
"""The brightest byte of a photo."""
# Below so many pixels a narrow layer costs next to nothing in either form.
_STEM_PIXELS = 48 * 48


WEIGHTED = ("conv", "linear")
"""Operators that have weights."""


class Kind(enum.Enum):
    """What is known of a tensor's values before any photo is seen."""

    FREE = "any number"
    RELU = "0 and up"
    RELU6 = "0 to 6"
    HARDSWISH = "the input of a hard-swish: below -3 all is one"
    HARDSIGMOID = "the input of a hard-sigmoid, stored as x + 3: below -3 and above 3 all is one"
    THREES = "the input of a hard-sigmoid that stays an operator: below -3 and above 3 all is one"
    SIGMOID = "0 to 1"
    IMAGE = "a photo's bytes"
    PHOTO = "a photo that was normalised by one mean: its bytes are steps of one size"
    SHARED = "the integers of another tensor"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The integer part of a graph; keys are node names."""

    operators: Mapping[str, Operator]
    """Operator that computes in integers -> what it is."""
    points: Mapping[str, Kind]
    """Tensor that is stored in integers -> what its values can be."""
    floats: Mapping[str, str]
    """Operator that stays in float though it has weights or an integer kernel -> the reason."""

    @property
    def layers(self) -> list[str]:
        """The integer operators that have weights, in order."""
        return [name for name, operator in self.operators.items() if operator in WEIGHTED]


def plan_layout(
    graph: fx.Graph, scheme: Scheme, *, keep_float: Mapping[str, str] | None = None
) -> Layout:
    """The layout of a float graph under a scheme.

    Args:
        graph: Of a float graph module, see `export.program.float_graph`.
        scheme: The integers and the operators that the runtime has.
        keep_float: Node name of an operator that stays in float -> the reason.
    """
    planner = _Planner(graph, scheme, dict(keep_float or {}))
    for node in graph.nodes:
        planner.visit(node)
    return planner.layout()


def weighted_input(node: fx.Node) -> fx.Node:
    """The tensor that a convolution or linear layer reads, before any zero padding of its own."""
    source = input_of(node)
    if source.target in _PADS and len(source.users) == 1 and _pads_zero(source):
        source = input_of(source)
    return source


def image_of(node: fx.Node) -> fx.Node | None:
    """The photo, if `node` is the convolution that reads it right after the normalisation."""
    scaled = weighted_input(node)
    if scaled.target is not _aten.mul.Tensor or len(scaled.users) > 1:
        return None
    shifted = scaled.args[0]
    if not isinstance(shifted, fx.Node) or shifted.target is not _aten.sub.Tensor:
        return None
    image = shifted.args[0]
    is_image = isinstance(image, fx.Node) and image.op == "placeholder" and len(shifted.users) == 1
    return image if is_image and isinstance(image, fx.Node) else None


def grey_of(mean: Tensor) -> int:
    """The byte that stands for zero in a photo: near the means of its colours.

    Where they are no byte, or white, whose channel of ones would be zeros: the middle.
    """
    nearest = round(float(mean.double().mean()))
    return nearest if 0 <= nearest < WHITE else (WHITE + 1) // 2


def _has_one_mean(graph: fx.Graph, layer: fx.Node) -> bool:
    """Whether the photo that a layer reads is normalised by one mean, up to half a byte's step."""
    module = graph.owning_module
    assert module is not None
    mean = constant(module, input_of(input_of(weighted_input(layer)), 1))
    return bool(((mean - grey_of(mean)).abs() <= 0.5).all())


def operator_of(node: fx.Node) -> Operator | None:
    """What a node is in a scheme's words."""
    find = _OPERATORS.get(node.target)
    return None if find is None else find(node)


def _shape(node: fx.Node) -> tuple[Any, ...]:
    return tuple(map(str, getattr(node.meta.get("val"), "shape", ())))


def _is_single(node: fx.Node) -> bool:
    """Whether a layer sees one position of each photo: (N, C, 1, 1) or (N, C)."""
    shape = _shape(weighted_input(node))
    return len(shape) == 2 or (len(shape) == 4 and shape[2:] == ("1", "1"))


def _is_narrow(node: fx.Node, channels: int) -> bool:
    """Whether a layer makes at most so many channels, of a high resolution."""
    value = node.meta.get("val")
    if value is None or value.dim() != 4:
        return False
    return int(value.shape[1]) <= channels and value.shape[2] * value.shape[3] >= _STEM_PIXELS


def _pads_zero(node: fx.Node) -> bool:
    value = node.args[3] if len(node.args) > 3 else 0
    if node.target is _aten.constant_pad_nd.default:
        value = node.args[2] if len(node.args) > 2 else 0
    return value in (None, 0, 0.0)


def _weighted(operator: Operator) -> Callable[[fx.Node], Operator | None]:
    return lambda node: operator if is_constant(node.args[1]) else None


def _both_tensors(operator: Operator) -> Callable[[fx.Node], Operator | None]:
    def find(node: fx.Node) -> Operator | None:
        pair = node.args[:2]
        plain = all(isinstance(item, fx.Node) and not is_constant(item) for item in pair)
        return operator if plain and not node.kwargs else None

    return find


def _mean(node: fx.Node) -> Operator | None:
    axes = node.args[1]
    value = node.meta.get("val")
    if not isinstance(axes, list | tuple) or getattr(value, "dim", lambda: 0)() == 0:
        return None
    source = cast(fx.Node, node.args[0]).meta.get("val")
    if getattr(source, "dim", lambda: 0)() != 4:
        return None
    # Axes may be counted from the end.
    return "pool" if sorted(int(str(axis)) % 4 for axis in axes) == [2, 3] else None


def _global_pool(node: fx.Node) -> Operator | None:
    size: Any = node.args[1]
    return "pool" if all(item == 1 for item in size) else None


def _clamp6(node: fx.Node) -> Operator | None:
    return "relu" if list(node.args[1:3]) == [0, 6] else None


def _plain(operator: Operator) -> Callable[[fx.Node], Operator | None]:
    return lambda node: operator


_OPERATORS: dict[Any, Callable[[fx.Node], Operator | None]] = {
    _aten.conv2d.default: _weighted("conv"),
    _aten.linear.default: _weighted("linear"),
    _aten.add.Tensor: _both_tensors("add"),
    _aten.mul.Tensor: _both_tensors("mul"),
    _aten.relu.default: _plain("relu"),
    _aten.relu6.default: _plain("relu"),
    _aten.hardtanh.default: _clamp6,
    _aten.hardswish.default: _plain("hardswish"),
    _aten.hardsigmoid.default: _plain("hardsigmoid"),
    _aten.sigmoid.default: _plain("sigmoid"),
    _aten.silu.default: _plain("silu"),
    _aten.mean.dim: _mean,
    _aten.adaptive_avg_pool2d.default: _global_pool,
    _aten.max_pool2d.default: _plain("max_pool"),
    _aten.cat.default: _plain("concat"),
    **dict.fromkeys(_VIEWS, _plain("view")),
}


class _Planner:
    def __init__(self, graph: fx.Graph, scheme: Scheme, keep_float: dict[str, str]) -> None:
        self.graph = graph
        self.scheme = scheme
        self.floats = keep_float
        self.operators: dict[fx.Node, Operator] = {}
        self.points: dict[fx.Node, Kind] = {}
        tail = tail_of(graph) if scheme.float_embedding else None
        self.tail: Collection[fx.Node] = tail or ()
        self.stem: set[fx.Node] = set()
        """The photo, and what was made of it by narrow layers alone."""
        self.seen: set[fx.Node] = set()
        """The photo, and all tensors that depend on it by more than how many photos there are."""

    def visit(self, node: fx.Node) -> None:
        operator = operator_of(node)
        if self._depends_on_photo(node):
            self.seen.add(node)
        elif operator in WEIGHTED:
            # Converters for a fixed batch compute it, and it is no layer of the file then.
            self.floats.setdefault(node.name, "it reads no photo: it gives the same for each")
        if self._is_stem(node, operator):
            self.stem.add(node)
            if operator in WEIGHTED:
                self.floats.setdefault(node.name, "at the photo's resolution it is faster in float")
        if operator is None or node.name in self.floats:
            return
        if operator not in self.scheme.operators:
            self.floats[node.name] = f"scheme {self.scheme.name} has no integer {operator}"
            return
        # Nodes come in order, so all that this one reads has been decided.
        sources = self._sources(node, operator)
        if node in self.tail and operator not in WEIGHTED:
            self.floats[node.name] = "it makes the embedding, which is not rounded"
        elif operator in WEIGHTED and not self.scheme.single_positions and _is_single(node):
            self.floats[node.name] = "it sees one position only, where int8 gains nothing"
        elif operator in WEIGHTED:
            self._take(node, operator, sources)
        elif operator == "add" and self.scheme.residual_skips:
            self._take_skip(node, sources)
        elif all(source in self.operators for source in sources):
            self._follow(node, operator, sources)
        elif operator != "view":
            self.floats[node.name] = "its inputs are in float"

    def _depends_on_photo(self, node: fx.Node) -> bool:
        if node.op == "placeholder":
            return True
        is_size = isinstance(node.meta.get("val"), torch.SymInt)
        return not is_size and not self.seen.isdisjoint(node.all_input_nodes)

    def _is_stem(self, node: fx.Node, operator: Operator | None) -> bool:
        if self.scheme.stem_channels == 0 or node.op == "placeholder":
            return node.op == "placeholder"
        values = [item for item in node.all_input_nodes if not is_constant(item)]
        if not values or not self.stem.issuperset(values):
            return False
        return operator not in WEIGHTED or _is_narrow(node, self.scheme.stem_channels)

    def _sources(self, node: fx.Node, operator: Operator) -> list[fx.Node]:
        if operator in WEIGHTED:
            return [weighted_input(node)]
        if operator in ("add", "mul"):
            return [item for item in node.args[:2] if isinstance(item, fx.Node)]
        first: Any = node.args[0]
        return list(first) if operator == "concat" else [first]

    def _take(self, node: fx.Node, operator: Operator, sources: list[fx.Node]) -> None:
        self.operators[node] = operator
        image = image_of(node) if operator == "conv" else None
        if image is not None and self._reads_bytes(node):
            self.points[image] = Kind.IMAGE
        else:
            # Such a photo's bytes can all lie half-way between two integers; its range is chosen so
            # that they do not (`choose_quantizer` in `ranges/observers.py`).
            is_even = image is not None and _has_one_mean(self.graph, node)
            for source in sources:
                self.points.setdefault(source, Kind.PHOTO if is_even else Kind.FREE)
        stays_float = self.scheme.float_results or node in self.tail
        # What only the caller reads is handed over in float, without a detour by bytes.
        is_read = self.scheme.plain_qdq or any(user.op != "output" for user in node.users)
        if is_read and not stays_float:
            self.points[node] = Kind.FREE

    def _reads_bytes(self, layer: fx.Node) -> bool:
        if self.scheme.exact_image == "one mean":
            return _has_one_mean(self.graph, layer)
        return self.scheme.exact_image == "always"

    def _take_skip(self, node: fx.Node, sources: list[fx.Node]) -> None:
        """A residual sum: the layer in front writes it, if what it adds comes in integers."""
        own = [item for item in sources if self.operators.get(item) == "conv"]
        # A layer can add the skip before it stores only if nobody needs its result without.
        own = [item for item in own if len(item.users) == 1 and item not in self.points]
        if not own or _shape(sources[0]) != _shape(sources[1]):
            self.floats[node.name] = "it does not end a residual block of convolutions"
            return
        self.operators[node] = "add"
        # Both may be the same tensor: x + x.
        (skip,) = [item for item in sources if item is not own[0]] or [own[0]]
        self.points.setdefault(skip, Kind.FREE)

    def _follow(self, node: fx.Node, operator: Operator, sources: list[fx.Node]) -> None:
        source = sources[0]
        if operator == "relu":
            self._join(node, source)
        elif operator in ("hardswish", "hardsigmoid") and self.scheme.plain_qdq:
            self._keep_bent(node, operator, source)
        elif operator in ("hardswish", "hardsigmoid"):
            self._bend(node, operator, source)
        else:
            self.operators[node] = operator
            # These hand integers on as they are. A range of their own would round twice.
            shared = operator in ("view", "max_pool")
            kind = Kind.SHARED if shared else Kind.SIGMOID if operator == "sigmoid" else Kind.FREE
            self.points[node] = kind
            for item in sources:
                self.points.setdefault(item, Kind.FREE)

    def _join(self, node: fx.Node, source: fx.Node) -> None:
        """ReLU: the operator in front writes its result straight into the ReLU's range."""
        is_alone = len(source.users) == 1 and self.operators[source] in ("conv", "linear", "add")
        if not is_alone and not self.scheme.plain_qdq:
            self.floats[node.name] = "its input has other readers"
            return
        self.operators[node] = "relu"
        if is_alone:
            # What lies between the two is never stored, so its range must not be looked for.
            self.points.pop(source, None)
        is_six = node.target is not _aten.relu.default
        self.points[node] = Kind.RELU6 if is_six else Kind.RELU

    def _bend(self, node: fx.Node, operator: Operator, source: fx.Node) -> None:
        """Hard-swish, hard-sigmoid: the layer in front saturates where they are constant."""
        if len(source.users) > 1 or self.operators[source] not in WEIGHTED:
            self.floats[node.name] = "its input is not a layer's own output"
            return
        self.operators[node] = operator
        self.points[source] = Kind.HARDSWISH if operator == "hardswish" else Kind.HARDSIGMOID
        self.points[node] = Kind.FREE if operator == "hardswish" else Kind.SHARED

    def _keep_bent(self, node: fx.Node, operator: Operator, source: fx.Node) -> None:
        """The same as one operator: what its input has beyond the bends is not worth integers."""
        self.operators[node] = operator
        if len(source.users) == 1 and self.operators[source] in WEIGHTED:
            self.points[source] = Kind.HARDSWISH if operator == "hardswish" else Kind.THREES
        self.points[node] = Kind.FREE if operator == "hardswish" else Kind.SIGMOID

    def layout(self) -> Layout:
        for node in self.graph.nodes:
            if operator_of(node) in WEIGHTED and node not in self.operators:
                self.floats.setdefault(node.name, "its weights are not constant")
        return Layout(
            operators={node.name: operator for node, operator in self.operators.items()},
            points={node.name: kind for node, kind in self.points.items()},
            floats=self.floats,
        )


def layers_around(graph: fx.Graph, layout: Layout, point: str) -> list[tuple[str, ...]]:
    """The integer layers that have to be in float for a tensor not to be rounded, by name.

    Those are the ones that read it, also through what only moves its integers, and one that it is
    made by: of a product or a sum one factor in float is enough, so there may be several answers.
    """
    (node,) = [item for item in graph.nodes if item.name == point]
    readers = {user.name for user in _through(node, lambda item: list(item.users), _moves)}
    found = []
    for maker in _makers(node):
        wanted = {*readers, maker.name}
        group = tuple(name for name in layout.layers if name in wanted)
        if group and group not in found:
            found.append(group)
    return found


def _makers(node: fx.Node) -> list[fx.Node]:
    """The layers that a tensor comes from, through operators without weights."""
    if _is_maker(node):
        return [node]
    reached = _through(node, lambda item: item.all_input_nodes, lambda item: not _is_maker(item))
    return [item for item in reached if _is_maker(item)]


def _is_maker(node: fx.Node) -> bool:
    return operator_of(node) in WEIGHTED or node.op == "placeholder"


def _moves(node: fx.Node) -> bool:
    return node.target in _PADS or operator_of(node) in ("view", "max_pool")


def _through(
    node: fx.Node,
    following: Callable[[fx.Node], Sequence[fx.Node]],
    passes: Callable[[fx.Node], bool],
) -> list[fx.Node]:
    """The nodes that follow one, and those behind any that lets through; each once."""
    reached: dict[fx.Node, None] = {}
    waiting = list(following(node))
    while waiting:
        item = waiting.pop(0)
        if item not in reached:
            reached[item] = None
            waiting += following(item) if passes(item) else []
    return list(reached)


def observed_points(layout: Layout) -> Collection[str]:
    """The points whose range has to be measured."""
    fixed = (Kind.HARDSIGMOID, Kind.THREES, Kind.SIGMOID, Kind.IMAGE, Kind.SHARED)
    return tuple(name for name, kind in layout.points.items() if kind not in fixed)
