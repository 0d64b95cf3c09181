"""Keeps the embedding as exact as integer layers in front of it give it.

Where a network ends in `pool -> 1x1 convolution -> activation` (MobileNetV3, GhostNet, LCNet), the
convolution's input and its output have one position, and the output is the embedding. Stored in
bytes, it would be rounded twice, before and after the activation, at the end of the network, where
nothing averages it away: on a MobileNetV3-small that was 30 % of the squared error of the logits,
and all who read the embedding got it in 256 steps. As a matrix product the layer can hand on its
sums in float, still multiplied in integers, so that neither rounding happens; a thousand
activations in float take no time.

The head, a linear layer, reads bytes. Between it and the embedding comes a factor for each channel,
so that what is rounded is not the embedding itself: one, unless `equalization` chooses another.
"""

import torch
from torch import Tensor, fx

from edgeseed.export.program import constant, input_of, is_constant, new_constant, tidy

_aten = torch.ops.aten
_VIEWS = {
    _aten.flatten.using_ints, _aten.view.default, _aten.reshape.default,
    _aten.squeeze.dims, _aten.squeeze.dim,
}  # fmt: skip
_ACTIVATIONS = {
    _aten.relu.default, _aten.relu6.default, _aten.hardtanh.default, _aten.hardswish.default,
    _aten.silu.default, _aten.gelu.default,
}  # fmt: skip


def embedding_of(graph: fx.Graph) -> fx.Node | None:
    """The first output."""
    (last,) = graph.find_nodes(op="output")
    values = last.args[0]
    first = values[0] if isinstance(values, list | tuple) and values else None
    return first if isinstance(first, fx.Node) else None


def tail_of(graph: fx.Graph) -> tuple[fx.Node, fx.Node] | None:
    """The layer and the activation that end in the embedding, where the layer is linear."""
    activation = embedding_of(graph)
    if activation is None or activation.target not in _ACTIVATIONS:
        return None
    layer = input_of(activation)
    is_tail = layer.target is _aten.linear.default and len(layer.users) == 1
    return (layer, activation) if is_tail and _dimensions(layer) == 2 else None


def keep_embedding_in_float(graph_module: fx.GraphModule) -> bool:
    """Turns the last convolution into a linear layer, and gives the head its factors. Exact.

    Args:
        graph_module: A float graph with shapes (`node.meta["val"]`); it is changed in place.

    Returns:
        Whether the network ends in such a way.
    """
    embedding = embedding_of(graph_module.graph)
    found = _ending(graph_module, embedding) if embedding is not None else None
    if embedding is None or found is None:
        return False
    convolution, activation = found
    linear = _linear_twin(graph_module, convolution)
    with graph_module.graph.inserting_after(linear):
        assert callable(activation.target)
        result = graph_module.graph.call_function(
            activation.target, (linear, *activation.args[1:]), activation.kwargs
        )
    result.meta["val"] = embedding.meta["val"]
    embedding.replace_all_uses_with(result)
    _give_factors(graph_module, result)
    names = convolution.name, activation.name
    tidy(graph_module)
    # Only now: until `tidy` the nodes that they replace still have these names.
    linear.name, result.name = names
    return True


def _ending(graph_module: fx.GraphModule, embedding: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The convolution and the activation between it and the embedding."""
    activation = _behind_views(embedding)
    if activation.target not in _ACTIVATIONS or _dimensions(embedding) != 2:
        return None
    layer = _behind_views(input_of(activation))
    is_pointwise = (
        layer.target is _aten.conv2d.default
        and is_constant(layer.args[1])
        and constant(graph_module, input_of(layer, 1)).shape[2:] == (1, 1)
        and (len(layer.args) < 7 or layer.args[6] == 1)
        and all(part in (0, [0, 0]) for part in layer.args[4:5])
    )
    if not is_pointwise or len(layer.users) > 1 or len(activation.users) > 1:
        return None
    shape = input_of(layer).meta["val"].shape
    return (layer, activation) if tuple(map(str, shape[2:])) == ("1", "1") else None


def _behind_views(node: fx.Node) -> fx.Node:
    while node.target in _VIEWS and len(input_of(node).users) == 1:
        node = input_of(node)
    return node


def _dimensions(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.dim() if isinstance(value, Tensor) else 0


def _linear_twin(graph_module: fx.GraphModule, convolution: fx.Node) -> fx.Node:
    source = input_of(convolution)
    weight = constant(graph_module, input_of(convolution, 1)).flatten(1)
    stored = new_constant(
        graph_module, weight, name=f"{convolution.name}_matrix", before=convolution
    )
    bias = convolution.args[2] if len(convolution.args) > 2 else None
    with graph_module.graph.inserting_before(convolution):
        flat = graph_module.graph.call_function(_aten.flatten.using_ints, (source, 1))
        linear = graph_module.graph.call_function(_aten.linear.default, (flat, stored, bias))
    flat.meta["val"] = source.meta["val"].flatten(1)
    linear.meta["val"] = convolution.meta["val"].flatten(1)
    return linear


def _give_factors(graph_module: fx.GraphModule, embedding: fx.Node) -> None:
    for user in list(embedding.users):
        if user.target is _aten.linear.default:
            ones = torch.ones(int(embedding.meta["val"].shape[1]))
            factors = new_constant(graph_module, ones, name=f"{user.name}_factors", before=user)
            with graph_module.graph.inserting_before(user):
                scaled = graph_module.graph.call_function(_aten.mul.Tensor, (embedding, factors))
            scaled.meta["val"] = embedding.meta["val"]
            user.replace_input_with(embedding, scaled)
