"""Teachers load from every official layout, whole or not at all."""

import argparse
import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn

from edgeseed.core.errors import (
    ArtifactError,
    ConfigError,
    UnknownNameError,
    UsageError,
    WorkError,
)
from edgeseed.core.network import save_student
from edgeseed.core.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from edgeseed.core.pretrained import pooling_arguments, pooling_of
from edgeseed.core.student import StudentSpec
from edgeseed.distill.networks.students import create_student
from edgeseed.distill.teachers import Teacher, list_teachers, load_teacher
from edgeseed.distill.teachers._simclr import SelectiveKernel, SimclrResNet, build_simclr
from edgeseed.distill.teachers._table import pooling_of_architecture
from edgeseed.distill.teachers.heads import mlp_from_weights

State = dict[str, Tensor]
SIZE = 64


def _network(name: str, **kwargs: Any) -> Any:
    torch.manual_seed(0)
    network: Any = timm.create_model(name, num_classes=0, **kwargs).eval()
    with torch.no_grad():  # so that no weight, bias or statistic is at a value that hides a mistake
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name_, buffer in network.named_buffers():
            if name_.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
    return network


def _prefixed(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def _save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def _images(size: int = SIZE) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def _mlp(
    *sizes: int, batch_norm: bool = False, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(inputs, outputs))
        if index < len(sizes) - 2:
            layers += [nn.BatchNorm1d(outputs)] if batch_norm else []
            layers.append(activation())
    return nn.Sequential(*layers).eval()


def _dino_head(dim: int, num_prototypes: int = 7) -> tuple[State, Callable[[Tensor], Tensor]]:
    """A head as DINO saves it, and its literal formula."""
    mlp = _mlp(dim, 12, 12, 5, activation=nn.GELU)
    gain, direction = torch.rand(num_prototypes, 1) + 0.5, torch.randn(num_prototypes, 5)
    state = _prefixed("mlp.", mlp.state_dict())
    state |= {"last_layer.weight_g": gain, "last_layer.weight_v": direction}

    def literal(embedding: Tensor) -> Tensor:
        hidden = mlp(embedding)
        hidden = hidden / hidden.square().sum(1, keepdim=True).sqrt()
        rows = gain * direction / direction.square().sum(1, keepdim=True).sqrt()
        scores: Tensor = hidden @ rows.T
        return scores

    return state, literal


# --------------------------------------------------------------------------- what a teacher is


@pytest.fixture
def plain_file(tmp_path: Path) -> Path:
    return _save(tmp_path / "resnet.pth", _network("test_resnet").state_dict())


def test_a_teacher_stays_in_eval_mode_whatever_one_asks(plain_file: Path) -> None:
    teacher = load_teacher(f"test_resnet={plain_file}", image_size=SIZE)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    nn.Sequential(teacher).train()
    teacher(_images())
    assert not any(part.training for part in teacher.modules())
    # A teacher whose BatchNorm is in train mode drifts with every batch (SparseML PR 2191).
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_teacher_takes_and_gives_no_gradient(plain_file: Path) -> None:
    teacher = load_teacher(f"test_resnet={plain_file}", image_size=SIZE)
    output = teacher(_images().requires_grad_())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not output.embedding.requires_grad


def test_the_digest_is_of_the_weights(plain_file: Path, tmp_path: Path) -> None:
    state = torch.load(plain_file)
    same = _save(tmp_path / "copy.pth", dict(reversed(state.items())))
    state["conv1.0.weight"][0, 0, 0, 0] += 1e-3
    changed = _save(tmp_path / "changed.pth", state)
    digest = load_teacher(f"test_resnet={plain_file}").digest
    assert load_teacher(f"test_resnet={same}").digest == digest
    assert load_teacher(f"test_resnet={changed}").digest != digest


def test_the_embedding_is_the_pooled_map_of_a_cnn(plain_file: Path) -> None:
    output = load_teacher(f"test_resnet={plain_file}", image_size=SIZE)(_images())
    assert output.features is not None
    assert output.features.shape == (2, 96, 2, 2)
    torch.testing.assert_close(output.features.mean(dim=(2, 3)), output.embedding)


def test_a_transformers_map_is_its_patch_tokens_row_by_row(tmp_path: Path) -> None:
    network = _network("test_vit", img_size=SIZE)
    path = _save(tmp_path / "vit.pth", network.state_dict())
    output = load_teacher(f"test_vit={path}", image_size=SIZE)(_images())
    tokens = network.forward_features(_images())
    assert output.features is not None
    assert output.features.shape == (2, 64, 4, 4)
    torch.testing.assert_close(output.features[:, :, 1, 2], tokens[:, 1 + 1 * 4 + 2])
    torch.testing.assert_close(output.embedding, tokens[:, 0])


def test_the_licence_is_said_aloud(plain_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_teacher(f"test_resnet={plain_file}")
    assert "licence not stated in the file" in capsys.readouterr().err


# --------------------------------------------------------------------------- official layouts


def _check(teacher: Teacher, network: Any, *, size: int = SIZE) -> None:
    torch.testing.assert_close(teacher(_images(size)).embedding, network(_images(size)))


def test_dino_full_checkpoint_gives_the_ema_teacher_and_its_head(tmp_path: Path) -> None:
    network, student = _network("test_vit"), timm.create_model("test_vit", num_classes=0)
    head, literal = _dino_head(64)
    content = {
        "student": _prefixed("module.backbone.", student.state_dict())
        | _prefixed("module.head.", head),
        "teacher": _prefixed("backbone.", network.state_dict()) | _prefixed("head.", head),
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small", out_dim=7),
        "dino_loss": {"center": torch.zeros(1, 7)},
        "fp16_scaler": None,
    }
    path = _save(tmp_path / "checkpoint.pth", content)
    teacher = load_teacher(f"test_vit={path}", image_size=160)
    _check(teacher, network, size=160)
    assert teacher.head_kind == "dino"
    assert teacher.head is not None
    embedding = torch.randn(3, 64)
    torch.testing.assert_close(teacher.head(embedding), literal(embedding))
    assert (teacher.preprocess.mean, teacher.preprocess.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert teacher.pooling == "cls"


def test_dino_heads_of_new_torch_and_with_batch_norm_are_read(tmp_path: Path) -> None:
    network = _network("test_resnet")
    mlp = _mlp(96, 12, 12, 5, batch_norm=True, activation=nn.GELU)
    gain, direction = torch.rand(7, 1) + 0.5, torch.randn(7, 5)
    weights = {
        "last_layer.parametrizations.weight.original0": gain,
        "last_layer.parametrizations.weight.original1": direction,
        **_prefixed("mlp.", mlp.state_dict()),
    }
    content = {
        "teacher": _prefixed("backbone.", network.state_dict()) | _prefixed("head.", weights)
    }
    teacher = load_teacher(f"test_resnet={_save(tmp_path / 'c.pth', content)}", image_size=SIZE)
    _check(teacher, network)
    assert teacher.head is not None
    embedding = torch.randn(3, 96)
    expected = F.normalize(mlp(embedding), dim=1) @ (gain * F.normalize(direction, dim=1)).T
    torch.testing.assert_close(teacher.head(embedding), expected)


def test_dino_backbone_files_load_under_their_tagged_name(tmp_path: Path) -> None:
    network = _network("vit_small_patch16_224.dino")
    path = tmp_path / "model.safetensors"
    save_file(network.state_dict(), path)
    teacher = load_teacher(f"vit_small_patch16_224.dino={path}")
    _check(teacher, network, size=224)
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


def test_dinov2_training_checkpoints_load_at_224_px(tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    network = _network(name, img_size=224)
    state = _as_dinov2(network.state_dict())
    del state["mask_token"]  # as some exports do; the registers tell that it is DINOv2's
    chunked = {
        re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 3}.{m[1]}", key): value
        for key, value in state.items()
    }
    head, literal = _dino_head(384)
    content = {
        "teacher": _prefixed("backbone.", chunked)
        | _prefixed("dino_head.", head)
        | _prefixed("ibot_head.", head)
    }
    teacher = load_teacher(f"{name}.lvd142m={_save(tmp_path / 'd.pth', content)}")
    assert teacher.preprocess.image_size == 224  # DINOv2's own 518 px would cost five times as much
    _check(teacher, network, size=224)
    assert teacher.head is not None
    embedding = torch.randn(3, 384)
    torch.testing.assert_close(teacher.head(embedding), literal(embedding))


def test_dinov2_backbones_without_registers_keep_their_class_position(tmp_path: Path) -> None:
    network = _network("test_vit")
    state = {**network.state_dict(), "mask_token": torch.zeros(1, 64)}
    _check(load_teacher(f"test_vit={_save(tmp_path / 'b.pth', state)}"), network, size=160)


def test_position_embeddings_are_resampled_to_the_image_size(tmp_path: Path) -> None:
    network = _network("test_vit")  # 160 px: a grid of 10 x 10
    path = _save(tmp_path / "vit.pth", network.state_dict())
    teacher: Any = load_teacher(f"test_vit={path}", image_size=SIZE)
    expected = resample_abs_pos_embed(network.pos_embed, new_size=[4, 4], num_prefix_tokens=1)
    torch.testing.assert_close(teacher.trunk.network.pos_embed, expected)
    # Small crops of multi-crop methods go through the same teacher.
    assert teacher(_images(96)).features.shape == (2, 64, 6, 6)


def test_moco_v2_gives_the_query_encoder_and_its_projection(tmp_path: Path) -> None:
    network = _network("test_resnet")
    fc = _mlp(96, 96, 8)
    other = timm.create_model("test_resnet", num_classes=0).state_dict()
    content = {
        "epoch": 800,
        "arch": "resnet50",
        "state_dict": {
            **_prefixed("module.encoder_q.", network.state_dict()),
            **_prefixed("module.encoder_q.fc.", fc.state_dict()),
            **_prefixed("module.encoder_k.", other),
            **_prefixed("module.encoder_k.fc.", fc.state_dict()),
            "module.queue": torch.randn(8, 16),
            "module.queue_ptr": torch.zeros(1, dtype=torch.long),
        },
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.03}]},
    }
    teacher = load_teacher(
        f"test_resnet={_save(tmp_path / 'moco.pth.tar', content)}", image_size=SIZE
    )
    _check(teacher, network)
    assert teacher.head_kind == "projection"
    assert teacher.head is not None
    embedding = torch.randn(3, 96)
    torch.testing.assert_close(teacher.head(embedding), fc(embedding))
    assert "MoCo-v2" in teacher.licence
    assert "CC-BY-NC" in teacher.licence


def test_moco_v1_projects_with_one_layer(tmp_path: Path) -> None:
    network = _network("test_resnet")
    fc = nn.Linear(96, 8)
    state = network.state_dict() | _prefixed("fc.", fc.state_dict())
    content = {"state_dict": _prefixed("module.encoder_q.", state)}
    teacher = load_teacher(f"test_resnet={_save(tmp_path / 'v1.pth', content)}")
    assert teacher.head_kind == "projection"


def test_moco_v3_gives_the_base_encoder_and_its_projection(tmp_path: Path) -> None:
    network = _network("test_vit")
    head = nn.Sequential(
        nn.Linear(64, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(),
        nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8, affine=False),
    ).eval()  # fmt: skip
    predictor = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16))
    encoder = network.state_dict() | _prefixed("head.", head.state_dict())
    content = {
        "state_dict": {
            **_prefixed("module.base_encoder.", encoder),
            **_prefixed(
                "module.momentum_encoder.", {k: torch.zeros_like(v) for k, v in encoder.items()}
            ),
            **_prefixed("module.predictor.", predictor.state_dict()),
        }
    }
    teacher = load_teacher(f"test_vit={_save(tmp_path / 'v3.pth', content)}", image_size=160)
    _check(teacher, network, size=160)
    assert teacher.head is not None
    embedding = torch.randn(3, 64)
    torch.testing.assert_close(teacher.head(embedding), head(embedding))


def test_swav_gives_projection_and_prototypes(tmp_path: Path) -> None:
    network = _network("test_resnet")
    projection, prototypes = _mlp(96, 24, 8, batch_norm=True), nn.Linear(8, 30, bias=False)
    state = {
        **network.state_dict(),
        **_prefixed("projection_head.", projection.state_dict()),
        **_prefixed("prototypes.", prototypes.state_dict()),
    }
    path = _save(tmp_path / "swav.pth", _prefixed("module.", state))
    teacher = load_teacher(f"test_resnet={path}", image_size=SIZE)
    _check(teacher, network)
    embedding = torch.randn(3, 96)
    assert teacher.head_kind == "projection"
    torch.testing.assert_close(teacher.heads["projection"](embedding), projection(embedding))
    projected = F.normalize(projection(embedding), dim=1)
    torch.testing.assert_close(teacher.heads["prototypes"](projected), prototypes(projected))


def test_swav_with_several_sets_of_prototypes_gives_their_scores_side_by_side(
    tmp_path: Path,
) -> None:
    sets = [nn.Linear(8, 5, bias=False), nn.Linear(8, 6, bias=False)]
    state = _network("test_resnet").state_dict() | _prefixed(
        "projection_head.", _mlp(96, 8).state_dict()
    )
    for index, prototypes in enumerate(sets):
        state |= _prefixed(f"prototypes.prototypes{index}.", prototypes.state_dict())
    teacher = load_teacher(f"test_resnet={_save(tmp_path / 'm.pth', state)}")
    projected = torch.randn(3, 8)
    expected = torch.cat([prototypes(projected) for prototypes in sets], dim=1)
    torch.testing.assert_close(teacher.heads["prototypes"](projected), expected)


def test_wide_swav_networks_are_built_from_the_shapes_of_their_weights(tmp_path: Path) -> None:
    network: Any = _network("resnet50", channels=(32, 64, 96, 128))
    network.conv1 = nn.Conv2d(3, 24, 7, stride=2, padding=3, bias=False)
    network.bn1 = nn.BatchNorm2d(24)
    network.layer1[0].conv1 = nn.Conv2d(24, 32, 1, bias=False)
    network.layer1[0].downsample[0] = nn.Conv2d(24, 128, 1, bias=False)
    path = _save(tmp_path / "w.pth", _prefixed("module.", network.state_dict()))
    teacher = load_teacher(f"resnet50w2={path}", image_size=SIZE)
    _check(teacher, network.eval())
    assert teacher.embedding_dim == 512


def test_simclrv2_sees_pixels_without_mean_and_std(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_simclr("simclrv2_r50_1x_sk0").eval()
    layers: list[nn.Module] = []
    for outputs in (2048, 2048, 128):
        layers += [nn.Linear(2048, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
    head = nn.Sequential(*layers[:-1]).eval()
    fc = nn.Linear(2048, 1000)
    content = {
        "resnet": {**network.state_dict(), **_prefixed("fc.", fc.state_dict())},
        "head": _prefixed("layers.", head.state_dict()),
    }
    path = _save(tmp_path / "r50_1x_sk0.pth", content)
    teacher = load_teacher(f"simclrv2_r50_1x_sk0={path}", image_size=SIZE)
    assert (teacher.preprocess.mean, teacher.preprocess.std) == ((0.0,) * 3, (1.0,) * 3)
    output = teacher(_images())
    torch.testing.assert_close(output.embedding, network(_images()).embedding)
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


def test_esvit_gives_both_heads_and_keeps_its_window(tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    network = _network(name, window_size=14)  # EsViT's W14, which timm has no name for
    head, literal = _dino_head(768)
    dense, dense_literal = _dino_head(768, num_prototypes=9)
    state = _as_esvit(network.state_dict())
    state |= _prefixed("head.", head) | _prefixed("head_dense.", dense)
    content = {"teacher": _prefixed("module.", state), "args": argparse.Namespace()}
    teacher = load_teacher(f"{name}={_save(tmp_path / 'esvit.pth', content)}")
    _check(teacher, network, size=224)
    assert teacher.pooling == "avg"
    assert set(teacher.heads) == {"dino", "region"}
    regions = torch.randn(3, 768)
    torch.testing.assert_close(teacher.heads["dino"](regions), literal(regions))
    torch.testing.assert_close(teacher.heads["region"](regions), dense_literal(regions))


def test_esvit_resnets_carry_two_wrappers(tmp_path: Path) -> None:
    network = _network("test_resnet")
    head, _ = _dino_head(96)
    state = _prefixed("backbone.backbone.", network.state_dict()) | _prefixed("head.", head)
    path = _save(tmp_path / "r.pth", {"teacher": _prefixed("module.", state)})
    _check(load_teacher(f"test_resnet={path}", image_size=SIZE), network)


def test_a_supervised_checkpoint_keeps_its_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = timm.create_model("test_resnet", num_classes=5).eval()
    path = _save(tmp_path / "s.pth", {"state_dict": network.state_dict(), "epoch": 3})
    teacher = load_teacher(f"test_resnet={path}", image_size=SIZE)
    assert teacher.head_kind == "classifier"
    assert teacher.head is not None
    torch.testing.assert_close(teacher.head(teacher(_images()).embedding), network(_images()))


def test_stages_of_blocks_are_not_taken_for_dinov2_chunks(tmp_path: Path) -> None:
    # EfficientNet calls its blocks blocks.STAGE.BLOCK, as DINOv2 does blocks.CHUNK.BLOCK: renaming
    # the former made 235 weights go missing.
    network = _network("test_efficientnet")
    path = tmp_path / "x.safetensors"
    save_file(network.state_dict(), path)
    _check(load_teacher(f"test_efficientnet={path}", image_size=SIZE), network)


def test_a_student_teaches_with_its_own_preprocess_and_classes(tmp_path: Path) -> None:
    network, architecture = create_student("test_efficientnet", seed=0, image_size=SIZE)
    network.head = nn.Linear(network.embedding_dim, 3)
    preprocess = Preprocess(image_size=SIZE, resize=72, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    spec = StudentSpec(
        architecture=architecture,
        preprocess=preprocess,
        embedding_dim=network.embedding_dim,
        classes=("cat", "dog", "eel"),
    )
    path = tmp_path / "student.safetensors"
    save_student(path, network, spec)
    teacher = load_teacher(str(path))
    assert (teacher.preprocess, teacher.classes) == (preprocess, ("cat", "dog", "eel"))
    assert teacher.head is not None
    expected = network.eval()(_images())
    torch.testing.assert_close(teacher(_images()).embedding, expected.embedding)
    torch.testing.assert_close(teacher.head(expected.embedding), expected.logits)


# --------------------------------------------------------------------------- torch.hub

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
    output = load_teacher(f"hub:{hub_folder}:resnet", image_size=SIZE)(_images())
    assert output.embedding.shape == (2, 512)
    assert output.features is not None
    torch.testing.assert_close(output.features.mean(dim=(2, 3)), output.embedding)


@pytest.mark.parametrize("entry", ["dino", "dinov2"])
def test_hub_transformers_give_class_token_and_patch_map(hub_folder: Path, entry: str) -> None:
    teacher = load_teacher(f"hub:{hub_folder}:{entry}", image_size=SIZE)
    output = teacher(_images())
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


# --------------------------------------------------------------------------- what must not pass


def test_a_prefix_of_some_weights_is_an_error_that_names_both_sides(tmp_path: Path) -> None:
    # EsViT issue 8: a prefix that strict=False forgave gave 1.9 % kNN instead of 75.7 %.
    weights = _network("test_resnet").state_dict()
    state = {
        f"encoder.{name}" if name.startswith("conv1") else name: value
        for name, value in weights.items()
    }
    path = _save(tmp_path / "wrong.pth", state)
    with pytest.raises(
        ArtifactError, match=r"missing: conv1\.0\.weight.*unexpected: encoder\.conv1"
    ):
        load_teacher(f"test_resnet={path}")


@pytest.mark.parametrize("prefix", ["model.", "teacher.backbone.", "teacher_backbone."])
def test_a_prefix_of_all_weights_is_found_and_copies_are_set_aside(
    tmp_path: Path, prefix: str
) -> None:
    network = _network("test_resnet")
    state = _prefixed(prefix, network.state_dict())
    state |= _prefixed("student.", _network("test_resnet").state_dict())
    path = _save(tmp_path / "a.pth", {"model_state_dict": state})
    teacher = load_teacher(f"test_resnet={path}")
    found = teacher.trunk.get_submodule("network").state_dict()
    assert all(torch.equal(found[name], network.state_dict()[name]) for name in found)


def test_one_missing_weight_is_an_error(tmp_path: Path) -> None:
    state = _network("test_vit").state_dict()
    del state["blocks.3.mlp.fc1.bias"]
    with pytest.raises(ArtifactError, match=r"1 missing: blocks\.3\.mlp\.fc1\.bias"):
        load_teacher(f"test_vit={_save(tmp_path / 'm.pth', state)}")


def test_one_unexpected_weight_is_an_error(tmp_path: Path) -> None:
    state = {**_network("test_vit").state_dict(), "extra.weight": torch.zeros(1)}
    with pytest.raises(ArtifactError, match=r"1 unexpected: extra\.weight"):
        load_teacher(f"test_vit={_save(tmp_path / 'm.pth', state)}")


def test_unknown_weights_beside_mocos_encoder_are_an_error(tmp_path: Path) -> None:
    state = _prefixed("encoder_q.", _network("test_resnet").state_dict())
    path = _save(tmp_path / "m.pth", {"state_dict": {**state, "stray": torch.zeros(1)}})
    with pytest.raises(ArtifactError, match="1 unexpected: stray"):
        load_teacher(f"test_resnet={path}")


def test_another_shape_is_an_error_that_says_both_shapes(tmp_path: Path) -> None:
    state = _network("test_resnet").state_dict()
    state["layer4.0.bn2.weight"] = torch.zeros(3)
    with pytest.raises(ArtifactError, match=r"layer4\.0\.bn2\.weight \[3\] instead of \[96\]"):
        load_teacher(f"test_resnet={_save(tmp_path / 'm.pth', state)}")


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_hostile_pickle_is_refused_before_it_runs(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    path = _save(
        tmp_path / "evil.pth", {"state_dict": {"w": torch.zeros(1)}, "args": _Hostile(trap)}
    )
    with pytest.raises(ArtifactError, match="holds more than weights: it wants to load"):
        load_teacher(f"test_vit={path}")
    assert not trap.exists()


def test_options_and_counters_beside_the_weights_are_harmless(tmp_path: Path) -> None:
    network = _network("test_resnet")
    content = {
        "state_dict": network.state_dict(),
        "args": argparse.Namespace(data=Path("x"), lr=np.float64(0.1)),
        "best_acc1": np.float32(71.1),
        "epoch": np.int64(3),
    }
    _check(
        load_teacher(f"test_resnet={_save(tmp_path / 'c.pth', content)}", image_size=SIZE), network
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a checkpoint", "not a PyTorch checkpoint"), (b"", "not a whole checkpoint")],
)
def test_other_files_are_named_as_such(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.pth"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=message):
        load_teacher(f"test_vit={path}")


def test_a_truncated_checkpoint_is_named_as_such(plain_file: Path) -> None:
    plain_file.write_bytes(plain_file.read_bytes()[:5000])
    with pytest.raises(ArtifactError, match="truncated"):
        load_teacher(f"test_resnet={plain_file}")


def test_a_file_without_weights_lists_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="the entries epoch, lr, but no state dict"):
        load_teacher(f"test_vit={_save(tmp_path / 'e.pth', {'epoch': 1, 'lr': 0.1})}")


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


def test_an_image_size_that_patches_do_not_fill_names_the_nearest(tmp_path: Path) -> None:
    path = _save(tmp_path / "vit.pth", _network("test_vit").state_dict())
    with pytest.raises(ConfigError, match="patch of 16 px; use 48 or 64"):
        load_teacher(f"test_vit={path}", image_size=50)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is in the cache, and the hub cannot be reached."""
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.mark.usefixtures("no_network")
def test_without_a_network_the_error_says_how_to_give_a_file() -> None:
    # It advised --teacher, which finetune has not.
    with pytest.raises(WorkError, match=r"name: vit_small_patch16_224\.dino=PATH") as found:
        load_teacher("vit_small_patch16_224.dino")
    assert "--teacher" not in str(found.value)


@pytest.mark.usefixtures("no_network")
def test_a_name_that_files_share_says_whose_weights_it_stands_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Listed for SwAV and MoCo, it was given timm's supervised weights without a word.
    with pytest.raises(WorkError):
        load_teacher("resnet50")
    message = capsys.readouterr().err
    assert "resnet50 is timm's resnet50.a1_in1k" in message
    assert "SwAV, MoCo-v2, MoCo-v3 are files, written resnet50=CHECKPOINT" in message


def test_a_head_that_is_no_mlp_is_refused() -> None:
    with pytest.raises(ArtifactError, match="no MLP"):
        mlp_from_weights({"attention.weight": torch.zeros(2, 2)}, activation=nn.ReLU)


# --------------------------------------------------------------------------- the table


def test_the_tables_timm_rows_are_what_timm_says() -> None:
    means: dict[tuple[float, ...], str] = {
        (0.485, 0.456, 0.406): "ImageNet",
        (0.5, 0.5, 0.5): "0.5",
        (0.430, 0.411, 0.296): "satellite (SAT-493M)",
        (0.48145466, 0.4578275, 0.40821073): "CLIP",
    }
    for row in list_teachers():
        if row.source != "timm":
            continue
        config = timm.get_pretrained_cfg(row.name)
        assert config is not None, row.name
        assert row.name in timm.list_pretrained(f"{config.architecture}.*")
        assert means[tuple(config.mean)] == row.normalization, row.name
        assert config.input_size[-1] == row.native_size, row.name


@pytest.mark.parametrize(
    "name",
    [
        "vit_small_patch14_dinov2.lvd142m",
        "convnext_tiny.dinov3_lvd1689m",
        "vit_base_patch16_siglip_224.v2_webli",
        "regnety_320.seer",
    ],
)
def test_the_tables_embedding_dims_are_those_of_the_networks(name: str) -> None:
    with torch.device("meta"):
        network: Any = timm.create_model(name, num_classes=0)
    row = next(row for row in list_teachers() if row.name == name)
    assert network.num_features == row.embedding_dim


def test_what_the_table_says_to_write_is_one_row() -> None:
    written = [(row.spec, row.family) for row in list_teachers()]
    assert len(set(written)) == len(written)
    # What two families share is a file's name: the file says which it is.
    specs = [spec for spec, _ in written]
    assert all("=" in spec for spec in specs if specs.count(spec) > 1)
    assert all(row.to_dict()["spec"] == row.spec for row in list_teachers())


def test_every_teacher_says_its_licence_and_whether_it_may_be_sold() -> None:
    for row in list_teachers():
        assert row.licence
        non_commercial = "NC" in row.licence or "non-commercial" in row.licence
        assert (row.commercial_ok is False) == non_commercial
        assert row.to_dict()["name"] == row.name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # timm averages DINOv3's tokens, its authors take the class token: with a tag in the name
        # the same file was pooled otherwise than without.
        ("vit_base_patch16_dinov3", "cls"),
        ("vit_base_patch16_dinov3.lvd1689m", "cls"),
        ("vit_small_patch14_dinov2", "cls"),
        ("vit_huge_patch14_gap_224", "avg"),
        ("vit_base_patch16_siglip_224", "map"),
        ("resnet50", "avg"),
        ("test_vit", None),
    ],
)
def test_pooling_follows_from_the_architecture(name: str, expected: str | None) -> None:
    assert pooling_of_architecture(name) == expected


def test_no_architecture_of_the_table_is_pooled_in_two_ways() -> None:
    names = {row.name for row in list_teachers() if row.source != "hub"}
    assert all(pooling_of_architecture(name) is not None for name in names)


def test_networks_are_built_with_the_pooling_that_the_table_says() -> None:
    # The rule by which they are built is the core's, which has no table.
    pooling = {
        row.name.partition(".")[0]: row.pooling
        for row in list_teachers()
        if row.source == "timm" and row.name.startswith("vit_")
    }
    small = [name for name in pooling if not any(size in name for size in ("7b", "huge", "giant"))]
    assert len(small) > 12
    with torch.device("meta"):
        built = {name: timm.create_model(name, **pooling_arguments(name)) for name in small}
    assert {name: pooling_of(network) for name, network in built.items()} == {
        name: pooling[name] for name in small
    }


def test_a_checkpoint_is_pooled_alike_with_a_tag_and_without(tmp_path: Path) -> None:
    architecture = "vit_tiny_patch16_dinov3_qkvb"
    torch.manual_seed(0)
    weights = timm.create_model(architecture, num_classes=0, img_size=32).state_dict()
    path = _save(tmp_path / "weights.pth", weights)
    bare = load_teacher(f"{architecture}={path}", image_size=32)
    tagged = load_teacher(f"{architecture}.eupe_lvd1689m={path}", image_size=32)
    images = torch.randn(2, 3, 32, 32)
    assert bare.pooling == tagged.pooling == "cls"
    assert torch.equal(bare(images).embedding, tagged(images).embedding)


def test_a_guessed_pooling_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _save(tmp_path / "weights.pth", _network("test_vit").state_dict())
    load_teacher(f"test_vit={path}", image_size=160)
    said = " ".join(capsys.readouterr().err.split())
    assert "its embedding is its class token" in said or "the average of its patches" in said
    assert "that is a guess" in said
    path = _save(tmp_path / "resnet.pth", _network("test_resnet").state_dict())
    load_teacher(f"test_resnet={path}", image_size=64)
    assert "that is a guess" not in capsys.readouterr().err
