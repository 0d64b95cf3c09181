"""Small networks on top of an embedding that training needs and the shipped student leaves out."""

import itertools
from typing import Literal

from torch import nn

Activation = Literal["relu", "gelu"]
Norm = Literal["batch", "layer", "none"]


def mlp(
    *dims: int,
    activation: Activation = "relu",
    norm: Norm = "none",
    hidden_bias: bool | None = None,
    output_bias: bool = True,
    output_norm: bool = False,
) -> nn.Sequential:
    """Linear layers with a norm and an activation between them.

    Args:
        dims: Widths: input, hidden ones, output.
        activation: After each hidden layer.
        norm: Before each activation.
        hidden_bias: Whether hidden layers have a bias; None has it where no norm would undo it.
        output_bias: Whether the last layer has one.
        output_norm: Whether `norm` also follows the last layer.
    """
    if hidden_bias is None:
        hidden_bias = norm == "none"
    layers: list[nn.Module] = []
    for width_in, width_out in itertools.pairwise(dims[:-1]):
        layers += [nn.Linear(width_in, width_out, bias=hidden_bias), *_norm(norm, width_out)]
        layers.append(nn.ReLU() if activation == "relu" else nn.GELU())
    layers.append(nn.Linear(dims[-2], dims[-1], bias=output_bias))
    if output_norm:
        layers += _norm(norm, dims[-1])
    return nn.Sequential(*layers)


def _norm(norm: Norm, width: int) -> list[nn.Module]:
    if norm == "none":
        return []
    return [nn.BatchNorm1d(width) if norm == "batch" else nn.LayerNorm(width)]
