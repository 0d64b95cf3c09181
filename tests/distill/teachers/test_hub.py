"""Networks of torch.hub teach."""

from pathlib import Path

import pytest
import torch
from support.teachers import SIZE, random_images

from edgeseed.core.errors import (
    ArtifactError,
    UsageError,
)
from edgeseed.distill.teachers import load_teacher

_HUBCONF = """
import torch
from torch import nn

def resnet():
    import torchvision
    torch.manual_seed(0)
    return torchvision.models.resnet18()

class Vit(nn.Module):
    def __init__(self, is_v2):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 6, 8, stride=8)
        self.patch_embed.patch_size = (8, 8) if is_v2 else 8
        if is_v2:
            self.forward_features = self._dictionary
    def _tokens(self, images):
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        return torch.cat([patches.mean(1, keepdim=True), patches], 1)
    def _dictionary(self, images):
        tokens = self._tokens(images)
        return {"x_norm_clstoken": tokens[:, 0], "x_norm_patchtokens": tokens[:, 1:]}
    def get_intermediate_layers(self, images, n=1):
        return [self._tokens(images)]
    def forward(self, images):
        return self._tokens(images)[:, 0]

def dino():
    torch.manual_seed(0)
    return Vit(False)

def dinov2():
    torch.manual_seed(0)
    return Vit(True)

def not_a_network():
    return 3
"""


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    (tmp_path / "hubconf.py").write_text(_HUBCONF)
    return tmp_path


def test_a_hub_resnet_loses_its_untrained_classifier(hub_folder: Path) -> None:
    output = load_teacher(f"hub:{hub_folder}:resnet", image_size=SIZE)(random_images())
    assert output.embedding.shape == (2, 512)
    assert output.features is not None
    torch.testing.assert_close(output.features.mean(dim=(2, 3)), output.embedding)


@pytest.mark.parametrize("entry", ["dino", "dinov2"])
def test_hub_transformers_give_class_token_and_patch_map(hub_folder: Path, entry: str) -> None:
    teacher = load_teacher(f"hub:{hub_folder}:{entry}", image_size=SIZE)
    output = teacher(random_images())
    assert output.features is not None
    assert output.features.shape == (2, 6, 8, 8)
    torch.testing.assert_close(output.features.mean(dim=(2, 3)), output.embedding)


def test_hub_mistakes_are_named(hub_folder: Path) -> None:
    with pytest.raises(UsageError, match="no entry 'nothing'"):
        load_teacher(f"hub:{hub_folder}:nothing")
    with pytest.raises(ArtifactError, match="returned a int"):
        load_teacher(f"hub:{hub_folder}:not_a_network")
    with pytest.raises(UsageError, match="hub:OWNER/REPO"):
        load_teacher("hub:dino")
