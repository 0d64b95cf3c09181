"""Layers that stay in float have their weights in bytes, where that loses nothing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from support.export import tiny_preprocess, tiny_student

from edgeseed.core.bundle import read_bundle
from edgeseed.export import export
from edgeseed.export.program import build_program, constant, float_graph, input_of
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.corrections.byte_weights import (
    SMALLEST,
    float_layers,
    layers_worth_bytes,
    with_byte_weights,
)
from edgeseed.export.quantize.graph.layout import plan_layout
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.scheme import INT8_SYMMETRIC
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos
from edgeseed.export.targets.onnx.byte_weights import pack


@pytest.fixture
def graph() -> torch.fx.GraphModule:
    return float_graph(build_program(tiny_student(), tiny_preprocess()))


def test_only_large_layers_in_float_are_looked_at(graph: torch.fx.GraphModule) -> None:
    everything = plan_layout(graph.graph, SCHEMES.load("arm"))
    assert float_layers(graph, everything) == []
    chosen = dict.fromkeys(everything.layers, "for the test")
    layout = plan_layout(graph.graph, SCHEMES.load("arm"), keep_float=chosen)
    found = float_layers(graph, layout)
    nodes = {node.name: node for node in graph.graph.nodes}
    sizes = [constant(graph, input_of(nodes[name], 1)).numel() for name in found]
    assert sizes == sorted(sizes, reverse=True)
    assert min(sizes) >= SMALLEST
    weights = [constant(graph, input_of(nodes[name], 1)) for name in everything.layers]
    # But for the stem, which reads the photo.
    assert len(found) == sum(weight.numel() >= SMALLEST for weight in weights[1:]) > 0


def test_the_weights_are_on_a_grid_that_the_file_can_hold(graph: torch.fx.GraphModule) -> None:
    layers = plan_layout(graph.graph, SCHEMES.load("arm")).layers
    changed = with_byte_weights(graph, layers, INT8_SYMMETRIC)
    before, after = ({n.name: n for n in made.graph.nodes} for made in (graph, changed))
    for name in layers:
        old = constant(graph, input_of(before[name], 1)).numpy()
        new = constant(changed, input_of(after[name], 1)).numpy()
        integers, scales = pack(new, axis=0)
        np.testing.assert_allclose(integers * scales, new, rtol=1e-6)
        assert np.linalg.norm(new - old) < 0.02 * np.linalg.norm(old)


@pytest.mark.parametrize(
    ("harmful", "expected"),
    [((), ("a", "b", "c")), (("b",), ("a", "c")), (("a", "b", "c"), ())],
)
def test_a_layer_that_would_lose_keeps_its_weights(
    harmful: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    def loses(layers: Sequence[str]) -> bool:
        return not set(layers).isdisjoint(harmful)

    assert layers_worth_bytes(["a", "b", "c"], loses) == expected


# Traces and quantizes a network of its own. Above, a layer that would lose keeps its weights.
@pytest.mark.slow
def test_coarse_bytes_are_not_taken(pixels: npt.NDArray[np.uint8]) -> None:
    """A weight that is hundreds of times the others of its row leaves them no steps."""
    network = tiny_student()
    assert network.head is not None
    with torch.no_grad():
        network.head.weight[:, 0] = 400 * network.head.weight.abs().max()
    program = build_program(network, tiny_preprocess())
    plain = float_graph(program)
    names = plan_layout(plain.graph, SCHEMES.load("arm")).layers
    floats = dict.fromkeys(names, "for the test")
    found = quantize(
        program, SCHEMES.load("arm"), Photos(pixels=pixels), batch="dynamic", keep_float=floats,
        config=QuantizeConfig(calibrator="minmax", max_float_layers=0),
    ).record["byte_weights"]  # fmt: skip
    assert found
    assert names[-1] not in found


@pytest.mark.slow
def test_a_bundle_with_float_layers_is_smaller_and_decides_the_same(
    student: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: Any = {
        "precision": "int8", "calibration": photos, "keep_float": [".*"], "min_agreement": 0.9,
        "quantization": {"max_float_layers": 0}, "speed": False,
    }  # fmt: skip
    made = export(student, out=tmp_path / "bytes", **arguments)
    record = read_bundle(tmp_path / "bytes").manifest.quantization
    assert record is not None
    assert record.byte_weights
    graph = onnx.load(tmp_path / "bytes/model.onnx").graph
    stored = [item for item in graph.initializer if item.name.endswith("_bytes")]
    assert len(stored) == len(record.byte_weights)

    monkeypatch.setattr("edgeseed.export.quantize.quantize.float_layers", lambda *_: [])
    plain = export(student, out=tmp_path / "plain", **arguments)
    saved = sum(3 * np.prod(item.dims) for item in stored)
    assert plain.size_bytes - made.size_bytes > 0.5 * saved
    agreement = [
        next(g.value for g in r.gates if g.name == "top1_agreement") for r in (made, plain)
    ]
    assert agreement[0] >= agreement[1]
