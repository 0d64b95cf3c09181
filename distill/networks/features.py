"""Embeddings and feature maps of any timm network, whatever the layout that it computes in."""

import math
from typing import Any, NamedTuple

import torch
from torch import nn

from edgeseed.core.errors import ConfigError


class Features(NamedTuple):
    """What one forward pass of a trunk yields.

    Attributes:
        embedding: (B, D) pooled features, as the network's own classifier would see them.
        map: (B, C, h, w) last feature map (a transformer's patch tokens on their grid), or None.
    """

    embedding: torch.Tensor
    map: torch.Tensor | None


def extract(network: nn.Module, images: torch.Tensor) -> Features:
    """Runs a timm network once and returns its embedding and its last feature map.

    Args:
        network: A timm model that was built with `num_classes=0`.
        images: (B, 3, H, W) normalised images.
    """
    timm_network: Any = (
        network  # timm's models share these methods by convention, not by a base class
    )
    hidden = timm_network.forward_features(images)
    embedding = timm_network.forward_head(hidden, pre_logits=True)
    return Features(embedding, _feature_map(timm_network, hidden, images))


def _feature_map(network: Any, hidden: torch.Tensor, images: torch.Tensor) -> torch.Tensor | None:
    if hidden.ndim == 3:
        return _tokens_to_map(network, hidden, images)
    if hidden.ndim != 4:
        return None
    # Swin, MambaOut and a few others keep the channels last; num_features tells at which end.
    is_channels_last = (
        getattr(network, "output_fmt", "NCHW") == "NHWC"
        or network.num_features == hidden.shape[3] != hidden.shape[1]
    )
    channels_first: torch.Tensor = hidden.permute(0, 3, 1, 2) if is_channels_last else hidden
    return channels_first


def _tokens_to_map(network: Any, tokens: torch.Tensor, images: torch.Tensor) -> torch.Tensor | None:
    patches = tokens[:, getattr(network, "num_prefix_tokens", 0) :]
    height, width = _grid(network, patches.shape[1], images)
    if height * width != patches.shape[1]:
        return None
    return patches.transpose(1, 2).reshape(len(patches), -1, height, width)


def _grid(network: Any, num_patches: int, images: torch.Tensor) -> tuple[int, int]:
    patch_size = _patch_size(network)
    if patch_size is not None:
        rows, columns = -(-images.shape[2] // patch_size[0]), -(-images.shape[3] // patch_size[1])
        if rows * columns == num_patches:
            return rows, columns
    side = math.isqrt(num_patches)
    return side, side


def _patch_size(network: Any) -> tuple[int, int] | None:
    """Height and width of a transformer's patches; None where patches overlap, or there are none.

    PVT's first layer is a convolution of 7 px with stride 4: any size fits it.
    """
    embed = getattr(network, "patch_embed", None)
    size = getattr(embed, "patch_size", None)
    stride = getattr(getattr(embed, "proj", None), "stride", size)
    if size is None or stride != size:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def check_image_size(name: str, network: nn.Module, image_size: int) -> None:
    """Refuses a size that a transformer's patches do not fill: it would not look at the rest.

    Raises:
        ConfigError: With the nearest sizes that fit.
    """
    patch_size = _patch_size(network)
    if patch_size is None or image_size % patch_size[0] == 0:
        return
    patch = patch_size[0]
    smaller, larger = image_size // patch * patch, -(-image_size // patch) * patch
    nearest = f"{smaller} or {larger}" if smaller else str(larger)
    raise ConfigError(
        f"{name}: image size {image_size} is not a multiple of its patch of {patch} px; use "
        f"{nearest}"
    )
