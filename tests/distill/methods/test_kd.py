"""KD as a method: soft labels, labels beside them, and teachers that are no classifiers."""

import dataclasses

import pytest
import torch
from support.distill import (
    tiny_batch,
    tiny_inputs,
    tiny_progress,
    tiny_student,
    tiny_teacher,
)
from torch import Tensor
from torch.nn import functional as F

from edgeseed.core.errors import ConfigError
from edgeseed.distill.method import Batch
from edgeseed.distill.methods._soft_labels import warn_of_ignorance
from edgeseed.distill.methods.kd import Kd, KdConfig
from edgeseed.distill.networks.frozen import FrozenTeacher

PLAN = Kd.views(KdConfig(), 32)


def make(parts: dict[str, object] | None = None, **config: object) -> Kd:
    torch.manual_seed(0)
    return Kd(KdConfig(**config), tiny_inputs(Kd, **(parts or {})))  # type: ignore[arg-type]


def teacher_logits(method: Kd, batch: Batch) -> Tensor:
    return method.teacher.project(method.teacher(batch).embedding, "classifier")


def literal_loss(method: Kd, batch: Batch, *, soft: float, label: float, t: float) -> Tensor:
    logits = method.student(batch.views[0]).logits
    assert logits is not None
    assert batch.labels is not None
    p = (teacher_logits(method, batch) / t).softmax(1)
    soft_loss: Tensor = -t * t * (p * (logits / t).log_softmax(1)).sum(1).mean()
    return soft * soft_loss + label * F.cross_entropy(logits, batch.labels)


def test_loss_of_a_step_is_the_literal_one_with_labels() -> None:
    batch = tiny_batch(PLAN, labels=True)
    result = make()(batch, tiny_progress())
    expected = literal_loss(make(), batch, soft=0.9, label=0.1, t=4.0)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_loss_of_a_step_is_the_literal_one_without_labels() -> None:
    batch = tiny_batch(PLAN, labels=True)
    method = make({"labels": None}, temperature=2.0, soft_weight=1.0)
    result = method(dataclasses.replace(batch, labels=None), tiny_progress())
    expected = literal_loss(make(), batch, soft=1.0, label=0.0, t=2.0)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert "label_loss" not in result.logs


def test_one_optimiser_step_is_the_gradient_of_the_formula() -> None:
    method, batch = make(), tiny_batch(PLAN, labels=True)
    head = method.student.network.head
    assert head is not None
    before = head.weight.detach().clone()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    method(batch, tiny_progress()).loss.backward()
    optimizer.step()
    twin = make()
    assert twin.student.network.head is not None
    loss = literal_loss(twin, batch, soft=0.9, label=0.1, t=4.0)
    (gradient,) = torch.autograd.grad(loss, [twin.student.network.head.weight])
    torch.testing.assert_close(head.weight.detach(), before - 0.1 * gradient)


def test_floor_is_reached_by_a_student_that_answers_as_the_teacher() -> None:
    method, batch = make(label_weight=0.0), tiny_batch(PLAN, labels=True)
    answer = teacher_logits(method, batch)
    method.student.register_forward_hook(
        lambda _module, _inputs, output: output._replace(logits=answer)
    )
    result = method(batch, tiny_progress())
    assert result.floor is not None
    assert result.loss.item() == pytest.approx(float(result.floor), rel=1e-5)


def test_labels_are_used_where_there_are_any_and_it_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert make().label_weight == 0.1
    assert (
        "labels with weight 0.1; label_weight=0 uses the teacher alone" in capsys.readouterr().err
    )
    assert make({"labels": None}).label_weight == 0.0
    assert make({"labels": torch.full((32,), -1)}).label_weight == 0.0
    assert make(label_weight=0.5).label_weight == 0.5


def test_wish_for_labels_that_are_not_there_names_the_way_out() -> None:
    with pytest.raises(ConfigError, match=r"label_weight=0.5 needs labels.*or use label_weight=0"):
        make({"labels": None}, label_weight=0.5)


def test_classifier_ships_with_the_student() -> None:
    method = make()
    assert set(method.networks()) == {"student"}
    assert method.heads() == {}
    assert method.networks()["student"].classes == ("cat", "dog", "fox")


def test_teacher_without_a_classifier_is_told_to_fine_tune_first() -> None:
    with pytest.raises(ConfigError, match=r"has no classifier; .*`edgeseed finetune .*--labels 1%"):
        make({"teacher": FrozenTeacher(tiny_teacher(heads=("projection",)))})


def test_teacher_of_other_classes_is_refused() -> None:
    student = tiny_student(classes=("ape", "bee"))
    with pytest.raises(ConfigError, match="tells 3 classes apart, and the student 2"):
        make({"student": student, "num_classes": 2})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0}, "temperature=0 must be above 0"),
        ({"soft_weight": -1}, "soft_weight=-1 must not be negative"),
        ({"label_weight": -1}, "label_weight=-1 must not be negative"),
        ({"soft_weight": 0}, "leave nothing to learn"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KdConfig(**settings)


@pytest.mark.parametrize(
    ("sharpness", "labels", "said"),
    [
        (8.0, "right", ""),
        (8.0, "in another order", "is right about 0% of 64 labelled photos, and a guess about 25%"),
        (8.0, None, ""),
        (0.1, None, "of the entropy of a guess; is it made for photos like these, at 32 px"),
        (0.1, "right", "of the entropy of a guess"),
    ],
)
def test_a_teacher_that_guesses_is_called_so(
    sharpness: float, labels: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It teaches at another size, or classes in another order: the loss falls all the same."""
    classes = torch.arange(64) % 4
    known = None if labels is None else (classes if labels == "right" else (classes + 1) % 4)
    teacher = make().teacher
    capsys.readouterr()
    warn_of_ignorance(teacher, sharpness * F.one_hot(classes, 4).float(), known)
    err = " ".join(capsys.readouterr().err.split())
    assert said in err
    assert bool(said) == bool(err)


def test_the_teacher_is_asked_at_the_first_step_alone(capsys: pytest.CaptureFixture[str]) -> None:
    method, batch = make({"labels": None}), tiny_batch(PLAN, labels=True)
    blind = dataclasses.replace(batch, labels=None)
    with torch.no_grad():
        for parameter in method.teacher.heads["classifier"].parameters():
            parameter.zero_()
    method(blind, dataclasses.replace(tiny_progress(), step=1))
    assert "guess" not in capsys.readouterr().err
    method(blind, dataclasses.replace(tiny_progress(), step=0))
    assert "guess" in capsys.readouterr().err
