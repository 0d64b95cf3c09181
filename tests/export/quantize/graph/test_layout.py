"""Which layers are worth their integers: the narrow ones right behind the photo are not."""

import dataclasses

import pytest
import torch
from support.export import tiny_preprocess, tiny_student
from torch import Tensor, fx, nn

from edgeseed.export.program import build_program, example_input, float_graph, trace
from edgeseed.export.quantize.graph.layout import Kind, layers_around, operator_of, plan_layout
from edgeseed.export.quantize.graph.rewriting import insert_quantization
from edgeseed.export.quantize.ranges.statistics import calibrate, scales_by_method
from edgeseed.export.quantize.scheme import IntegerFormat, Scheme
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos

SCHEME: Scheme = SCHEMES.load("x86")
LARGE, SMALL = 128, 32


class Stem(nn.Module):
    """Two layers of few channels, as MobileNetV3 begins, and one of many."""

    offset: Tensor
    factor: Tensor

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("offset", torch.tensor([120.0, 110.0, 90.0]).view(1, 3, 1, 1))
        self.register_buffer("factor", torch.tensor([0.02, 0.03, 0.01]).view(1, 3, 1, 1))
        self.first = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.wide = nn.Conv2d(channels, 64, 1)
        self.narrow_again = nn.Conv2d(64, 8, 1)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        first = torch.relu(self.first((image - self.offset) * self.factor))
        wide = torch.relu(self.wide(torch.relu(self.depthwise(first))))
        return (self.narrow_again(wide),)


def stem(size: int, channels: int = 16) -> fx.GraphModule:
    return float_graph(trace(Stem(channels), example_input(size, batch="dynamic"), batch="dynamic"))


def photos(size: int) -> Photos:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, size, size), generator=generator, dtype=torch.uint8)
    return Photos(pixels=pixels.numpy())


def test_narrow_layers_at_a_high_resolution_stay_in_float() -> None:
    layout = plan_layout(stem(LARGE).graph, SCHEME)
    assert {"conv2d", "conv2d_1"} <= set(layout.floats)
    assert "in float" in layout.floats["conv2d"]
    # The last has 8 channels, but it is not the photo's neighbour.
    assert layout.operators["conv2d_2"] == layout.operators["conv2d_3"] == "conv"
    assert Kind.IMAGE not in layout.points.values()


@pytest.mark.parametrize(("size", "channels"), [(SMALL, 16), (LARGE, 32)])
def test_small_photos_and_wider_layers_are_all_integer(size: int, channels: int) -> None:
    layout = plan_layout(stem(size, channels).graph, SCHEME)
    assert not layout.floats
    assert Kind.IMAGE in layout.points.values()


@pytest.mark.parametrize(
    ("scheme", "mean", "kind"),
    [
        ("x86", (0.5, 0.4, 0.3), Kind.IMAGE),
        ("litert", (0.5, 0.5, 0.5), Kind.IMAGE),
        ("litert", (0.5, 0.4, 0.3), Kind.FREE),
        ("coreml-affine", (0.5, 0.5, 0.5), Kind.PHOTO),
        ("coreml", (0.5, 0.4, 0.3), Kind.FREE),
    ],
)
def test_a_photo_is_its_bytes_where_the_scheme_can_express_the_means(
    scheme: str, mean: tuple[float, float, float], kind: Kind
) -> None:
    preprocess = dataclasses.replace(tiny_preprocess(), mean=mean)
    graph = float_graph(build_program(tiny_student(trained=False), preprocess))
    layout = plan_layout(graph.graph, SCHEMES.load(scheme))
    assert next(iter(layout.points.values())) is kind


def test_a_scheme_without_a_stem_is_all_integer() -> None:
    layout = plan_layout(stem(LARGE).graph, SCHEMES.load("arm"))
    assert not layout.floats


def test_the_factor_of_the_normalisation_is_folded_exactly() -> None:
    """Into the float layer's weights; zeros that pad the normalised photo stay zeros."""
    graph, some = stem(LARGE), photos(LARGE)
    fine = dataclasses.replace(
        SCHEME,
        pair_limit=0,  # of bytes
        activation=IntegerFormat(dtype=torch.int32, low=0, high=2**20 - 1, symmetric=False),
        weight=IntegerFormat(dtype=torch.int32, low=-(2**20), high=2**20, symmetric=True),
    )
    layout = plan_layout(graph.graph, fine)
    statistics = calibrate(graph, layout, some)
    scales = scales_by_method(statistics, layout, fine, "minmax")
    found = insert_quantization(graph, layout, scales, fine)
    assert all(node.target is not torch.ops.aten.mul.Tensor for node in found.graph.nodes)
    image = torch.from_numpy(some.pixels).float()
    with torch.no_grad():
        value, truth = found(image)[0], graph(image)[0]
    assert float((value - truth).abs().max() / truth.abs().max()) < 2e-3


def _followers(graph: fx.Graph, point: str) -> list[str]:
    """What a tensor is moved to as it is: flattened, or its greatest values."""
    (node,) = [item for item in graph.nodes if item.name == point]
    moved = [user for user in node.users if operator_of(user) in ("view", "max_pool")]
    return [name for user in moved for name in (user.name, *_followers(graph, user.name))]


class _Pools(nn.Module):
    """Each sum is read three times: three to the power of thirty ways from end to start."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        value = self.conv(image)
        for _ in range(30):
            value = value + (torch.nn.functional.avg_pool2d(value, 3, 1, 1) - value)
        return (value,)


def test_makers_are_found_however_many_ways_lead_to_them() -> None:
    program = trace(_Pools(), example_input(16, batch="dynamic"), batch="dynamic")
    graph = float_graph(program).graph
    layout = plan_layout(graph, SCHEMES.load("arm"))
    last = [node for node in graph.nodes if node.op == "call_function"][-1]
    assert layers_around(graph, layout, last.name) == [("conv2d",)]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mobilenetv3_small_050", marks=pytest.mark.slow),
        "test_efficientnet",
        "test_resnet",
    ],
)
def test_a_tensor_is_not_rounded_where_the_layers_around_it_are_in_float(name: str) -> None:
    graph = float_graph(build_program(tiny_student(name, trained=False), tiny_preprocess())).graph
    layout = plan_layout(graph, SCHEMES.load("arm"))
    seen = 0
    for point, kind in layout.points.items():
        if kind in (Kind.SHARED, Kind.IMAGE):
            continue
        groups = layers_around(graph, layout, point)
        assert groups
        for group in groups:
            assert set(group) <= set(layout.layers)
            changed = plan_layout(graph, SCHEMES.load("arm"), keep_float=dict.fromkeys(group, ""))
            assert point not in changed.points, group
            shared = [name for name in _followers(graph, point) if name in layout.points]
            assert not set(shared) & set(changed.points), group
            for layer in group:
                fewer = dict.fromkeys(set(group) - {layer}, "")
                less = plan_layout(graph, SCHEMES.load("arm"), keep_float=fewer)
                seen += point in less.points
    assert seen > len(layout.points) / 2, "most groups are as small as can be"


def test_layers_in_float_already_are_not_asked_for_again() -> None:
    graph = stem(SMALL).graph
    (both,) = layers_around(graph, plan_layout(graph, SCHEME), "relu_1")
    assert both == ("conv2d_1", "conv2d_2")
    layout = plan_layout(graph, SCHEME, keep_float={"conv2d_1": ""})
    assert layers_around(graph, layout, "relu_1") == [("conv2d_2",)]


class Positions(nn.Module):
    """A layer that reads a table of positions alone, made anew for each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.photo = nn.Conv2d(3, 8, 3, padding=1)
        self.position = nn.Conv2d(4, 8, 1)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        table = torch.zeros(image.shape[0], 4, SMALL, SMALL) + 0.5
        return (torch.relu(self.photo(image) + self.position(table)),)


@pytest.mark.parametrize("scheme", ["x86", "coreml"])
def test_a_layer_that_reads_no_photo_is_none_of_the_integer_layers(scheme: str) -> None:
    # Core ML computes it while converting: "51 layers were meant to be int8, the package has 50".
    example = example_input(SMALL, batch="dynamic")
    graph = float_graph(trace(Positions(), example, batch="dynamic"))
    layout = plan_layout(graph.graph, SCHEMES.load(scheme))
    assert layout.layers == ["conv2d"]
    assert layout.floats["conv2d_1"] == "it reads no photo: it gives the same for each"
