"""Networks and heads as files of teachers hold them."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from edgeseed.distill.teachers import Teacher

State = dict[str, Tensor]


SIZE = 64


def random_network(name: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    network: Any = timm.create_model(name, num_classes=0, **kwargs).eval()
    with torch.no_grad():  # so that no weight, bias or statistic is at a value that hides a mistake
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name_, buffer in network.named_buffers():
            if name_.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
    return network


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def save_checkpoint(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def random_images(size: int = SIZE) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def plain_mlp(
    *sizes: int, batch_norm: bool = False, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(inputs, outputs))
        if index < len(sizes) - 2:
            layers += [nn.BatchNorm1d(outputs)] if batch_norm else []
            layers.append(activation())
    return nn.Sequential(*layers).eval()


def dino_head(dim: int, num_prototypes: int = 7) -> tuple[State, Callable[[Tensor], Tensor]]:
    """A head as DINO saves it, and its literal formula."""
    mlp = plain_mlp(dim, 12, 12, 5, activation=nn.GELU)
    gain, direction = torch.rand(num_prototypes, 1) + 0.5, torch.randn(num_prototypes, 5)
    state = prefixed("mlp.", mlp.state_dict())
    state |= {"last_layer.weight_g": gain, "last_layer.weight_v": direction}

    def literal(embedding: Tensor) -> Tensor:
        hidden = mlp(embedding)
        hidden = hidden / hidden.square().sum(1, keepdim=True).sqrt()
        rows = gain * direction / direction.square().sum(1, keepdim=True).sqrt()
        scores: Tensor = hidden @ rows.T
        return scores

    return state, literal


def check_teacher(teacher: Teacher, network: Any, *, size: int = SIZE) -> None:
    torch.testing.assert_close(teacher(random_images(size)).embedding, network(random_images(size)))
