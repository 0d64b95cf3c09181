"""Heads have the layers that papers describe."""

import torch
from torch import nn

from edgeseed.distill.heads import mlp


def kinds(*args: int, **kwargs: object) -> list[str]:
    return [type(layer).__name__ for layer in mlp(*args, **kwargs)]  # type: ignore[arg-type]


def test_plain_head_is_seeds() -> None:
    head = mlp(8, 8, 4)
    assert [type(layer).__name__ for layer in head] == ["Linear", "ReLU", "Linear"]
    assert head(torch.zeros(2, 8)).shape == (2, 4)


def test_norms_stand_before_activations_and_take_the_bias() -> None:
    head = mlp(8, 16, 16, 4, norm="batch", output_bias=False, output_norm=True)
    assert [type(layer).__name__ for layer in head] == [
        "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d",
    ]  # fmt: skip
    linears = [layer for layer in head if isinstance(layer, nn.Linear)]
    assert [layer.bias is None for layer in linears] == [True, True, True]


def test_layer_norm_and_gelu_are_to_be_had() -> None:
    assert kinds(8, 16, 4, norm="layer", activation="gelu") == [
        "Linear", "LayerNorm", "GELU", "Linear",
    ]  # fmt: skip


def test_one_layer_is_a_linear_map() -> None:
    assert kinds(8, 4) == ["Linear"]
