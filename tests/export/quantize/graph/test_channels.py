"""Channels are followed through a graph up to the layers at both ends."""

import torch
from support.export import SIZE
from torch import Tensor, fx, nn

from edgeseed.export.program import example_input, float_graph, trace
from edgeseed.export.quantize.graph.channels import ChannelGroup, depthwise_channels, num_groups


class Chain(nn.Module):
    """A dense, a grouped and a depthwise convolution, a branch beside them, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dense = nn.Conv2d(3, 8, 3)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.doubling = nn.Conv2d(8, 16, 1, groups=8)
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        features = torch.relu(self.dense(image))
        features = features + self.depthwise(self.grouped(features))
        return (self.head(self.doubling(features).mean((2, 3))),)


def graph_of() -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    module = float_graph(trace(Chain(), example_input(SIZE, batch=1), batch=1))
    convolutions = [node for node in module.graph.nodes if "conv2d" in str(node.target)]
    linear = next(node for node in module.graph.nodes if "linear" in str(node.target))
    names = ("dense", "grouped", "depthwise", "doubling")
    return module, {**dict(zip(names, convolutions, strict=True)), "head": linear}


def test_groups_and_depthwise_layers_are_known() -> None:
    module, layers = graph_of()
    assert {name: num_groups(node) for name, node in layers.items()} == {
        "dense": 1, "grouped": 2, "depthwise": 8, "doubling": 8, "head": 1,
    }  # fmt: skip
    found = {name: depthwise_channels(module, node) for name, node in layers.items()}
    # Two outputs a channel are not one each.
    assert found == {"dense": 0, "grouped": 0, "depthwise": 8, "doubling": 0, "head": 0}


class Neighbours(ChannelGroup):
    """All nodes that hang together, but for those that are walls."""

    walls: frozenset[str] = frozenset()
    unknown: frozenset[str] = frozenset()

    def _beside(self, nodes: list[fx.Node]) -> list[fx.Node]:
        return [node for node in nodes if node.name not in self.walls]

    def before(self, tensor: fx.Node) -> list[fx.Node] | None:
        if tensor.name in self.unknown:
            return None
        return self._beside([node for node in tensor.all_input_nodes if node.op != "get_attr"])

    def after(self, tensor: fx.Node) -> list[fx.Node] | None:
        return self._beside([node for node in tensor.users if node.op != "output"])


def test_a_group_is_what_lies_between_the_walls_in_both_directions() -> None:
    module, layers = graph_of()
    group = Neighbours(module)
    group.walls = frozenset({layers["dense"].name, layers["doubling"].name})
    (start,) = layers["dense"].users
    assert group.follow(start)
    inside = {layers["grouped"], layers["depthwise"], start}
    assert inside < group.tensors
    assert not group.tensors & {layers["dense"], layers["doubling"], layers["head"]}


def test_a_group_that_ends_in_something_unknown_is_none() -> None:
    module, layers = graph_of()
    group = Neighbours(module)
    group.unknown = frozenset({layers["depthwise"].name})
    assert not group.follow(layers["grouped"])
