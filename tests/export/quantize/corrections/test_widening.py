import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import tiny_preprocess, tiny_student

from edgeseed.export.program import build_program, constant, float_graph
from edgeseed.export.quantize.corrections.widening import widen_channels


@pytest.mark.slow
def test_widening_changes_shapes_and_no_number(pixels: npt.NDArray[np.uint8]) -> None:
    """MobileNetV3-small: 72 and 88 channels, squeeze-and-excitation and hard-swish among them."""
    network = tiny_student("mobilenetv3_small_100", trained=False)
    graph = float_graph(build_program(network, tiny_preprocess()))
    image = torch.from_numpy(pixels[:4]).float()
    with torch.no_grad():
        before = graph(image)
        widened = widen_channels(graph, multiple=16)
        after = graph(image)
    assert len(widened) == 3
    for value, truth in zip(after, before, strict=True):
        assert float((value - truth).abs().max()) < 1e-5 * float(truth.abs().max())
    depthwise = [node for node in graph.graph.nodes if node.name in widened]
    assert all(constant(graph, node.args[1]).shape[0] % 16 == 0 for node in depthwise)


def test_a_network_that_fits_is_left_alone() -> None:
    graph = float_graph(build_program(tiny_student(trained=False), tiny_preprocess()))
    before = [node.name for node in graph.graph.nodes]
    assert widen_channels(graph, multiple=1) == []
    assert before == [node.name for node in graph.graph.nodes]
