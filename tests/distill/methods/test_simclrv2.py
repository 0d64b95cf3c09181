"""SimCLRv2's third step as a method: soft labels without any label, or mixed with a few."""

import dataclasses
from typing import Any

import pytest
import torch
from support.distill import tiny_batch, tiny_inputs, tiny_progress, tiny_teacher
from torch import Tensor
from torch.nn import functional as F

from edgeseed.core.errors import ConfigError
from edgeseed.distill.method import Batch
from edgeseed.distill.methods.simclrv2 import Simclrv2, Simclrv2Config
from edgeseed.distill.networks.frozen import FrozenTeacher

PLAN = Simclrv2.views(Simclrv2Config(), 32)


def make(parts: dict[str, Any] | None = None, **config: object) -> Simclrv2:
    torch.manual_seed(0)
    return Simclrv2(
        Simclrv2Config(**config),  # type: ignore[arg-type]
        tiny_inputs(Simclrv2, **(parts or {})),
    )


def literal_loss(method: Simclrv2, batch: Batch, *, alpha: float, t: float) -> Tensor:
    logits = method.student(batch.views[0]).logits
    assert logits is not None
    answer = method.teacher.project(method.teacher(batch).embedding, "classifier")
    p = (answer / t).softmax(1)
    total: Tensor = -alpha * t * t * (p * (logits / t).log_softmax(1)).sum(1).mean()
    if batch.labels is not None and alpha < 1:
        known = batch.labels >= 0
        total = total + (1 - alpha) * F.cross_entropy(logits[known], batch.labels[known])
    return total


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_loss_of_a_step_is_the_literal_one_without_labels(temperature: float) -> None:
    batch = dataclasses.replace(tiny_batch(PLAN), labels=None)
    result = make({"labels": None}, temperature=temperature)(batch, tiny_progress())
    expected = literal_loss(make(), batch, alpha=1.0, t=temperature)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_loss_of_a_step_is_the_literal_one_with_a_few_labels() -> None:
    batch = tiny_batch(PLAN, labels=True)
    few = torch.tensor([0, -1, -1, 2, -1, -1, 1, -1])
    batch = dataclasses.replace(batch, labels=few)
    result = make(alpha=0.7)(batch, tiny_progress())
    expected = literal_loss(make(), batch, alpha=0.7, t=1.0)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert result.loss.item() > float(result.floor or 0)


def test_one_optimiser_step_is_the_gradient_of_the_formula() -> None:
    method, batch = make(), dataclasses.replace(tiny_batch(PLAN), labels=None)
    head = method.student.network.head
    assert head is not None
    before = head.weight.detach().clone()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    method(batch, tiny_progress()).loss.backward()
    optimizer.step()
    twin = make()
    assert twin.student.network.head is not None
    loss = literal_loss(twin, batch, alpha=1.0, t=1.0)
    (gradient,) = torch.autograd.grad(loss, [twin.student.network.head.weight])
    torch.testing.assert_close(head.weight.detach(), before - 0.1 * gradient)


def test_without_labels_in_the_loss_labels_change_nothing() -> None:
    batch = tiny_batch(PLAN, labels=True)
    losses = [
        make()(dataclasses.replace(batch, labels=labels), tiny_progress()).loss
        for labels in (batch.labels, None)
    ]
    assert torch.equal(losses[0], losses[1])


def test_views_are_cropped_and_flipped_and_never_coloured() -> None:
    (crop,) = PLAN.crops
    assert crop.flip == 0.5
    assert crop.scale == (0.08, 1.0)
    assert crop.jitter == crop.grey == crop.blur == crop.solarize == 0
    assert not PLAN.mixup


def test_teacher_that_saw_no_labels_is_told_to_fine_tune_first() -> None:
    with pytest.raises(ConfigError, match=r"simclrv2 learns soft labels.*`edgeseed finetune"):
        make({"teacher": FrozenTeacher(tiny_teacher())})


def test_share_for_labels_that_are_not_there_names_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"alpha=0.5 gives.*use alpha=1, or class folders"):
        make({"labels": None}, alpha=0.5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature=0 must be above 0"),
        ({"alpha": 1.5}, "alpha=1.5 must be from 0 to 1"),
        ({"min_scale": 0}, "min_scale=0 must be above 0"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Simclrv2Config(**settings)
