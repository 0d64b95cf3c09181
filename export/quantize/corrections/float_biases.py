"""Biases of a float program that make up for its rounded weights.

`w8` rounds weights and nothing else, to the nearest step of each output channel. That moves the
mean of every channel by a constant, and the layers behind add up their shifts: EfficientNet-Lite0
of ImageNet kept 81.9 % of its decisions with rounded weights, and 91.9 % with biases that bring the
means back. (`bias_correction` has the papers; here no activation is rounded, so that none is cut
off.) Photos that had no part in it judge it: where the outputs do not come nearer, biases stay.
"""

from torch.export import ExportedProgram

from edgeseed.core.agreement import output_distance
from edgeseed.core.console import say
from edgeseed.export.call import Batch
from edgeseed.export.program import (
    LAYER_OPERATORS,
    constant,
    copy_graph,
    example_input,
    float_graph,
    input_of,
    is_constant,
    new_constant,
    trace,
)
from edgeseed.export.proof.rounding import RoundWeight, round_layers
from edgeseed.export.quantize.corrections.bias_correction import correct, layer_spreads
from edgeseed.export.quantize.search.policy import POLICY
from edgeseed.export.quantize.search.scoring import run_graph
from edgeseed.export.samples import Photos

# Of the photos given, the last ones: they judge the biases that the others gave.
_SHARE_THAT_JUDGES = 0.25


def correct_float_biases(
    program: ExportedProgram, photos: Photos, *, round_weight: RoundWeight, batch: Batch
) -> ExportedProgram | None:
    """The program with other biases, so that rounding its weights keeps the means of its layers.

    Args:
        program: Float, of any batch size; it is not changed.
        photos: For the means; of many, the first ones are enough. A quarter judges the result.
        round_weight: A layer's weight, (out, in, ...), as the format will store it.
        batch: Of the program that is made.

    Returns:
        None where outputs with rounded weights come no nearer to the program's by it.
    """
    graph = float_graph(program)
    # A layer without a bias would be two operators with one.
    layers = [
        node
        for node in graph.graph.nodes
        if node.target in LAYER_OPERATORS
        and is_constant(node.args[1])
        and len(node.args) > 2
        and is_constant(node.args[2])
    ]
    last = max(1, int(len(photos.pixels) * _SHARE_THAT_JUDGES))
    some = Photos(pixels=photos.pixels[:-last][: POLICY.bias_correction.of(photos)])
    judging = Photos(pixels=photos.pixels[-last:])
    wanted = layer_spreads(graph, [layer.name for layer in layers], some)
    rounded = round_layers(copy_graph(graph), round_weight)
    truth, before = run_graph(graph, judging), run_graph(rounded, judging)
    found = correct(rounded, wanted, some, gains=False)
    for layer in layers:
        bias = constant(graph, input_of(layer, 2)) + found.biases[layer.name]
        stored = new_constant(graph, bias, name=f"{layer.name}_bias", before=layer)
        layer.args = (*layer.args[:2], stored, *layer.args[3:])
    graph.recompile()
    after = run_graph(round_layers(copy_graph(graph), round_weight), judging)
    if output_distance(after, truth) >= output_distance(before, truth):
        say("corrected biases bring w8 no nearer to the student: they stay as they are")
        return None
    return trace(graph, example_input(photos.pixels.shape[1:], batch=batch), batch=batch)
