"""What a teacher is."""

from pathlib import Path

import torch
from support.teachers import SIZE, random_images, random_network, save_checkpoint
from torch import nn

from edgeseed.distill.teachers import load_teacher


def test_a_teacher_stays_in_eval_mode_whatever_one_asks(plain_file: Path) -> None:
    teacher = load_teacher(f"test_resnet={plain_file}", image_size=SIZE)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    nn.Sequential(teacher).train()
    teacher(random_images())
    assert not any(part.training for part in teacher.modules())
    # A teacher whose BatchNorm is in train mode drifts with every batch (SparseML PR 2191).
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_teacher_takes_and_gives_no_gradient(plain_file: Path) -> None:
    teacher = load_teacher(f"test_resnet={plain_file}", image_size=SIZE)
    output = teacher(random_images().requires_grad_())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not output.embedding.requires_grad


def test_the_digest_is_of_the_weights(plain_file: Path, tmp_path: Path) -> None:
    state = torch.load(plain_file)
    same = save_checkpoint(tmp_path / "copy.pth", dict(reversed(state.items())))
    state["conv1.0.weight"][0, 0, 0, 0] += 1e-3
    changed = save_checkpoint(tmp_path / "changed.pth", state)
    digest = load_teacher(f"test_resnet={plain_file}").digest
    assert load_teacher(f"test_resnet={same}").digest == digest
    assert load_teacher(f"test_resnet={changed}").digest != digest


def test_the_embedding_is_the_pooled_map_of_a_cnn(plain_file: Path) -> None:
    output = load_teacher(f"test_resnet={plain_file}", image_size=SIZE)(random_images())
    assert output.features is not None
    assert output.features.shape == (2, 96, 2, 2)
    torch.testing.assert_close(output.features.mean(dim=(2, 3)), output.embedding)


def test_a_transformers_map_is_its_patch_tokens_row_by_row(tmp_path: Path) -> None:
    network = random_network("test_vit", img_size=SIZE)
    path = save_checkpoint(tmp_path / "vit.pth", network.state_dict())
    output = load_teacher(f"test_vit={path}", image_size=SIZE)(random_images())
    tokens = network.forward_features(random_images())
    assert output.features is not None
    assert output.features.shape == (2, 64, 4, 4)
    torch.testing.assert_close(output.features[:, :, 1, 2], tokens[:, 1 + 1 * 4 + 2])
    torch.testing.assert_close(output.embedding, tokens[:, 0])
