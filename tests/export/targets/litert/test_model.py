"""A LiteRT file, opened for the gates: its layers by the program's names."""

from pathlib import Path
from typing import Any

import pytest
from support.export import tiny_preprocess
from support.litert import write

from edgeseed.core.agreement import relative_error
from edgeseed.core.network import StudentNetwork
from edgeseed.export.targets.litert.model import LiteRTModel

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install edgeseed[litert]")


def test_a_layer_is_shown_before_its_activation(
    network: StudentNetwork, tmp_path: Path, pixels: Any
) -> None:
    from edgeseed.export.proof.reference import comparable_graph, layer_names, layer_outputs

    graph = comparable_graph(network, tiny_preprocess(), None)
    names = layer_names(graph)
    model = LiteRTModel(write(network, tmp_path), precision="fp32", quantization=None)
    found, wanted = model.layers(pixels[:2], names), layer_outputs(graph, pixels[:2], names)
    assert len(found) >= len(names) - 1  # the last one has the output's name
    for name, values in found.items():
        assert relative_error(values, wanted[name]) < 1e-4, name
