"""SimCLRv2's networks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.teachers import SIZE, prefixed, random_images, save_checkpoint
from torch import nn

from edgeseed.distill.teachers import load_teacher
from edgeseed.distill.teachers._simclr import SelectiveKernel, SimclrResNet, build_simclr


@pytest.mark.slow
def test_simclrv2_sees_pixels_without_mean_and_std(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_simclr("simclrv2_r50_1x_sk0").eval()
    layers: list[nn.Module] = []
    for outputs in (2048, 2048, 128):
        layers += [nn.Linear(2048, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    head = nn.Sequential(*layers[:-1]).eval()
    fc = nn.Linear(2048, 1000)
    content = {
        "resnet": {**network.state_dict(), **prefixed("fc.", fc.state_dict())},
        "head": prefixed("layers.", head.state_dict()),
    }
    path = save_checkpoint(tmp_path / "r50_1x_sk0.pth", content)
    teacher = load_teacher(f"simclrv2_r50_1x_sk0={path}", image_size=SIZE)
    assert (teacher.preprocess.mean, teacher.preprocess.std) == ((0.0,) * 3, (1.0,) * 3)
    output = teacher(random_images())
    torch.testing.assert_close(output.embedding, network(random_images()).embedding)
    assert teacher.head_kind == "projection"
    embedding = torch.randn(2, 2048)
    torch.testing.assert_close(teacher.heads["projection"](embedding), head(embedding))
    torch.testing.assert_close(teacher.heads["classifier"](embedding), fc(embedding))


@torch.no_grad()
def test_selective_kernels_follow_their_formula() -> None:
    torch.manual_seed(0)
    layer = SelectiveKernel(4, stride=1).eval()
    images = torch.randn(2, 4, 5, 5)
    branches = layer.main_conv(images)
    first, second = branches[:, :4], branches[:, 4:]
    mixing = layer.mixing_conv((first + second).mean(dim=(2, 3), keepdim=True))
    expected = torch.empty_like(first)
    for photo in range(2):
        for channel in range(4):
            a, b = (float(mixing[photo, channel + offset]) for offset in (0, 4))
            share = np.exp(a) / (np.exp(a) + np.exp(b))
            expected[photo, channel] = (
                share * first[photo, channel] + (1 - share) * second[photo, channel]
            )
    torch.testing.assert_close(layer(images), expected)


def test_simclr_networks_have_the_published_sizes() -> None:
    # README of google-research/simclr: 24 M and 35 M, which count the 1000-way classifier (2 M).
    for selective, millions in ((False, 24), (True, 35)):
        network = SimclrResNet((3, 4, 6, 3), width=1, selective=selective)
        count = sum(parameter.numel() for parameter in network.parameters()) + 2048 * 1000 + 1000
        assert round(count / 1e6) == pytest.approx(millions, abs=2)
