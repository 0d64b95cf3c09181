"""Wide ResNets are known by their weights."""

from pathlib import Path
from typing import Any

from support.teachers import SIZE, check_teacher, prefixed, random_network, save_checkpoint
from torch import nn

from edgeseed.distill.teachers import load_teacher


def test_wide_swav_networks_are_built_from_the_shapes_of_their_weights(tmp_path: Path) -> None:
    network: Any = random_network("resnet50", channels=(32, 64, 96, 128))
    network.conv1 = nn.Conv2d(3, 24, 7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(24)
    network.layer1[0].conv1 = nn.Conv2d(24, 32, 1, bias=False)
    network.layer1[0].downsample[0] = nn.Conv2d(24, 128, 1, bias=False)
    path = save_checkpoint(tmp_path / "w.pth", prefixed("module.", network.state_dict()))
    teacher = load_teacher(f"resnet50w2={path}", image_size=SIZE)
    check_teacher(teacher, network.eval())
    assert teacher.embedding_dim == 512
