"""The method of fine-tuning: its loss, and the shift and scale that it starts with."""

from typing import Any

import pytest
import torch
from support.distill import tiny_batch, tiny_progress
from torch import nn

from edgeseed.core.preprocess import Preprocess
from edgeseed.distill.method import MethodInputs
from edgeseed.distill.networks.frozen import Student
from edgeseed.distill.networks.students import create_student
from edgeseed.distill.supervised import FinetuneConfig, Supervised

SIZE = 16


def _supervised(*, train: Any = "all", num_classes: int = 3) -> Supervised:
    network, architecture = create_student("test_resnet", seed=0, image_size=SIZE)
    torch.manual_seed(0)
    network.head = nn.Linear(network.embedding_dim, num_classes)
    student = Student(
        network, architecture=architecture, preprocess=Preprocess(image_size=SIZE, resize=SIZE)
    )
    inputs = MethodInputs(
        student=student,
        num_samples=8,
        num_classes=num_classes,
        batch_size=4,
        total_steps=2,
        steps_per_epoch=2,
        generator=torch.Generator(),
    )
    return Supervised(FinetuneConfig(train=train), inputs)


@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_the_classifier() -> None:
    method = _supervised().eval()
    plan = Supervised.views(FinetuneConfig(), SIZE)
    batch = tiny_batch(plan, batch_size=4, labels=True)
    assert batch.labels is not None
    result = method(batch, tiny_progress())
    logits = method.student(batch.views[0]).logits
    expected = 0.0
    for row, label in zip(logits, batch.labels, strict=True):
        expected -= float(row[label] - row.exp().sum().log())
    assert float(result.loss) == pytest.approx(expected / 4, rel=1e-5)


def test_standardisation_is_folded_away_exactly() -> None:
    method = _supervised().eval()
    embeddings = 3 + 7 * torch.randn(20, method.student.embedding_dim)
    method.standardise(embeddings)
    head = method.student.network.head
    assert head is not None
    expected = head((embeddings - method.mean) * method.scale)
    method.finish()
    torch.testing.assert_close(head(embeddings), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(method.mean, torch.zeros_like(method.mean))


def test_a_frozen_trunk_stays_in_eval_mode() -> None:
    method = _supervised(train="head")
    method.train()
    assert not any(part.training for part in method.student.network.backbone.modules())
    assert not any(p.requires_grad for p in method.student.network.backbone.parameters())


def test_settings_check_themselves() -> None:
    with pytest.raises(ValueError, match="label_smoothing"):
        FinetuneConfig(label_smoothing=1.0)
    with pytest.raises(ValueError, match="min_scale"):
        FinetuneConfig(min_scale=0.0)
