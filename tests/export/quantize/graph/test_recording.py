import pytest
import torch
from torch import Tensor, fx, nn

from edgeseed.export.program import input_of
from edgeseed.export.quantize.graph.recording import Recorder


class Twice(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (image.mul(2).relu().add(1),)


@pytest.fixture
def graph() -> fx.GraphModule:
    module = torch.export.export(Twice(), (torch.zeros(2, 3),)).module()
    assert isinstance(module, fx.GraphModule)
    return module


def test_only_the_nodes_that_were_named_are_shown_and_nothing_changes(
    graph: fx.GraphModule,
) -> None:
    seen: dict[str, Tensor] = {}

    def see(node: fx.Node, value: Tensor) -> None:
        seen[node.name] = value

    image = torch.tensor([[-1.0, 0.0, 3.0]] * 2)
    (result,) = Recorder(graph, ["relu", "not there"], see=see).run(image)
    assert seen.keys() == {"relu"}
    torch.testing.assert_close(seen["relu"], torch.tensor([[0.0, 0.0, 6.0]] * 2))
    torch.testing.assert_close(result, seen["relu"] + 1)


def test_what_is_given_back_takes_the_values_place(graph: fx.GraphModule) -> None:
    recorder = Recorder(graph, ["relu"], see=lambda node, value: value * 10)
    (result,) = recorder.run(torch.ones(2, 3))
    torch.testing.assert_close(result, torch.full((2, 3), 21.0))


def test_inputs_are_shown_before_the_node_writes_over_them(graph: fx.GraphModule) -> None:
    (node,) = [item for item in graph.graph.nodes if item.name == "relu"]
    node.target = torch.ops.aten.relu_.default
    graph.recompile()
    before: list[Tensor] = []
    recorder = Recorder(
        graph, ["relu"], see_inputs=lambda n, values: before.append(values[input_of(n)].clone())
    )
    recorder.run(torch.full((2, 3), -1.0))
    torch.testing.assert_close(before[0], torch.full((2, 3), -2.0))
