import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from edgeseed.core.network import build_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture
from edgeseed.export.program import build_program, float_graph, trace
from edgeseed.export.quantize.graph.in_place import reuse_memory
from edgeseed.export.quantize.graph.simulation import fake_quantize, fake_quantize_

_GENERATOR = torch.Generator().manual_seed(0)


def _in_place(graph_module: fx.GraphModule) -> int:
    """How many operators write to what they read."""
    changed = reuse_memory(graph_module)
    pairs = zip(graph_module.graph.nodes, changed.graph.nodes, strict=True)
    return sum(before.target is not after.target for before, after in pairs)


def _check(graph_module: fx.GraphModule, image: Tensor) -> None:
    given = image.clone(memory_format=torch.preserve_format)
    with torch.inference_mode():
        expected = graph_module(image)
        changed = reuse_memory(graph_module)
        for _ in range(2):  # constants must not change either
            for found, wanted in zip(changed(image), expected, strict=True):
                assert found.equal(wanted)
    assert image.equal(given)
    names = [node.name for node in graph_module.graph.nodes]
    assert [node.name for node in changed.graph.nodes] == names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "at_least"),
    [
        ("test_efficientnet", 8),
        ("test_resnet", 3),
        # At 160 px.
        pytest.param("test_vit", 1, marks=pytest.mark.slow),
        # Of these kinds: convolutions with gates, and layers of a transformer's kind.
        pytest.param("mobilenetv3_small_050", 20, marks=pytest.mark.slow),
        pytest.param("test_convnext", 1, marks=pytest.mark.slow),
    ],
)
def test_a_network_computes_what_it_did(name: str, at_least: int) -> None:
    torch.manual_seed(0)
    network = build_student(Architecture(name=name), num_classes=5)
    size = 160 if name == "test_vit" else 64
    graph = float_graph(build_program(network, Preprocess(image_size=size, resize=size)))
    assert _in_place(graph) >= at_least
    image = 255 * torch.rand(3, 3, size, size, generator=_GENERATOR)
    _check(graph, image)
    _check(graph, image.contiguous(memory_format=torch.channels_last))


class _Numbers(nn.Module):
    """Sizes that are multiplied, and whole numbers that become others."""

    def forward(self, image: Tensor) -> tuple[Tensor]:
        batch, channels, height, width = image.shape
        rows = (image * 3).permute(0, 2, 3, 1).reshape(batch * height * width, channels)
        places = torch.arange(channels) + 1
        return (rows * (places * 0.5) + torch.sigmoid(places * 2),)


def test_sizes_and_whole_numbers_are_left_alone() -> None:
    image = torch.rand(2, 3, 8, 8, generator=_GENERATOR)
    graph = trace(_Numbers(), image, batch="dynamic").module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    _check(graph, image)


class _Hazards(nn.Module):
    """Values that are read again: by another operator, through a view, as a constant, narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.table: Tensor
        self.register_buffer("table", torch.rand(4, 8, 8, generator=_GENERATOR))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        brighter = image * 2 + 1
        twice = self.conv(brighter)
        skip = F.relu(twice) + twice
        seen = self.conv(brighter)
        rows = seen.flatten(1)
        other = F.hardswish(seen) * self.table + self.table.relu()
        gate = F.hardsigmoid(F.adaptive_avg_pool2d(skip, 1))
        product = gate * F.relu6(self.conv(brighter))
        double = self.conv(brighter)
        return rows.sum(1) + (double * double).flatten(1).sum(1), skip + other + product


def test_what_is_read_again_is_not_written_over() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 8, 8, generator=_GENERATOR)
    graph = trace(_Hazards(), image, batch="dynamic").module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    assert _in_place(graph) >= 4
    _check(graph, image)


def test_rounding_in_place_is_the_same() -> None:
    values = 4 * torch.randn(2, 6, 8, 10, generator=_GENERATOR)
    before = values.clone()
    with torch.inference_mode():
        found = fake_quantize(values, 0.037, 100, 0, 255)
        assert values.equal(before)
        written = fake_quantize_(values, 0.037, 100, 0, 255)
    assert written is values
    assert written.equal(found)
