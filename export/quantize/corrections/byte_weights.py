"""Weights of eight bits for layers that stay in float, where that loses nothing.

What makes a layer lose in integers is nearly always what it reads: its activations get 256 steps
for all channels together. Its weights get a step for each output channel, and are as good in bytes.
So a layer in float keeps float activations and arithmetic, and a quarter of its size in the file:
the runtime turns the bytes into float once, when it loads the file.
"""

from collections.abc import Callable, Sequence

import torch
from torch import fx

from edgeseed.export.program import constant, copy_graph, input_of, is_constant, new_constant
from edgeseed.export.quantize.graph.layout import WEIGHTED, Layout, image_of, operator_of
from edgeseed.export.quantize.scales import quantize_channels, weight_scales
from edgeseed.export.quantize.scheme import IntegerFormat

SMALLEST = 512
"""Number of weights from which bytes and their scales take less room."""


def float_layers(graph_module: fx.GraphModule, layout: Layout) -> list[str]:
    """Layers in float whose weights are constant and many, those with most first.

    Not those that read the photo: the normalisation goes into their weights, channel by channel,
    and would take them off the grid.
    """
    sizes = {
        node.name: constant(graph_module, input_of(node, 1)).numel()
        for node in graph_module.graph.nodes
        if operator_of(node) in WEIGHTED
        and node.name not in layout.operators
        and is_constant(node.args[1])
        and image_of(node) is None
    }
    large = [name for name, size in sizes.items() if size >= SMALLEST]
    return sorted(large, key=lambda name: -sizes[name])


def with_byte_weights(
    graph_module: fx.GraphModule, layers: Sequence[str], number_format: IntegerFormat
) -> fx.GraphModule:
    """A copy in which the weights of these layers are those that bytes can hold.

    Args:
        graph_module: A float graph.
        layers: Convolutions and linear layers with constant weights.
        number_format: Of the bytes, with one scale an output channel.
    """
    copied = copy_graph(graph_module)
    for node in copied.graph.nodes:
        if node.name not in layers:
            continue
        weight = constant(copied, input_of(node, 1))
        scales = weight_scales(weight, number_format)
        integers = quantize_channels(
            weight, scales,
            low=number_format.low, high=number_format.high, dtype=number_format.dtype,
        )  # fmt: skip
        rounded = integers.to(torch.float32) * scales.view(-1, *[1] * (weight.dim() - 1))
        stored = new_constant(copied, rounded, name=f"{node.name}_in_bytes", before=node)
        node.args = (node.args[0], stored, *node.args[2:])
    copied.recompile()
    return copied


def layers_worth_bytes(
    layers: Sequence[str], loses: Callable[[Sequence[str]], bool]
) -> tuple[str, ...]:
    """Those of the layers whose weights can be bytes together and lose nothing.

    Args:
        layers: Those with most to save first.
        loses: Whether something is lost with the weights of these layers in bytes.
    """
    if not layers or not loses(layers):
        return tuple(layers)
    chosen: list[str] = []
    for name in layers:
        if not loses([*chosen, name]):
            chosen.append(name)
    return tuple(chosen)
