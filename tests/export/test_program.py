import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import tiny_preprocess, tiny_student
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.core.agreement import relative_error
from edgeseed.core.errors import UsageError
from edgeseed.core.network import build_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture
from edgeseed.export.call import Batch
from edgeseed.export.program import (
    build_program,
    example_input,
    float_graph,
    output_names,
    trace,
)
from edgeseed.export.proof.reference import reference_outputs
from edgeseed.export.rebuilding import rebuild

Pixels = npt.NDArray[np.uint8]


# Hard swish and squeeze-and-excitation: the corrections of integers are tested with such networks.
LCNET = pytest.param("lcnet_035", marks=pytest.mark.slow)


# Traced with a free batch for this alone.
VIT = pytest.param("test_vit", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", VIT, LCNET])
def test_the_program_is_the_student_at_any_batch(name: str, pixels: Pixels) -> None:
    size: dict[str, Any] = {"img_size": 32} if name == "test_vit" else {}
    network = tiny_student(name, trained=False, **size)
    program = build_program(network, tiny_preprocess())
    assert output_names(program) == ("embedding", "logits")
    module = program.module()
    for count in (1, 2, 7):
        truth = reference_outputs(network, tiny_preprocess(), pixels[:count])
        with torch.no_grad():
            found = module(torch.from_numpy(pixels[:count]).float())
        for value, name in zip(found, output_names(program), strict=True):
            error = np.abs(value.numpy() - truth[name]).max()
            assert error < 1e-4 * np.abs(truth[name]).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "convolutions"),
    # MobileOne has more branches of the same kinds.
    [("repvgg_a0", 22), pytest.param("mobileone_s0", 43, marks=pytest.mark.slow)],
)
def test_parallel_branches_are_one_convolution(
    name: str, convolutions: int, pixels: Pixels
) -> None:
    network = tiny_student(name, trained=False)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    program = build_program(network, tiny_preprocess())
    targets = [node.target for node in program.graph.nodes]
    assert torch.ops.aten.batch_norm.default not in targets
    assert targets.count(torch.ops.aten.conv2d.default) == convolutions
    # Judged by the network that was trained, branches and all: in float64, and no further from that
    # than the network itself is in float32 (1.4e-4 for a MobileOne that has learnt nothing).
    images = torch.from_numpy(tiny_preprocess().normalize(pixels[:2]))
    with torch.no_grad():
        truth = copy.deepcopy(network).double()(images.double())
        own = network(images)
        outputs = program.module()(torch.from_numpy(pixels[:2]).float())
    for value, plain, exact in zip(outputs, own, truth, strict=True):
        assert plain is not None
        assert exact is not None
        noise = relative_error(plain.numpy(), exact.numpy())
        assert relative_error(value.numpy(), exact.numpy()) < 3 * noise + 1e-6
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_student_without_a_head_has_one_output() -> None:
    program = build_program(tiny_student(head=False), tiny_preprocess())
    assert output_names(program) == ("embedding",)


def test_batch_norm_dropout_and_in_place_operators_are_gone() -> None:
    program = build_program(tiny_student(trained=False, drop_rate=0.2), tiny_preprocess())
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in targets if "batch_norm" in name or "dropout" in name]
    assert not [name for name in targets if name.split(".")[1].endswith("_")]


@pytest.mark.slow
def test_what_depends_on_constants_alone_is_computed_once(pixels: Pixels) -> None:
    """A table of positions resized to the photo: neither Core ML nor ONNX has that resize."""
    program = build_program(tiny_student("test_vit", trained=False, img_size=32), tiny_preprocess())
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    assert not [node.name for node in nodes if "bicubic" in node.name]


def test_exporting_leaves_the_network_as_it_was() -> None:
    network = tiny_student(trained=False).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    build_program(network, tiny_preprocess())
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_fixed_batch_is_fixed(pixels: Pixels) -> None:
    module = build_program(tiny_student(trained=False), tiny_preprocess(), batch=1).module()
    assert module(torch.from_numpy(pixels[:1]).float())[0].shape[0] == 1
    with pytest.raises((AssertionError, RuntimeError)):
        module(torch.from_numpy(pixels[:2]).float())


def test_a_batch_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="batch is 0"):
        build_program(tiny_student(trained=False), tiny_preprocess(), batch=0)


def test_layers_keep_their_names_when_the_program_is_taken_apart() -> None:
    program = build_program(tiny_student(trained=False), tiny_preprocess())
    names = [node.name for node in program.graph.nodes if "conv2d" in node.name]
    again = [node.name for node in float_graph(program).graph.nodes if "conv2d" in node.name]
    assert names
    assert names == again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [("test_nfnet", {}), ("test_vit", {"global_pool": "map", "img_size": 64})],
)
def test_what_a_network_computes_of_its_weights_is_folded(
    name: str, kwargs: dict[str, Any]
) -> None:
    # Weight standardisation is a batch norm in training mode; its folded node was left behind, and
    # the export refused the network for it.
    torch.manual_seed(0)
    network = build_student(Architecture(name=name, kwargs=kwargs), num_classes=4).eval()
    preprocess = Preprocess(image_size=64, resize=64)
    program = build_program(network, preprocess)
    targets = {node.target for node in program.graph.nodes}
    assert torch.ops.aten.batch_norm.default not in targets
    pixels = np.random.default_rng(0).integers(0, 255, (3, 3, 64, 64), dtype=np.uint8)
    with torch.no_grad():
        found = program.module()(torch.from_numpy(pixels).float())
        wanted = network(torch.from_numpy(preprocess.normalize(pixels)))
    for value, reference in zip(found, wanted, strict=True):
        assert relative_error(value.numpy(), reference.numpy()) < 1e-5


@pytest.mark.slow
def test_the_query_of_an_attention_pool_is_no_layer_of_the_program() -> None:
    # Core ML computes it while converting: "43 layers were meant to be int8, the package has 42".
    kwargs = {"global_pool": "map", "img_size": 64}
    torch.manual_seed(0)
    network = build_student(Architecture(name="test_vit", kwargs=kwargs), num_classes=4).eval()
    layers = sum(isinstance(part, torch.nn.Linear) for part in network.modules())
    program = build_program(network, Preprocess(image_size=64, resize=64))
    linear = [n for n in program.graph.nodes if n.target is torch.ops.aten.linear.default]
    assert len(linear) == layers - 1


class _InFloat32(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor]:
        with torch.autocast(device_type=image.device.type, enabled=False):
            squares = image.square()
        steps = torch.arange(4, dtype=torch.float32) / 4
        return (squares.mean((2, 3)) + steps[:3],)


class _Folded(nn.Module):
    """Windows of a photo, taken and put back where they overlap."""

    def __init__(self, *window: Any) -> None:
        super().__init__()
        self.window = window

    def forward(self, image: Tensor) -> tuple[Tensor]:
        columns = F.unfold(image, *self.window)
        return (F.fold(columns.relu(), image.shape[2:], *self.window),)


@pytest.mark.parametrize(
    "window", [(3, 1, 1, 2), ((3, 2), (1, 2), (1, 0), (2, 1)), (2, 1, 0, 2), (3, 1, 1, 3)], ids=str
)
@pytest.mark.parametrize("batch", ["dynamic", 1])
def test_a_fold_is_a_transposed_convolution(window: Any, batch: Batch) -> None:
    """Formats lack `col2im`. Rows that no whole window reaches are zeros."""
    network = _Folded(*window)
    traced = trace(network, torch.zeros(2 if batch == "dynamic" else 1, 3, 9, 11), batch=batch)
    graph = float_graph(traced)
    targets = {node.target for node in graph.graph.nodes}
    assert torch.ops.aten.conv_transpose2d.input in targets
    assert torch.ops.aten.col2im.default not in targets
    program = rebuild(graph, traced)
    assert program is not None
    photos = torch.randn(5 if batch == "dynamic" else 1, 3, 9, 11)
    found = program.module(check_guards=False)(photos)[0]
    torch.testing.assert_close(found, network(photos)[0])


class _AddedProduct(nn.Module):
    """Of photos alone, and with weights in another shape, as GRN has it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.5, 2.0, 3.0]))

    def forward(self, image: Tensor) -> tuple[Tensor]:
        row = image.mean((2, 3), keepdim=True)
        weight = self.weight.view(1, -1, 1, 1)
        added = torch.addcmul(image, row, image, value=0.5)
        return (added + torch.addcmul(weight * 2, weight, image),)


def test_an_added_product_is_a_product_and_a_sum() -> None:
    traced = trace(_AddedProduct(), example_input(8, batch="dynamic"), batch="dynamic")
    graph = float_graph(traced)
    assert torch.ops.aten.addcmul.default not in {node.target for node in graph.graph.nodes}
    photos = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(graph(photos)[0], _AddedProduct()(photos)[0])
    assert rebuild(graph, traced) is not None


def test_what_runs_outside_of_autocast_is_part_of_the_graph() -> None:
    # LiteRT refused it as an operator of its own, and no layer in it was seen by any target.
    example = torch.rand(1, 3, 4, 4)
    graph = float_graph(trace(_InFloat32(), example, batch=1))
    kinds = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert kinds == [
        torch.ops.aten.square.default, torch.ops.aten.mean.dim,
        torch.ops.aten.flatten.using_ints, torch.ops.aten.add.Tensor,
    ]  # fmt: skip
    torch.testing.assert_close(graph(example), _InFloat32()(example))


class Positions(nn.Module):
    """A photo's layer, and one of a table of positions alone, as EdgeNeXt has; pooled to (N, 8)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.photo = nn.Conv2d(3, 8, 3, padding=1)
        self.position = nn.Conv2d(4, 8, 1)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        rows = torch.zeros(image.shape[0], 4, 16, 16) + torch.arange(16).view(16, 1)
        return ((self.photo(image) + self.position(rows.sin())).mean((2, 3)),)


def test_tables_of_positions_are_computed_once_where_the_batch_is_fixed() -> None:
    network, image = Positions(), torch.rand(2, 3, 16, 16)
    cases: list[tuple[Batch, int]] = [("dynamic", 2), (2, 1)]
    for batch, convolutions in cases:
        graph = float_graph(trace(network, example_input(16, batch=batch), batch=batch))
        targets = [node.target for node in graph.graph.nodes]
        assert torch.ops.aten.arange.default not in targets
        assert (torch.ops.aten.zeros.default in targets) == (batch == "dynamic")
        assert targets.count(torch.ops.aten.conv2d.default) == convolutions
        torch.testing.assert_close(graph(image)[0], network(image)[0])


def test_a_mean_over_height_and_width_is_a_pooling() -> None:
    # ONNX Runtime has no integers for one that drops its axes; RepViT was refused for it.
    network, image = Positions(), torch.rand(3, 3, 16, 16)
    graph = float_graph(trace(network, example_input(16, batch="dynamic"), batch="dynamic"))
    (mean,) = graph.graph.find_nodes(op="call_function", target=torch.ops.aten.mean.dim)
    assert mean.args[1:] == ([2, 3], True)
    assert [user.target for user in mean.users] == [torch.ops.aten.flatten.using_ints]
    torch.testing.assert_close(graph(image)[0], network(image)[0], rtol=0, atol=0)
