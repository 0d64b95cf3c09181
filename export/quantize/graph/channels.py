"""Follows channels through a graph: which tensors and layers must change together."""

from abc import ABC, abstractmethod

import torch
from torch import fx

from edgeseed.export.program import constant, input_of, is_constant

_aten = torch.ops.aten


class ChannelGroup(ABC):
    """Tensors whose channels belong together, up to the layers at their edges."""

    def __init__(self, graph_module: fx.GraphModule) -> None:
        self.module = graph_module
        self.tensors: set[fx.Node] = set()

    def follow(self, start: fx.Node) -> bool:
        """Collects in both directions; False where the channels end in something unknown."""
        waiting = [start]
        while waiting:
            tensor = waiting.pop()
            if tensor in self.tensors:
                continue
            self.tensors.add(tensor)
            before, after = self.before(tensor), self.after(tensor)
            if before is None or after is None:
                return False
            waiting += before + after
        return True

    @abstractmethod
    def before(self, tensor: fx.Node) -> list[fx.Node] | None:
        """The tensors of the group that this one is made of; None where that is unknown."""

    @abstractmethod
    def after(self, tensor: fx.Node) -> list[fx.Node] | None:
        """The tensors of the group that are made of this one; None where that is unknown."""


def num_groups(layer: fx.Node) -> int:
    """Of a convolution; a linear layer has one."""
    return int(str(layer.args[6])) if len(layer.args) > 6 else 1


def depthwise_channels(graph_module: fx.GraphModule, node: fx.Node) -> int:
    """Channels of a depthwise convolution with one output each, 0 for any other node."""
    if node.target is not _aten.conv2d.default or not is_constant(node.args[1]):
        return 0
    weight = constant(graph_module, input_of(node, 1))
    is_depthwise = num_groups(node) == len(weight) > 1 and weight.shape[1] == 1
    return len(weight) if is_depthwise else 0
