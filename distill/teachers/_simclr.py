"""The ResNets of SimCLRv2, with the names that conversions of its checkpoints to PyTorch use.

Big Self-Supervised Models are Strong Semi-Supervised Learners, 2020, arXiv 2006.10029. Width
multipliers,
and selective kernels (SK, arXiv 1903.06586) with the "D" stem and average-pooled shortcuts. timm
has no such
network, and its converted weights exist only in this layout.
"""

import re

import torch
import torch.nn.functional as F
from torch import nn

from edgeseed.distill.networks.features import Features

DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3), 200: (3, 24, 36, 3)}
_SK_RATIO = 0.0625
_SK_MIN_DIM = 32
_NAME = re.compile(r"simclrv2_r(50|101|152|200)_(\d)x_sk([01])")


def _conv(
    in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1
) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=(kernel_size - 1) // 2,
        bias=False,
    )


def _norm(channels: int, *, relu: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU() if relu else nn.Identity())


class SelectiveKernel(nn.Module):
    """Two 3x3 branches, mixed per channel by a softmax that looks at their pooled sum."""

    def __init__(self, channels: int, *, stride: int) -> None:
        super().__init__()
        hidden = max(int(channels * _SK_RATIO), _SK_MIN_DIM)
        self.main_conv = nn.Sequential(
            _conv(channels, 2 * channels, stride=stride), _norm(2 * channels)
        )
        self.mixing_conv = nn.Sequential(
            _conv(channels, hidden, kernel_size=1),
            _norm(hidden),
            _conv(hidden, 2 * channels, kernel_size=1),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) to (B, C, H / stride, W / stride)."""
        branches = torch.stack(self.main_conv(images).chunk(2, dim=1))  # 2 B C H W
        pooled = branches.sum(dim=0).mean(dim=(2, 3), keepdim=True)
        mixing = torch.stack(self.mixing_conv(pooled).chunk(2, dim=1)).softmax(dim=0)  # 2 B C 1 1
        return (branches * mixing).sum(dim=0)


class Shortcut(nn.Module):
    """The projection of a block whose shape changes."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, selective: bool
    ) -> None:
        super().__init__()
        self.shortcut: nn.Module = _conv(in_channels, out_channels, kernel_size=1, stride=stride)
        if selective:
            self.shortcut = nn.Sequential(
                nn.ZeroPad2d((0, 1, 0, 1)),  # TensorFlow's SAME padding of a 2x2 window
                nn.AvgPool2d(2, stride=stride),
                _conv(in_channels, out_channels, kernel_size=1),
            )
        self.bn = _norm(out_channels, relu=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) to the block's output shape."""
        projected: torch.Tensor = self.bn(self.shortcut(images))
        return projected


class Bottleneck(nn.Module):
    """1x1, 3x3 (or selective kernel), 1x1, around a shortcut."""

    def __init__(
        self, in_channels: int, channels: int, *, stride: int, selective: bool, project: bool
    ) -> None:
        super().__init__()
        self.projection: nn.Module = nn.Identity()
        if project:
            self.projection = Shortcut(
                in_channels, 4 * channels, stride=stride, selective=selective
            )
        middle: list[nn.Module] = [_conv(channels, channels, stride=stride), _norm(channels)]
        if selective:
            middle = [SelectiveKernel(channels, stride=stride)]
        self.net = nn.Sequential(
            _conv(in_channels, channels, kernel_size=1), _norm(channels), *middle,
            _conv(channels, 4 * channels, kernel_size=1), _norm(4 * channels, relu=False),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) to (B, 4 * channels, H / stride, W / stride)."""
        return F.relu(self.projection(images) + self.net(images))


class Stage(nn.Module):
    """Bottlenecks of one width; the first one changes the shape."""

    def __init__(
        self, num_blocks: int, in_channels: int, channels: int, *, stride: int, selective: bool
    ) -> None:
        super().__init__()
        first = Bottleneck(in_channels, channels, stride=stride, selective=selective, project=True)
        others = [
            Bottleneck(4 * channels, channels, stride=1, selective=selective, project=False)
            for _ in range(num_blocks - 1)
        ]
        self.blocks = nn.ModuleList([first, *others])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps (B, C, H, W) to (B, 4 * channels, H / stride, W / stride)."""
        for block in self.blocks:
            images = block(images)
        return images


def _stem(channels: int, *, selective: bool) -> nn.Sequential:
    pool = nn.MaxPool2d(3, stride=2, padding=1)
    if not selective:
        return nn.Sequential(_conv(3, channels, kernel_size=7, stride=2), _norm(channels), pool)
    half = channels // 2
    return nn.Sequential(
        _conv(3, half, stride=2), _norm(half), _conv(half, half), _norm(half),
        _conv(half, channels), _norm(channels), pool,
    )  # fmt: skip


class SimclrResNet(nn.Module):
    """The trunk of SimCLRv2; it looks at RGB in [0, 1], without mean and std.

    Args:
        depths: Blocks a stage.
        width: Width multiplier: 1, 2 or 3.
        selective: Whether it has selective kernels ("sk1").
        base_channels: Channels of the first stage at width 1; 64 in the paper.
    """

    def __init__(
        self, depths: tuple[int, ...], *, width: int, selective: bool, base_channels: int = 64
    ) -> None:
        super().__init__()
        channels = [base_channels * width * 2**stage for stage in range(len(depths))]
        inputs = [base_channels * width, *(4 * count for count in channels[:-1])]
        stages = [
            Stage(
                depth,
                inputs[index],
                channels[index],
                stride=1 if index == 0 else 2,
                selective=selective,
            )
            for index, depth in enumerate(depths)
        ]
        self.net = nn.Sequential(_stem(base_channels * width, selective=selective), *stages)
        self.num_features = 4 * channels[-1]

    def forward(self, images: torch.Tensor) -> Features:
        """Maps (B, 3, H, W) images in [0, 1] to their embeddings and maps."""
        feature_map = self.net(images)
        return Features(feature_map.mean(dim=(2, 3)), feature_map)


def is_simclr_name(name: str) -> bool:
    """Whether `name` is one of SimCLRv2's networks, such as `simclrv2_r50_1x_sk0`."""
    return _NAME.fullmatch(name) is not None


def build_simclr(name: str) -> SimclrResNet:
    """Builds a SimCLRv2 network by name, with random weights."""
    match = _NAME.fullmatch(name)
    assert match is not None
    depth, width, selective = (int(part) for part in match.groups())
    return SimclrResNet(DEPTHS[depth], width=width, selective=bool(selective))
