"""Projection heads, rebuilt from nothing but the names and shapes of their saved weights."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from edgeseed.core.errors import ArtifactError

Weights = Mapping[str, torch.Tensor]
_BATCH_NORM_EPS = 1e-5


class FrozenDinoHead(nn.Module):
    """The head of DINO, iBOT and EsViT: MLP, L2 norm, linear layer of unit-norm rows times a gain.

    Emerging Properties in Self-Supervised Vision Transformers, 2021, arXiv 2104.14294. The weight
    norm
    is multiplied out: a frozen head needs no parametrisation.
    """

    def __init__(self, mlp: nn.Module, last_layer: nn.Linear) -> None:
        super().__init__()
        self.mlp = mlp
        self.last_layer = last_layer

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        """Maps (B, D) embeddings (or region features) to (B, K) prototype scores."""
        scores: torch.Tensor = self.last_layer(F.normalize(self.mlp(embedding), dim=-1))
        return scores


class MultiPrototypes(nn.Module):
    """SwAV's prototypes where several sets were learnt at once; their scores stand side by side."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, projection: torch.Tensor) -> torch.Tensor:
        """Maps (B, D) normalised projections to (B, K1 + K2 + ...) scores."""
        return torch.cat([layer(projection) for layer in self.layers], dim=1)


def below(weights: Weights, prefix: str) -> dict[str, torch.Tensor]:
    """The weights whose names start with `prefix`, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def mlp_from_weights(weights: Weights, *, activation: type[nn.Module]) -> nn.Module:
    """Rebuilds a `Linear` or a `Sequential` of Linear, BatchNorm1d and activations.

    A saved Sequential names its layers by index and its activations not at all, so each index that
    has no weights is an activation.

    Args:
        weights: Such as `{"0.weight", "0.bias", "1.running_mean", ..., "3.weight"}`, or one
        layer's own.
        activation: What stands at the indices without weights.

    Raises:
        ArtifactError: If the weights are no such MLP.
    """
    if "weight" in weights:
        return _linear(weights)
    if not weights or any(not name.split(".")[0].isdigit() for name in weights):
        raise ArtifactError(
            f"a head with the weights {', '.join(sorted(weights))} is no MLP that edgeseed knows"
        )
    indices = sorted({int(name.split(".")[0]) for name in weights})
    layers: list[nn.Module] = [activation() for _ in range(indices[-1] + 1)]
    for index in indices:
        layers[index] = _layer(below(weights, f"{index}."))
    return nn.Sequential(*layers)


def _layer(weights: Weights) -> nn.Module:
    return _batch_norm(weights) if "running_mean" in weights else _linear(weights)


def _linear(weights: Weights) -> nn.Linear:
    weight = weights["weight"]
    if weight.ndim != 2:
        raise ArtifactError(
            f"a head's layer has a weight of shape {tuple(weight.shape)}; (out, in) was expected"
        )
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in weights)
    layer.load_state_dict(dict(weights))
    return layer


def _batch_norm(weights: Weights) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(
        weights["running_mean"].shape[0], eps=_BATCH_NORM_EPS, affine="weight" in weights
    )
    # Files from before PyTorch 0.4.1 do not count batches; in eval mode the count is not used.
    layer.load_state_dict({"num_batches_tracked": torch.tensor(0), **weights})
    return layer


def dino_head_from_weights(weights: Weights) -> FrozenDinoHead:
    """Rebuilds the head of DINO, iBOT and EsViT (`mlp.*`, `last_layer.*`)."""
    last = below(weights, "last_layer.")
    gain = last.get("weight_g", last.get("parametrizations.weight.original0"))
    direction = last.get("weight_v", last.get("parametrizations.weight.original1"))
    if gain is not None and direction is not None:
        weight = gain * F.normalize(direction, dim=1)
    elif set(last) == {"weight"}:
        weight = last["weight"]
    else:
        raise ArtifactError(
            f"a DINO head's last_layer holds {', '.join(sorted(last)) or 'nothing'}; weight_g and "
            "weight_v were expected"
        )
    mlp = mlp_from_weights(below(weights, "mlp."), activation=nn.GELU)
    return FrozenDinoHead(mlp, _linear({"weight": weight}))


def prototypes_from_weights(weights: Weights) -> nn.Module:
    """Rebuilds SwAV's prototypes (`weight`, or `prototypes0.weight` and on)."""
    if "weight" in weights:
        return _linear(weights)
    names = sorted(
        {name.split(".")[0] for name in weights},
        key=lambda name: int(name.removeprefix("prototypes")),
    )
    return MultiPrototypes([_linear(below(weights, f"{name}.")) for name in names])
