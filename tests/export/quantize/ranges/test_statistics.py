import dataclasses

import numpy as np
import pytest
import torch
from support.export import CLASSES, tinted_photo, tiny_preprocess, tiny_student
from torch import fx, nn

from edgeseed.export.program import build_program, copy_graph, float_graph
from edgeseed.export.quantize.graph.layout import plan_layout
from edgeseed.export.quantize.graph.recording import Recorder
from edgeseed.export.quantize.graph.simulation import fake_quantize
from edgeseed.export.quantize.ranges.statistics import (
    _random_projection,
    calibrate,
    gradient_weighted_statistics,
    rounding_costs,
    scales_by_method,
)
from edgeseed.export.quantize.scales import Quantizer
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.quantize.search.scoring import run_graph
from edgeseed.export.samples import Photos


class _Uneven(nn.Module):
    """Reads its second input ten times as strongly as its first, and its third not at all."""

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor]:
        doubled = values * 2
        return (doubled @ torch.tensor([[1.0, 0.0], [0.0, 10.0], [0.0, 0.0]]),)


def test_squared_gradients_are_how_far_the_outputs_move() -> None:
    graph = torch.export.export(_Uneven(), (torch.zeros(4, 3),)).module()
    name = next(node.name for node in graph.graph.nodes if "mul" in node.name)
    generator = torch.Generator().manual_seed(0)
    seen: dict[str, torch.Tensor] = {}

    def see(node: torch.fx.Node, value: torch.Tensor) -> None:
        seen[node.name] = value

    recorder = Recorder(graph, [name], see=see)
    total = torch.zeros(3)
    for _ in range(400):
        values = torch.randn(4, 3, generator=generator).requires_grad_()
        outputs: tuple[torch.Tensor, ...] = recorder.run(values)
        (gradient,) = torch.autograd.grad(_random_projection(outputs[0], generator), [seen[name]])
        size = outputs[0].detach().square().mean()
        total += (gradient.square() * size).mean(dim=0) / 400
    # The diagonal of J^T J.
    torch.testing.assert_close(total, torch.tensor([1.0, 100.0, 0.0]), rtol=0.15, atol=0)


def _coarse(quantizer: Quantizer) -> Quantizer:
    """Thirty steps, so that the least effect can be seen."""
    low, high = quantizer.range
    scale = (high - low) / 30
    return dataclasses.replace(
        quantizer, scale=scale, zero_point=round(-low / scale), low=0, high=30
    )


def _moved(graph: fx.GraphModule, name: str, quantizer: Quantizer, photos: Photos) -> float:
    """By how much the outputs move, in relation to their size, if one tensor alone is rounded."""
    changed = copy_graph(graph)
    (node,) = [item for item in changed.graph.nodes if item.name == name]
    with changed.graph.inserting_after(node):
        rounded = changed.graph.call_function(fake_quantize, (node, *quantizer.arguments[:4]))
    node.replace_all_uses_with(rounded, delete_user_cb=lambda user: user is not rounded)
    changed.recompile()
    truth, found = (run_graph(module, photos) for module in (graph, changed))
    errors = [np.square(found[key] - truth[key]).sum() for key in truth]
    sizes = [np.square(truth[key]).mean() for key in truth]
    return float(sum(error / size for error, size in zip(errors, sizes, strict=True)))


# Rounds more than fifty tensors one by one. A formula above holds the gradients that it judges.
@pytest.mark.slow
def test_what_rounding_costs_is_known_without_rounding() -> None:
    """By squared gradients, about as by rounding each tensor alone."""
    network = tiny_student("mobilenetv3_small_050", trained=False)
    graph = float_graph(build_program(network, tiny_preprocess()))
    made = [tinted_photo(kind, seed) for seed in range(100, 108) for kind in CLASSES]
    photos = Photos(pixels=np.stack([tiny_preprocess().pixels(photo) for photo in made]))
    scheme = SCHEMES.load("arm")
    layout = plan_layout(graph.graph, scheme)
    weighted = gradient_weighted_statistics(graph, layout, photos)
    scales = scales_by_method(calibrate(graph, layout, photos), layout, scheme, "minmax")
    coarse = {name: _coarse(scales.quantizers[name]) for name in weighted}
    costs = rounding_costs(weighted, dataclasses.replace(scales, quantizers=coarse))
    assert len(costs) > 50
    measured = {name: _moved(graph, name, coarse[name], photos) for name in costs}
    logarithms = np.log([[found[name] for name in costs] for found in (costs, measured)])
    assert np.corrcoef(logarithms)[0, 1] > 0.8
