"""A rebuilt program is the one that tracing its graph gives, name by name."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import tiny_preprocess, tiny_student
from support.families import FAMILIES
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from edgeseed.core.network import build_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture
from edgeseed.export.call import Batch
from edgeseed.export.program import (
    DeployableStudent,
    build_program,
    example_input,
    float_graph,
    module_name,
    trace,
)
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.rebuilding import rebuild
from edgeseed.export.samples import Photos
from edgeseed.export.targets.onnx.half import half_program


def facts(program: ExportedProgram) -> dict[str, Any]:
    """All of a program that an exporter can read."""
    return {
        "graph": str(program.graph),
        "signature": str(program.graph_signature),
        "state": list(program.state_dict),
        "constants": list(program.constants),
        "ranges": list(program.range_constraints.values()),
        "meta": program.graph_module.meta,
        "values": [
            (node.name, _value(node.meta.get("val")), module_name(node))
            for node in program.graph.nodes
        ],
    }


def _value(value: Any) -> Any:
    if isinstance(value, Tensor):
        # Symbols are numbered by the trace.
        sizes = [_size(each) for each in (*value.shape, *value.stride())]
        return sizes, value.dtype, value.requires_grad, type(value).__name__
    if isinstance(value, list | tuple):
        return [_value(each) for each in value]
    return type(value).__name__


def _size(size: Any) -> Any:
    return size if isinstance(size, int) else str(size)


def assert_same(rebuilt: ExportedProgram | None, graph: fx.GraphModule, batch: Batch) -> None:
    assert rebuilt is not None
    (example,) = rebuilt.example_inputs[0]
    traced = trace(graph, example, batch=batch)
    assert facts(rebuilt) == facts(traced)
    for name, value in traced.state_dict.items():
        # The very tensors: half a gigabyte is not there twice.
        assert rebuilt.state_dict[name] is value
    image = torch.rand(example.shape) * 255
    results = zip(rebuilt.module()(image), traced.module()(image), strict=True)
    assert all(torch.equal(ours, theirs) for ours, theirs in results)


def traced_student(
    name: str, batch: Batch, **kwargs: Any
) -> tuple[ExportedProgram, fx.GraphModule]:
    student = DeployableStudent(tiny_student(name, trained=False, **kwargs), tiny_preprocess())
    traced = trace(student, example_input(tiny_preprocess().shape, batch=batch), batch=batch)
    return traced, float_graph(traced)


@pytest.mark.parametrize("batch", ["dynamic", 1, pytest.param(3, marks=pytest.mark.slow)])  # as one
def test_a_rebuilt_program_is_what_tracing_gives(batch: Batch) -> None:
    traced, graph = traced_student("test_efficientnet", batch)
    assert_same(rebuild(graph, traced), graph, batch)


@pytest.mark.slow
def test_so_is_one_whose_shapes_depend_on_the_batch() -> None:
    traced, graph = traced_student("test_vit", "dynamic")
    assert any(node.target is torch.ops.aten.sym_size.int for node in graph.graph.nodes)
    assert_same(rebuild(graph, traced), graph, "dynamic")


class Query(nn.Module):
    """Asks each photo the same, as attention pools do: a layer that is computed at export."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query = nn.Parameter(torch.rand(1, 3, 8))
        self.linear = nn.Linear(8, 8)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        asked = self.linear(self.query.expand(image.shape[0], -1, -1))
        return (asked.permute(0, 2, 1) @ image.flatten(2),)


def test_shapes_behind_a_node_that_is_new_are_those_of_the_edited_graph() -> None:
    traced = trace(Query(), torch.zeros(2, 3, 4, 4), batch="dynamic")
    graph = float_graph(traced)
    assert "aten.linear" not in str(graph.graph)
    assert_same(rebuild(graph, traced), graph, "dynamic")


class Windows(nn.Module):
    """Makes three photos of one, as attention in windows makes many."""

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        colours = image.reshape(image.shape[0] * 3, 16)
        return ((colours * 2).reshape(image.shape[0], 48),)


class Adds(nn.Module):
    one: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return (image + self.one,)


@pytest.mark.parametrize("module", [Windows(), Adds()])
def test_what_has_more_in_it_is_left_to_tracing(module: nn.Module) -> None:
    traced = trace(module, torch.zeros(2, 3, 4, 4), batch="dynamic")
    assert rebuild(float_graph(traced), traced) is None


def test_a_batch_that_was_fixed_by_asking_is_left_to_tracing() -> None:
    traced = trace(Query(), torch.zeros(2, 3, 4, 4), batch="dynamic")
    graph = float_graph(traced)
    (image,) = graph.graph.find_nodes(op="placeholder")
    assert image.meta["val"].shape[0] == 2
    assert rebuild(graph, traced) is None


def test_a_program_for_float16_is_what_tracing_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = compare_rebuilt(monkeypatch, "edgeseed.export.targets.onnx.half.rebuild", 1)
    program = build_program(tiny_student(trained=False), tiny_preprocess(), batch=1)
    half = half_program(program, shape=tiny_preprocess().shape, batch=1)
    assert compared == [half]


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheme",
    [
        name if name == "x86" else pytest.param(name, marks=pytest.mark.slow)
        for name in SCHEMES.names()
    ],
)
def test_an_integer_program_is_what_tracing_gives(
    scheme: str, pixels: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "edgeseed.export.quantize.quantize.rebuild"
    compared = compare_rebuilt(monkeypatch, place, "dynamic")
    program = build_program(tiny_student(trained=False), tiny_preprocess())
    config = QuantizeConfig(calibrator="minmax", max_float_layers=0)
    made = quantize(
        program, SCHEMES.load(scheme), Photos(pixels=pixels[:16]), batch="dynamic", config=config
    )
    assert compared == [made.program]


def compare_rebuilt(
    monkeypatch: pytest.MonkeyPatch, place: str, batch: Batch
) -> list[ExportedProgram | None]:
    """Holds each program that is rebuilt at a place to the traced one; what was rebuilt there."""
    compared: list[ExportedProgram | None] = []

    def compare(graph: fx.GraphModule, traced: ExportedProgram, **options: Any) -> Any:
        compared.append(rebuild(graph, traced, **options))
        assert_same(compared[-1], graph, batch)
        return compared[-1]

    monkeypatch.setattr(place, compare)
    return compared


@pytest.mark.sweep  # above are a convolutional network and a transformer
@pytest.mark.parametrize("batch", ["dynamic", 1])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_rebuilt_of_each_family_is_what_tracing_gives(name: str, batch: Batch) -> None:
    family = FAMILIES[name]
    architecture = Architecture(name=family.name, kwargs=dict(family.kwargs))
    network = build_student(architecture, num_classes=4).eval()
    preprocess = Preprocess(image_size=family.size, resize=family.size)
    student = DeployableStudent(network, preprocess)
    traced = trace(student, example_input(family.size, batch=batch), batch=batch)
    graph = float_graph(traced)
    if (rebuilt := rebuild(graph, traced)) is not None:
        assert_same(rebuilt, graph, batch)
