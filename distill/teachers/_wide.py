"""ResNet-50s that are wider everywhere, as SwAV's w2, w4 and w5 (arXiv 2006.09882)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from edgeseed.core.errors import ArtifactError


def is_wide_name(name: str) -> bool:
    """Whether `name` is one of SwAV's wide networks, such as `resnet50w2`."""
    return re.fullmatch(r"resnet50w\d", name) is not None


def build_wide_resnet(weights: Mapping[str, torch.Tensor], *, path: Path) -> nn.Module:
    """Builds the network whose widths the weights show: timm's ResNet, with a stem that it lacks.

    Raises:
        ArtifactError: If the weights are no ResNet with bottlenecks.
    """
    try:
        stem = weights["conv1.weight"].shape[0]
        channels = tuple(
            weights[f"layer{stage}.0.conv3.weight"].shape[0] // 4 for stage in (1, 2, 3, 4)
        )
        bottleneck = weights["layer1.0.conv1.weight"].shape[0]
    except KeyError as error:
        raise ArtifactError(f"{path} is no ResNet with bottlenecks: it has no {error}") from error
    network: Any = timm.create_model(
        "resnet50", num_classes=0, channels=channels, base_width=64 * bottleneck // channels[0]
    )
    network.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(stem)
    first = network.layer1[0]
    first.conv1 = nn.Conv2d(stem, bottleneck, 1, bias=False)
    first.downsample[0] = nn.Conv2d(stem, 4 * channels[0], 1, bias=False)
    return network  # type: ignore[no-any-return]  # timm is untyped
