"""Embeddings and feature maps of timm networks, whatever the layout they compute in."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from edgeseed.core.errors import ConfigError
from edgeseed.distill.networks.features import check_image_size, extract


def network_of(name: str, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(name, pretrained=False, num_classes=0, **settings)
    return network.eval()


# Channels first, channels last, and tokens with and without a class token.
NETWORKS = [
    ("test_resnet", {}, (64, 96)),
    ("test_mambaout", {}, (64, 96)),
    ("test_vit", {"img_size": 32}, (32, 32)),
    ("test_vit", {"img_size": (32, 48)}, (32, 48)),
]


@pytest.mark.parametrize(("name", "settings", "size"), NETWORKS)
def test_the_map_is_channels_first_and_the_embedding_is_timms_own(
    name: str, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    network = network_of(name, **settings)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = extract(network, images)
        expected = network(images)
    torch.testing.assert_close(found.embedding, expected)
    assert found.map is not None
    assert found.map.shape[:2] == (2, network.num_features)
    assert found.map.shape[2] / found.map.shape[3] == size[0] / size[1]


def test_a_transformers_map_is_its_patches_in_their_rows() -> None:
    network = network_of("test_vit", img_size=(32, 48))
    images = torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        found = extract(network, images).map
        tokens = network.forward_features(images)  # type: ignore[operator]  # timm's convention
    assert found is not None
    assert found.shape[2:] == (2, 3)
    # A class token stands before the patches.
    torch.testing.assert_close(found[0, :, 1, 2], tokens[0, 1 + 1 * 3 + 2])


class Tokens(nn.Module):
    """Tokens whose number fits no grid."""

    num_features = 4

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(images), 7, 4)

    def forward_head(self, hidden: torch.Tensor, *, pre_logits: bool) -> torch.Tensor:
        assert pre_logits
        return hidden.mean(1)


def test_tokens_without_a_grid_have_no_map() -> None:
    found = extract(Tokens(), torch.zeros(2, 3, 8, 8))
    assert found.map is None
    assert found.embedding.shape == (2, 4)


@pytest.mark.parametrize(
    ("size", "nearest"), [(40, "use 32 or 48"), (8, "use 16"), (100, "use 96 or 112")]
)
def test_a_size_that_patches_do_not_fill_names_the_nearest(size: int, nearest: str) -> None:
    network = network_of("test_vit", img_size=32)
    with pytest.raises(ConfigError, match=f"image size {size} is not a multiple .*{nearest}"):
        check_image_size("test_vit", network, size)
    check_image_size("test_vit", network, 48)


def test_a_convolution_takes_any_size() -> None:
    check_image_size("test_resnet", network_of("test_resnet"), 37)
