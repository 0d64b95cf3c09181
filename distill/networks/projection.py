"""The first layer of a pre-training head, kept as part of the network as SimCLRv2 does."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from edgeseed.core.errors import ArtifactError, UsageError
from edgeseed.core.network import ProjectedTrunk, StudentNetwork
from edgeseed.distill.teachers.heads import below, mlp_from_weights


def projection_width(projection: nn.Sequential) -> int:
    """Units of the layer."""
    linear = projection[0]
    assert isinstance(linear, nn.Linear)
    return linear.out_features


def read_first_projection(path: Path, *, embedding_dim: int) -> nn.Sequential:
    """The first layer of a saved projection head: a Linear, and its BatchNorm if it has one.

    Args:
        path: `heads.safetensors` of the run that pretrained the student.
        embedding_dim: What the layer must take.

    Raises:
        UsageError: If there is no such file.
        ArtifactError: If it is broken, or holds no such head.
    """
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist; the projection head of the student's run was expected beside "
            "the student file"
        )
    try:
        weights = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file ({error})") from error
    fitting = {
        name: mlp
        for name in sorted({key.partition(".")[0] for key in weights})
        if (mlp := _as_mlp(below(weights, f"{name}."), embedding_dim)) is not None
    }
    if len(fitting) != 1:
        found = ", ".join(fitting) or "none"
        raise ArtifactError(
            f"{path}: one MLP on embeddings of {embedding_dim} was expected, found: {found}"
        )
    layers = list(next(iter(fitting.values())).children())
    norm = [layers[1]] if isinstance(layers[1], nn.BatchNorm1d) else []
    return nn.Sequential(layers[0], *norm)


def _as_mlp(weights: Mapping[str, Tensor], embedding_dim: int) -> nn.Sequential | None:
    try:
        network = mlp_from_weights(weights, activation=nn.ReLU)
    except (ArtifactError, RuntimeError, KeyError):
        return None
    is_on_embedding = (
        isinstance(network, nn.Sequential)
        and len(network) > 1
        and isinstance(network[0], nn.Linear)
        and network[0].in_features == embedding_dim
    )
    return network if is_on_embedding and isinstance(network, nn.Sequential) else None


def fold_projection(network: StudentNetwork) -> None:
    """Makes one Linear of a projection and its BatchNorm, exactly, for the network in eval mode."""
    trunk = network.backbone
    if not isinstance(trunk, ProjectedTrunk) or not isinstance(trunk.projection, nn.Sequential):
        return
    linear, *norms = trunk.projection
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.detach().double()
    bias = (
        torch.zeros(len(weight)).to(weight)
        if linear.bias is None
        else linear.bias.detach().double()
    )
    for norm in norms:
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = weight * scale[:, None]
        bias = (bias - norm.running_mean.double()) * scale + norm.bias.detach().double()
    folded = nn.Linear(linear.in_features, linear.out_features).to(linear.weight.device)
    folded.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    trunk.projection = folded
