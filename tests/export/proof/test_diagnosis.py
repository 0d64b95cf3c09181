"""What is said of a layer whose values are wrong."""

import numpy as np
import pytest
import torch
from torch import fx, nn

from edgeseed.core.records import QuantizationRecord
from edgeseed.export.program import trace
from edgeseed.export.proof.diagnosis import _describe, _Replay


def test_values_whose_squares_float32_does_not_hold_are_described_without_a_warning() -> None:
    truth = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    assert "off by a constant" in _describe(truth + np.float32(1e30), truth)


@pytest.mark.parametrize(("stored", "beyond"), [("uint8", False), ("uint16", True), ("", False)])
def test_an_error_is_held_to_the_steps_that_the_model_stores_in(stored: str, beyond: bool) -> None:
    # Half a percent: twice what eight bits of the input cost, and 500 times what sixteen do. The
    # weight of the channel that is not zero is a whole number of steps.
    layer = nn.Conv2d(2, 1, 1, bias=False)
    layer.weight.data = torch.tensor([1.0, 128 / 255]).view(1, 2, 1, 1)
    program = trace(layer, torch.zeros(1, 2, 16, 16), batch=1).module(check_guards=False)
    assert isinstance(program, fx.GraphModule)
    (name,) = [node.name for node in program.graph.nodes if node.op == "call_function"]
    image = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(0)) * 255
    image[:, 0] = 0
    with torch.inference_mode():
        found = 1.005 * layer(image).numpy()
    record = QuantizationRecord(scheme="x86", activations=stored)
    replay = _Replay(program, {name: found}, record if stored else None)
    with torch.inference_mode():
        replay.run(image)
    assert replay.is_beyond_rounding(name) is beyond
