import torch
from torch import nn

from edgeseed.export.quantize.calibration import _Seer, _somewhere


class _Uneven(nn.Module):
    """Reads its second input ten times as strongly as its first, and its third not at all."""

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor]:
        doubled = values * 2
        return (doubled @ torch.tensor([[1.0, 0.0], [0.0, 10.0], [0.0, 0.0]]),)


def test_squared_gradients_are_how_far_the_outputs_move() -> None:
    graph = torch.export.export(_Uneven(), (torch.zeros(4, 3),)).module()
    name = next(node.name for node in graph.graph.nodes if "mul" in node.name)
    generator = torch.Generator().manual_seed(0)
    seer = _Seer(graph, [name])
    total = torch.zeros(3)
    for _ in range(400):
        values = torch.randn(4, 3, generator=generator).requires_grad_()
        seer.run(values)
        (gradient,) = torch.autograd.grad(
            _somewhere(seer.outputs[0], generator), [seer.values[name]]
        )
        size = seer.outputs[0].detach().square().mean()
        total += (gradient.square() * size).mean(dim=0) / 400
    # The diagonal of J^T J.
    torch.testing.assert_close(total, torch.tensor([1.0, 100.0, 0.0]), rtol=0.15, atol=0)
