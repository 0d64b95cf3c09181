"""Queue-KL as a method: what a photo is compared with, the term within photos, and its step."""

import pytest
import torch
from support.distill import tiny_batch, tiny_inputs, tiny_progress, tiny_teacher
from torch import Tensor
from torch.nn import functional as F

from edgeseed.core.errors import ConfigError
from edgeseed.core.preprocess import Preprocess
from edgeseed.distill.methods.queue_kl import QueueKl, QueueKlConfig
from edgeseed.distill.networks.frozen import FrozenTeacher
from edgeseed.distill.teachers import Teacher, TeacherOutput

PLAN = QueueKl.views(QueueKlConfig(), 32)


def make(**config: object) -> QueueKl:
    torch.manual_seed(0)
    return QueueKl(
        QueueKlConfig(queue_size=16, **config),  # type: ignore[arg-type]
        tiny_inputs(QueueKl),
    )


@torch.no_grad()
def literal_loss(student: Tensor, teacher: Tensor, queue: Tensor, tau: float) -> float:
    """KL of each photo over batch and queue, one entry after another."""
    student, teacher = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    entries, total = torch.cat([teacher, queue]), 0.0
    for z_s, z_t in zip(student, teacher, strict=True):
        p = (entries @ z_t / tau).softmax(0)
        q = (entries @ z_s / tau).softmax(0)
        total += sum(a * (a.log() - b.log()) for a, b in zip(p, q, strict=True)) / len(student)
    return float(total)


@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_loss_of_a_step_is_the_literal_one(tau: float) -> None:
    method = make(tau_student=tau, tau_teacher=tau).eval()
    batch = tiny_batch(PLAN)
    result = method(batch, tiny_progress())
    student = method.head(method.student(batch.views[0]).embedding)
    teacher = method.teacher(batch).embedding
    expected = literal_loss(student, teacher, method.queue.entries, tau)
    assert result.loss.item() == pytest.approx(expected, rel=1e-4)
    assert result.floor == 0.0


def test_own_embedding_is_among_the_entries_once() -> None:
    # Twice would double its share; not at all is CompRess, where nothing says "this photo".
    method, batch = make().eval(), tiny_batch(PLAN)
    result = method(batch, tiny_progress())
    teacher = F.normalize(method.teacher(batch).embedding, dim=1)
    target = (teacher @ torch.cat([teacher, method.queue.entries]).T / 0.07).softmax(1)
    expected = -(target * target.log()).sum(1).mean()
    torch.testing.assert_close(result.logs["teacher_entropy"], expected)
    assert torch.equal(target.argmax(1), torch.arange(8))


def test_queue_takes_the_batch_only_after_the_step() -> None:
    method, batch = make().eval(), tiny_batch(PLAN)
    before = method.queue.entries.clone()
    method(batch, tiny_progress())
    assert torch.equal(method.queue.entries, before)
    method.after_step(tiny_progress())
    expected = F.normalize(method.teacher(batch).embedding, dim=1)
    torch.testing.assert_close(method.queue.entries[:8], expected)


def test_loss_is_zero_where_the_student_sees_what_the_teacher_sees() -> None:
    method, batch = make().eval(), tiny_batch(PLAN)
    teacher = method.teacher(batch).embedding
    method.head.register_forward_hook(lambda *_: 3.0 * teacher)
    assert method(batch, tiny_progress()).loss.item() == pytest.approx(0, abs=1e-6)


def test_one_optimiser_step_is_the_gradient_of_the_formula() -> None:
    method, batch = make(), tiny_batch(PLAN)
    weight = method.head.weight
    before = weight.detach().clone()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    method(batch, tiny_progress()).loss.backward()
    optimizer.step()
    twin = make()
    teacher = F.normalize(twin.teacher(batch).embedding, dim=1)
    student = F.normalize(twin.head(twin.student(batch.views[0]).embedding), dim=1)
    entries = torch.cat([teacher, twin.queue.entries])
    p = (teacher @ entries.T / 0.07).softmax(1)
    loss = (p * (p.log() - (student @ entries.T / 0.07).log_softmax(1))).sum(1).mean()
    (gradient,) = torch.autograd.grad(loss, [twin.head.weight])
    torch.testing.assert_close(weight.detach(), before - 0.1 * gradient)


def test_patch_term_is_the_literal_one_and_trains_the_trunk() -> None:
    # The student sees 2 x 2 places, the teacher, on the same pixels enlarged, 3 x 3.
    teacher = tiny_teacher()
    teacher.preprocess = Preprocess(image_size=96, resize=96)
    torch.manual_seed(0)
    inputs = tiny_inputs(QueueKl, teacher=FrozenTeacher(teacher))
    method = QueueKl(QueueKlConfig(queue_size=16, patch_weight=0.5), inputs).eval()
    batch = tiny_batch(QueueKl.views(method.config, 64))
    result = method(batch, tiny_progress())
    expected = literal_patch_loss(method, batch.views[0])
    assert float(result.logs["patch_loss"]) == pytest.approx(expected, rel=1e-4)
    result.loss.backward()
    assert all(p.grad is not None for p in method.patch_head.parameters())
    assert set(method.heads()) == {"head", "patch_head"}


@torch.no_grad()
def literal_patch_loss(method: QueueKl, view: Tensor) -> float:
    """KL of each place over the places of its photo, one place after another."""
    _, student = method.student.embed_with_map(view)
    teacher = method.teacher.answer(view).features
    assert teacher is not None
    assert (student.shape[2:], teacher.shape[2:]) == ((2, 2), (3, 3))
    mapped = torch.einsum("bchw,dc->bdhw", student, method.patch_head.weight)
    mapped = mapped + method.patch_head.bias[:, None, None]
    mapped = F.interpolate(mapped, (3, 3), mode="bilinear")
    total = 0.0
    for own, theirs in zip(mapped, teacher, strict=True):
        s, t = (F.normalize(one.flatten(1).T, dim=1) for one in (own, theirs))
        for i in range(9):
            p = (t @ t[i] / 0.07).softmax(0)
            total += float((p * (p.log() - (s @ s[i] / 0.07).log_softmax(0))).sum())
    return total / len(teacher) / 9


def test_teacher_without_a_map_names_the_way_out() -> None:
    class Blind(Teacher):
        def forward(self, images: Tensor) -> TeacherOutput:
            return TeacherOutput(super().forward(images).embedding, None)

    teacher = tiny_teacher()
    teacher.__class__ = Blind
    inputs = tiny_inputs(QueueKl, teacher=FrozenTeacher(teacher))
    with pytest.raises(ConfigError, match="gives no feature map; use a setting that needs none"):
        QueueKl(QueueKlConfig(queue_size=16, patch_weight=1.0), inputs)


def test_views_are_blended_unless_declined() -> None:
    assert PLAN.mixup
    assert not QueueKl.views(QueueKlConfig(mixup=False), 32).mixup


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tau_student", 0, "tau_student=0 must be above 0"),
        ("tau_teacher", -1, "tau_teacher=-1 must be above 0"),
        ("patch_weight", -1, "patch_weight=-1 must not be negative"),
    ],
)
def test_bad_settings_are_named(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueueKlConfig(**{name: value})  # type: ignore[arg-type]
