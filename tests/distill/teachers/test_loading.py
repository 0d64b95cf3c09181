"""Weights are loaded whole or not at all."""

from pathlib import Path

import pytest
import torch
from support.teachers import prefixed, random_network, save_checkpoint

from edgeseed.core.errors import (
    ArtifactError,
    ConfigError,
    UnknownNameError,
    UsageError,
)
from edgeseed.distill.teachers import load_teacher


def test_a_prefix_of_some_weights_is_an_error_that_names_both_sides(tmp_path: Path) -> None:
    # EsViT issue 8: a prefix that strict=False forgave gave 1.9 % kNN instead of 75.7 %.
    weights = random_network("test_resnet").state_dict()
    state = {
        f"encoder.{name}" if name.startswith("conv1") else name: value
        for name, value in weights.items()
    }
    path = save_checkpoint(tmp_path / "wrong.pth", state)
    with pytest.raises(
        ArtifactError, match=r"missing: conv1\.0\.weight.*unexpected: encoder\.conv1"
    ):
        load_teacher(f"test_resnet={path}")


@pytest.mark.parametrize("prefix", ["model.", "teacher.backbone.", "teacher_backbone."])
def test_a_prefix_of_all_weights_is_found_and_copies_are_set_aside(
    tmp_path: Path, prefix: str
) -> None:
    network = random_network("test_resnet")
    state = prefixed(prefix, network.state_dict())
    state |= prefixed("student.", random_network("test_resnet").state_dict())
    path = save_checkpoint(tmp_path / "a.pth", {"model_state_dict": state})
    teacher = load_teacher(f"test_resnet={path}")
    found = teacher.trunk.get_submodule("network").state_dict()
    assert all(torch.equal(found[name], network.state_dict()[name]) for name in found)


def test_one_missing_weight_is_an_error(tmp_path: Path) -> None:
    state = random_network("test_vit").state_dict()
    del state["blocks.3.mlp.fc1.bias"]
    with pytest.raises(ArtifactError, match=r"1 missing: blocks\.3\.mlp\.fc1\.bias"):
        load_teacher(f"test_vit={save_checkpoint(tmp_path / 'm.pth', state)}")


def test_one_unexpected_weight_is_an_error(tmp_path: Path) -> None:
    state = {**random_network("test_vit").state_dict(), "extra.weight": torch.zeros(1)}
    with pytest.raises(ArtifactError, match=r"1 unexpected: extra\.weight"):
        load_teacher(f"test_vit={save_checkpoint(tmp_path / 'm.pth', state)}")


def test_unknown_weights_beside_mocos_encoder_are_an_error(tmp_path: Path) -> None:
    state = prefixed("encoder_q.", random_network("test_resnet").state_dict())
    path = save_checkpoint(tmp_path / "m.pth", {"state_dict": {**state, "stray": torch.zeros(1)}})
    with pytest.raises(ArtifactError, match="1 unexpected: stray"):
        load_teacher(f"test_resnet={path}")


def test_another_shape_is_an_error_that_says_both_shapes(tmp_path: Path) -> None:
    state = random_network("test_resnet").state_dict()
    state["layer4.0.bn2.weight"] = torch.zeros(3)
    with pytest.raises(ArtifactError, match=r"layer4\.0\.bn2\.weight \[3\] instead of \[96\]"):
        load_teacher(f"test_resnet={save_checkpoint(tmp_path / 'm.pth', state)}")


def test_calls_that_are_wrong_say_what_is_right(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'test_vit'"):
        load_teacher("test_vitt")
    # `edgeseed teachers` lists it, and it was "unknown".
    with pytest.raises(UsageError, match=r"file \(SimCLRv2.*write simclrv2_r50_1x_sk0=CHECKPOINT"):
        load_teacher("simclrv2_r50_1x_sk0")
    with pytest.raises(UsageError, match=r"file \(SwAV\).*write resnet50w2=CHECKPOINT"):
        load_teacher("resnet50w2")
    with pytest.raises(UsageError, match=r"no weights tagged 'dyno'; timm has: .*dino"):
        load_teacher("vit_small_patch16_224.dyno")
    with pytest.raises(UsageError, match="write NAME="):
        load_teacher("weights.pth")
    with pytest.raises(UsageError, match="does not exist"):
        load_teacher(f"test_vit={tmp_path / 'nothing.pth'}")
    with pytest.raises(UsageError, match="does not exist"):
        load_teacher(str(tmp_path / "nothing.safetensors"))
    with pytest.raises(ConfigError, match="at least 1"):
        load_teacher("test_vit", image_size=0)
