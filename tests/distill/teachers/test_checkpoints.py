"""Teachers load from every official layout."""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from support.teachers import (
    SIZE,
    State,
    check_teacher,
    dino_head,
    plain_mlp,
    prefixed,
    random_images,
    random_network,
    save_checkpoint,
)
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import nn

from edgeseed.core.preprocess import IMAGENET_MEAN, IMAGENET_STD
from edgeseed.distill.teachers import load_teacher


def test_dino_full_checkpoint_gives_the_ema_teacher_and_its_head(tmp_path: Path) -> None:
    network, student = random_network("test_vit"), timm.create_model("test_vit", num_classes=0)
    head, literal = dino_head(64)
    content = {
        "student": prefixed("module.backbone.", student.state_dict())
        | prefixed("module.head.", head),
        "teacher": prefixed("backbone.", network.state_dict()) | prefixed("head.", head),
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", out_dim=7),
        "dino_loss": {"center": torch.zeros(1, 7)},
        "fp16_scaler": None,
    }
    path = save_checkpoint(tmp_path / "checkpoint.pth", content)
    teacher = load_teacher(f"test_vit={path}", image_size=160)
    check_teacher(teacher, network, size=160)
    assert teacher.head_kind == "dino"
    assert teacher.head is not None
    embedding = torch.randn(3, 64)
    torch.testing.assert_close(teacher.head(embedding), literal(embedding))
    assert (teacher.preprocess.mean, teacher.preprocess.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert teacher.pooling == "cls"


def test_dino_heads_of_new_torch_and_with_batch_norm_are_read(tmp_path: Path) -> None:
    network = random_network("test_resnet")
    mlp = plain_mlp(96, 12, 12, 5, batch_norm=True, activation=nn.GELU)
    gain, direction = torch.rand(7, 1) + 0.5, torch.randn(7, 5)
    weights = {
        "last_layer.parametrizations.weight.original0": gain,
        "last_layer.parametrizations.weight.original1": direction,
        **prefixed("mlp.", mlp.state_dict()),
    }
    content = {"teacher": prefixed("backbone.", network.state_dict()) | prefixed("head.", weights)}
    teacher = load_teacher(
        f"test_resnet={save_checkpoint(tmp_path / 'c.pth', content)}", image_size=SIZE
    )
    check_teacher(teacher, network)
    assert teacher.head is not None
    embedding = torch.randn(3, 96)
    expected = F.normalize(mlp(embedding), dim=1) @ (gain * F.normalize(direction, dim=1)).T
    torch.testing.assert_close(teacher.head(embedding), expected)


# Draws a whole ViT-S. Full checkpoints of DINO are above; tests/distill/teachers/test_table.py has
# what a tag decides.
@pytest.mark.slow
def test_dino_backbone_files_load_under_their_tagged_name(tmp_path: Path) -> None:
    network = random_network("vit_small_patch16_224.dino")
    path = tmp_path / "model.safetensors"
    save_file(network.state_dict(), path)
    teacher = load_teacher(f"vit_small_patch16_224.dino={path}")
    check_teacher(teacher, network, size=224)
    # The tag decides the normalisation: this architecture's default weights want 0.5 instead.
    assert teacher.preprocess.mean == IMAGENET_MEAN
    assert (teacher.licence, teacher.commercial_ok) == ("Apache-2.0", True)


def _as_dinov2(state: State) -> State:
    """The names, and the place of the class token, that DINOv2 with registers saves."""
    state = dict(state)
    registers, patches = state.pop("reg_token"), state.pop("pos_embed")
    class_position = torch.full((1, 1, patches.shape[2]), 0.25)
    state["register_tokens"] = registers
    state["pos_embed"] = torch.cat([class_position, patches], dim=1)
    state["cls_token"] = state["cls_token"] - 0.25
    state["mask_token"] = torch.zeros(1, patches.shape[2])
    return state


# Draws a whole ViT-S. Below are DINOv2's files without registers; left are registers and chunks.
@pytest.mark.slow
def test_dinov2_training_checkpoints_load_at_224_px(tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    network = random_network(name, img_size=224)
    state = _as_dinov2(network.state_dict())
    del state["mask_token"]  # as some exports do; the registers tell that it is DINOv2's
    chunked = {
        re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 3}.{m[1]}", key): value
        for key, value in state.items()
    }
    head, literal = dino_head(384)
    content = {
        "teacher": prefixed("backbone.", chunked)
        | prefixed("dino_head.", head)
        | prefixed("ibot_head.", head)
    }
    teacher = load_teacher(f"{name}.lvd142m={save_checkpoint(tmp_path / 'd.pth', content)}")
    assert teacher.preprocess.image_size == 224  # DINOv2's own 518 px would cost five times as much
    check_teacher(teacher, network, size=224)
    assert teacher.head is not None
    embedding = torch.randn(3, 384)
    torch.testing.assert_close(teacher.head(embedding), literal(embedding))


def test_dinov2_backbones_without_registers_keep_their_class_position(tmp_path: Path) -> None:
    network = random_network("test_vit")
    state = {**network.state_dict(), "mask_token": torch.zeros(1, 64)}
    check_teacher(
        load_teacher(f"test_vit={save_checkpoint(tmp_path / 'b.pth', state)}"), network, size=160
    )


def test_position_embeddings_are_resampled_to_the_image_size(tmp_path: Path) -> None:
    network = random_network("test_vit")  # 160 px: a grid of 10 x 10
    path = save_checkpoint(tmp_path / "vit.pth", network.state_dict())
    teacher: Any = load_teacher(f"test_vit={path}", image_size=SIZE)
    expected = resample_abs_pos_embed(network.pos_embed, new_size=[4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(teacher.trunk.network.pos_embed, expected)
    # Small crops of multi-crop methods go through the same teacher.
    assert teacher(random_images(96)).features.shape == (2, 64, 6, 6)


def test_moco_v2_gives_the_query_encoder_and_its_projection(tmp_path: Path) -> None:
    network = random_network("test_resnet")
    fc = plain_mlp(96, 96, 8)
    other = timm.create_model("test_resnet", num_classes=0).state_dict()
    content = {
        "epoch": 800,
        "arch": "resnet50",
        "state_dict": {
            **prefixed("module.encoder_q.", network.state_dict()),
            **prefixed("module.encoder_q.fc.", fc.state_dict()),
            **prefixed("module.encoder_k.", other),
            **prefixed("module.encoder_k.fc.", fc.state_dict()),
            "module.queue": torch.randn(8, 16),
            "module.queue_ptr": torch.zeros(1, dtype=torch.long),
        },
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]},
    }
    teacher = load_teacher(
        f"test_resnet={save_checkpoint(tmp_path / 'moco.pth.tar', content)}", image_size=SIZE
    )
    check_teacher(teacher, network)
    assert teacher.head_kind == "projection"
    assert teacher.head is not None
    embedding = torch.randn(3, 96)
    torch.testing.assert_close(teacher.head(embedding), fc(embedding))
    assert "MoCo-v2" in teacher.licence
    assert "CC-BY-NC" in teacher.licence


def test_moco_v1_projects_with_one_layer(tmp_path: Path) -> None:
    network = random_network("test_resnet")
    fc = nn.Linear(96, 8)
    state = network.state_dict() | prefixed("fc.", fc.state_dict())
    content = {"state_dict": prefixed("module.encoder_q.", state)}
    teacher = load_teacher(f"test_resnet={save_checkpoint(tmp_path / 'v1.pth', content)}")
    assert teacher.head_kind == "projection"


def test_moco_v3_gives_the_base_encoder_and_its_projection(tmp_path: Path) -> None:
    network = random_network("test_vit")
    head = nn.Sequential(
        nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8, affine=False),
    ).eval()  # fmt: skip
    predictor = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16))
    encoder = network.state_dict() | prefixed("head.", head.state_dict())
    content = {
        "state_dict": {
            **prefixed("module.base_encoder.", encoder),
            **prefixed(
                "module.momentum_encoder.", {k: torch.zeros_like(v) for k, v in encoder.items()}
            ),
            **prefixed("module.predictor.", predictor.state_dict()),
        }
    }
    teacher = load_teacher(
        f"test_vit={save_checkpoint(tmp_path / 'v3.pth', content)}", image_size=160
    )
    check_teacher(teacher, network, size=160)
    assert teacher.head is not None
    embedding = torch.randn(3, 64)
    torch.testing.assert_close(teacher.head(embedding), head(embedding))


def test_swav_gives_projection_and_prototypes(tmp_path: Path) -> None:
    network = random_network("test_resnet")
    projection, prototypes = plain_mlp(96, 24, 8, batch_norm=True), nn.Linear(8, 30, bias=False)
    state = {
        **network.state_dict(),
        **prefixed("projection_head.", projection.state_dict()),
        **prefixed("prototypes.", prototypes.state_dict()),
    }
    path = save_checkpoint(tmp_path / "swav.pth", prefixed("module.", state))
    teacher = load_teacher(f"test_resnet={path}", image_size=SIZE)
    check_teacher(teacher, network)
    embedding = torch.randn(3, 96)
    assert teacher.head_kind == "projection"
    torch.testing.assert_close(teacher.heads["projection"](embedding), projection(embedding))
    projected = F.normalize(projection(embedding), dim=1)
    torch.testing.assert_close(teacher.heads["prototypes"](projected), prototypes(projected))


def test_swav_with_several_sets_of_prototypes_gives_their_scores_side_by_side(
    tmp_path: Path,
) -> None:
    sets = [nn.Linear(8, 5, bias=False), nn.Linear(8, 6, bias=False)]
    state = random_network("test_resnet").state_dict() | prefixed(
        "projection_head.", plain_mlp(96, 8).state_dict()
    )
    for index, prototypes in enumerate(sets):
        state |= prefixed(f"prototypes.prototypes{index}.", prototypes.state_dict())
    teacher = load_teacher(f"test_resnet={save_checkpoint(tmp_path / 'm.pth', state)}")
    projected = torch.randn(3, 8)
    expected = torch.cat([prototypes(projected) for prototypes in sets], dim=1)
    torch.testing.assert_close(teacher.heads["prototypes"](projected), expected)


def _as_esvit(state: State) -> State:
    """Microsoft's Swin: a stage ends with its downsampling, and the indices are saved."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "layers" and parts[2] == "downsample":
            parts[1] = str(int(parts[1]) - 1)
        renamed[".".join(parts)] = value
        if name.endswith("relative_position_bias_table"):
            index = name.replace("bias_table", "index")
            renamed[index] = torch.zeros(49, 49, dtype=torch.long)
    return renamed


# Draws a whole Swin-T. The next test reads EsViT's heads; left is the window.
@pytest.mark.slow
def test_esvit_gives_both_heads_and_keeps_its_window(tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    network = random_network(name, window_size=14)  # EsViT's W14, which timm has no name for
    head, literal = dino_head(768)
    dense, dense_literal = dino_head(768, num_prototypes=9)
    state = _as_esvit(network.state_dict())
    state |= prefixed("head.", head) | prefixed("head_dense.", dense)
    content = {"teacher": prefixed("module.", state), "args": argparse.Namespace()}
    teacher = load_teacher(f"{name}={save_checkpoint(tmp_path / 'esvit.pth', content)}")
    check_teacher(teacher, network, size=224)
    assert teacher.pooling == "avg"
    assert set(teacher.heads) == {"dino", "region"}
    regions = torch.randn(3, 768)
    torch.testing.assert_close(teacher.heads["dino"](regions), literal(regions))
    torch.testing.assert_close(teacher.heads["region"](regions), dense_literal(regions))


def test_esvit_resnets_carry_two_wrappers(tmp_path: Path) -> None:
    network = random_network("test_resnet")
    head, _ = dino_head(96)
    state = prefixed("backbone.backbone.", network.state_dict()) | prefixed("head.", head)
    path = save_checkpoint(tmp_path / "r.pth", {"teacher": prefixed("module.", state)})
    check_teacher(load_teacher(f"test_resnet={path}", image_size=SIZE), network)


def test_a_supervised_checkpoint_keeps_its_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = timm.create_model("test_resnet", num_classes=5).eval()
    path = save_checkpoint(tmp_path / "s.pth", {"state_dict": network.state_dict(), "epoch": 3})
    teacher = load_teacher(f"test_resnet={path}", image_size=SIZE)
    assert teacher.head_kind == "classifier"
    assert teacher.head is not None
    torch.testing.assert_close(
        teacher.head(teacher(random_images()).embedding), network(random_images())
    )


def test_stages_of_blocks_are_not_taken_for_dinov2_chunks(tmp_path: Path) -> None:
    # EfficientNet calls its blocks blocks.STAGE.BLOCK, as DINOv2 does blocks.CHUNK.BLOCK: renaming
    # the former made 235 weights go missing.
    network = random_network("test_efficientnet")
    path = tmp_path / "x.safetensors"
    save_file(network.state_dict(), path)
    check_teacher(load_teacher(f"test_efficientnet={path}", image_size=SIZE), network)
