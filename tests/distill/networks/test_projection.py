"""The first layer of a projection head: read with its norm, and folded into one layer."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from edgeseed.core.network import ProjectedTrunk, StudentNetwork
from edgeseed.distill.heads import mlp
from edgeseed.distill.networks.projection import fold_projection, read_first_projection
from edgeseed.distill.networks.students import create_student


def _save_head(path: Path, head: nn.Module, name: str = "projection") -> None:
    save_file({f"{name}.{key}": value for key, value in head.state_dict().items()}, path)


def test_the_first_layer_is_read_with_its_norm_and_folded_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = mlp(96, 24, 8, norm="batch")
    norm: Any = head[1]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2.0)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    _save_head(tmp_path / "heads.safetensors", head)
    first = read_first_projection(tmp_path / "heads.safetensors", embedding_dim=96)
    pooled = torch.randn(5, 96)
    expected = head.eval()[:3](pooled)
    torch.testing.assert_close(torch.relu(first.eval()(pooled)), expected)
    trunk = ProjectedTrunk(create_student("test_resnet", seed=0)[0].backbone, 24)
    trunk.projection = first
    network = StudentNetwork(trunk)
    fold_projection(network)
    assert isinstance(trunk.projection, nn.Linear)
    torch.testing.assert_close(torch.relu(trunk.projection(pooled)), expected, atol=1e-5, rtol=1e-4)
