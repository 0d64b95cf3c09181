"""Networks for photos of 32 pixels that timm does not have; importing this makes timm know them.

timm's are made for 224 pixels: at 32 their last map is one pixel. These are the residual networks
for CIFAR (2015, arXiv 1512.03385, section 4.2; "x4": four times as wide, as in CRD's tables), and
Swin transformers (2021, arXiv 2103.14030) of two and three stages.
"""

from typing import Any

from timm.models import register_model
from timm.models.resnet import BasicBlock, ResNet
from timm.models.swin_transformer import SwinTransformer
from torch import nn

# What timm passes to every network, and its own wrapper takes off again.
_TIMM_ONLY = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def _design(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name not in _TIMM_ONLY}


def _resnet(depth: int, stem: int, channels: tuple[int, int, int], **kwargs: Any) -> ResNet:
    blocks = ((depth - 2) // 6,) * 3
    network = ResNet(
        BasicBlock,
        blocks,
        channels=channels,
        stem_type="deep",
        stem_width=stem // 2,
        **_design(kwargs),
    )
    network.conv1 = nn.Conv2d(3, stem, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    network.layer4 = nn.Identity()
    return network


def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """78 thousand weights, the smallest student of CRD's tables."""
    assert not pretrained
    return _resnet(8, 16, (16, 32, 64), **kwargs)


def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """272 thousand weights."""
    assert not pretrained
    return _resnet(20, 16, (16, 32, 64), **kwargs)


def cifar_resnet8x4(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """1.2 million weights."""
    assert not pretrained
    return _resnet(8, 32, (64, 128, 256), **kwargs)


def cifar_resnet32x4(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """7.4 million weights."""
    assert not pretrained
    return _resnet(32, 32, (64, 128, 256), **kwargs)


def _swin(kwargs: dict[str, Any], **design: Any) -> SwinTransformer:
    return SwinTransformer(
        **{"img_size": 32, "window_size": 4, "strict_img_size": False, **design, **_design(kwargs)}
    )


def cifar_swin_mini(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    """0.5 million weights; 32 pixels are 8 x 8 patches, and 4 x 4 regions at the end."""
    assert not pretrained
    return _swin(kwargs, patch_size=4, embed_dim=64, depths=(2, 2), num_heads=(2, 4))


def cifar_swin(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    """Swin-T's first three stages on patches of 2 pixels: 16 x 16, and 4 x 4 regions at the end."""
    assert not pretrained
    return _swin(kwargs, patch_size=2, embed_dim=96, depths=(2, 2, 6), num_heads=(3, 6, 12))


for _network in (
    cifar_resnet8,
    cifar_resnet20,
    cifar_resnet8x4,
    cifar_resnet32x4,
    cifar_swin_mini,
    cifar_swin,
):
    register_model(_network)
