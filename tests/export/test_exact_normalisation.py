import copy

import torch
from support.export import tiny_preprocess
from torch import fx, nn

from edgeseed.core.network import StudentNetwork
from edgeseed.export.exact_normalisation import centre_on_whole_numbers
from edgeseed.export.program import build_program, float_graph, trace


def constants(graph: fx.GraphModule) -> dict[str, torch.Tensor]:
    return dict(graph.named_buffers())


def test_it_computes_the_same_numbers(network: StudentNetwork) -> None:
    graph = float_graph(build_program(network, tiny_preprocess()))
    rewritten = copy.deepcopy(graph)
    assert centre_on_whole_numbers(rewritten)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), generator=torch.manual_seed(0)).float()
    for before, after in zip(graph(pixels), rewritten(pixels), strict=True):
        torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_float16_holds_what_is_subtracted_and_multiplied_exactly(network: StudentNetwork) -> None:
    graph = float_graph(build_program(network, tiny_preprocess()))
    centre_on_whole_numbers(graph)
    found = constants(graph)
    for name in ("whole_mean", "factor_in_float16"):
        assert torch.equal(found[name].half().float(), found[name])
    assert found["whole_mean"].flatten().tolist() == [124, 116, 104]


def test_a_grey_photo_is_normalised_more_exactly_in_float16() -> None:
    """Every pixel errs alike, so that no average takes the error away."""
    mean, factor = torch.tensor([123.675]), 1 / torch.tensor([58.395])
    pixel = torch.tensor([120.0])
    wanted = (pixel.double() - 123.675) / 58.395
    plain = (pixel.half() - mean.half()) * factor.half()
    stored = factor.half()
    rest = ((124 - mean.double()) * stored.double()).half()
    exact = (pixel.half() - torch.tensor([124.0]).half()) * stored + rest
    # What float16 takes off the factor is given back by the first layer's weights.
    error = (exact.double() * (factor / stored.float()).double() - wanted).abs()
    assert float(error) * 3 < float((plain.double() - wanted).abs())


class Unnormalised(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.mean((2, 3))


def test_a_program_that_starts_otherwise_is_left_alone() -> None:
    graph = trace(Unnormalised(), torch.zeros(1, 3, 4, 4), batch=1).module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    assert not centre_on_whole_numbers(graph)
