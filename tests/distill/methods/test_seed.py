"""SEED as a method: what enters the queue and when, what is trained, and what is left out."""

import pytest
import torch
from support.distill import (
    PROJECTION_DIM,
    tiny_batch,
    tiny_inputs,
    tiny_progress,
    tiny_teacher,
)
from torch.nn import functional as F

from edgeseed.core.errors import ConfigError
from edgeseed.distill.losses import queue_similarity
from edgeseed.distill.methods.seed import Seed, SeedConfig
from edgeseed.distill.networks.frozen import FrozenTeacher
from edgeseed.distill.teachers import Teacher, TeacherOutput

PLAN = Seed.views(SeedConfig(), 32)


def make(**config: object) -> Seed:
    torch.manual_seed(0)
    return Seed(SeedConfig(queue_size=16, **config), tiny_inputs(Seed))  # type: ignore[arg-type]


def test_loss_of_a_step_is_the_literal_one() -> None:
    method, batch = make().eval(), tiny_batch(PLAN)
    result = method(batch, tiny_progress())
    teacher = method.teacher.project(method.teacher(batch).embedding, "projection")
    student = F.normalize(method.head(method.student(batch.views[0]).embedding), dim=1)
    teacher = F.normalize(teacher, dim=1)
    total = 0.0
    for z_s, z_t in zip(student, teacher, strict=True):
        entries = torch.cat([z_t[None], method.queue.entries])
        p_t = (entries @ z_t / 0.01).softmax(0)
        total -= (p_t * (entries @ z_s / 0.2).log_softmax(0)).sum().item() / len(student)
    assert result.loss.item() == pytest.approx(total, rel=1e-5)


def test_queue_takes_the_batch_only_after_the_step() -> None:
    # If it took it before, a photo's own embedding would be in twice, and its weight doubled.
    method, batch = make().eval(), tiny_batch(PLAN)
    before = method.queue.entries.clone()
    method(batch, tiny_progress())
    assert torch.equal(method.queue.entries, before)
    method.after_step(tiny_progress())
    expected = F.normalize(method.teacher.project(method.teacher(batch).embedding, "projection"))
    torch.testing.assert_close(method.queue.entries[:8], expected)
    assert torch.equal(method.queue.entries[8:], before[8:])
    assert int(method.queue.pointer) == 8


def test_one_optimiser_step_is_the_gradient_of_the_formula() -> None:
    method, batch = make(), tiny_batch(PLAN)
    weight = method.head.get_parameter("0.weight")
    before = weight.detach().clone()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    result = method(batch, tiny_progress())
    result.loss.backward()
    optimizer.step()

    twin = make()
    twin.student.load_state_dict(make().student.state_dict())
    teacher = twin.teacher.project(twin.teacher(batch).embedding, "projection")
    embedding = twin.head(twin.student(batch.views[0]).embedding)
    l_s, l_t = queue_similarity(
        embedding, teacher, twin.queue.entries, tau_student=0.2, tau_teacher=0.01
    )
    loss = (-(l_t.softmax(1) * l_s.log_softmax(1)).sum(1)).mean()
    (gradient,) = torch.autograd.grad(loss, [twin.head.get_parameter("0.weight")])
    torch.testing.assert_close(weight.detach(), before - 0.1 * gradient)
    assert not torch.equal(weight.detach(), before)


def test_loss_falls_on_a_batch_that_is_shown_again_and_again() -> None:
    method, batch = make(), tiny_batch(PLAN)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        result = method(batch, tiny_progress())
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(result.loss.item())
    assert min(losses[-3:]) < 0.6 * losses[0]


def test_teacher_head_is_used_where_there_is_one_and_may_be_declined() -> None:
    assert make().queue.entries.shape == (16, PROJECTION_DIM)
    method = make(teacher_features="trunk")
    assert method.queue.entries.shape == (16, method.teacher.embedding_dim)


def test_missing_teacher_head_names_the_way_out() -> None:
    inputs = tiny_inputs(Seed, teacher=FrozenTeacher(tiny_teacher()))
    with pytest.raises(ConfigError, match="no projection head; use teacher_features=trunk"):
        Seed(SeedConfig(teacher_features="head"), inputs)


def test_queue_that_is_no_multiple_of_the_batch_names_one_that_is() -> None:
    with pytest.raises(ConfigError, match=r"queue_size=20 is not a multiple of the batch of 8.*16"):
        Seed(SeedConfig(queue_size=20), tiny_inputs(Seed))


def test_usual_queue_shrinks_to_a_small_set_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    method = Seed(SeedConfig(), tiny_inputs(Seed, num_samples=29))
    assert len(method.queue.entries) == 24
    assert "queue of 24 embeddings instead of 65536" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["tau_student", "tau_teacher"])
def test_temperature_must_be_above_zero(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0 must be above 0"):
        make(**{name: 0})


# --------------------------------------------------------------------------- small patches

SMALL_PLAN = Seed.views(SeedConfig(small_patches=2), 32)


def test_small_patches_are_cut_as_in_the_paper() -> None:
    full, *small = Seed.views(SeedConfig(small_patches=6), 224).crops
    assert (full.size, full.scale) == (224, (0.14, 1.0))
    assert [(crop.size, crop.scale) for crop in small] == [(96, (0.05, 0.14))] * 6


def test_loss_with_small_patches_is_the_literal_one() -> None:
    method, batch = make(small_patches=2).eval(), tiny_batch(SMALL_PLAN)
    result = method(batch, tiny_progress())
    total = 0.0
    for view, queue, share in zip(
        batch.views, (method.queue, method.small_queue, method.small_queue), (1, 2, 2), strict=True
    ):
        # Not enlarged: the teacher's convolutions take any size. It normalises by 0.5 and 0.5.
        answer = method.teacher.network((view - 0.5) / 0.5).embedding
        teacher = F.normalize(method.teacher.project(answer, "projection"), dim=1)
        student = F.normalize(method.head(method.student(view).embedding), dim=1)
        for z_s, z_t in zip(student, teacher, strict=True):
            entries = torch.cat([z_t[None], queue.entries])
            p_t = (entries @ z_t / 0.01).softmax(0)
            part = (p_t * (entries @ z_s / 0.2).log_softmax(0)).sum().item()
            total -= part / len(student) / share
    assert result.loss.item() == pytest.approx(total, rel=1e-5)
    assert result.loss.item() >= float(result.floor or 0)


def test_small_queue_takes_the_first_small_patch_of_each_photo() -> None:
    method, batch = make(small_patches=2).eval(), tiny_batch(SMALL_PLAN)
    assert not torch.equal(method.queue.entries, method.small_queue.entries)
    method(batch, tiny_progress())
    method.after_step(tiny_progress())
    for view, queue in ((0, method.queue), (1, method.small_queue)):
        answer = method.teacher.answer(batch.views[view], resize=False).embedding
        expected = F.normalize(method.teacher.project(answer, "projection"), dim=1)
        torch.testing.assert_close(queue.entries[:8], expected)
        assert int(queue.pointer) == 8


def test_teacher_of_one_size_gets_small_patches_enlarged_and_it_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class OneSize(Teacher):
        def forward(self, images: torch.Tensor) -> TeacherOutput:
            assert images.shape[2:] == (32, 32), "as timm's transformers say it"
            return super().forward(images)

    teacher = tiny_teacher(heads=("projection",))
    teacher.__class__ = OneSize
    inputs = tiny_inputs(Seed, teacher=FrozenTeacher(teacher))
    method = Seed(SeedConfig(queue_size=16, small_patches=2), inputs)
    assert "small crops are enlarged" in capsys.readouterr().err
    result = method(tiny_batch(SMALL_PLAN), tiny_progress())
    assert bool(torch.isfinite(result.loss))


def test_number_of_small_patches_must_not_be_negative() -> None:
    with pytest.raises(ValueError, match="small_patches=-1 must not be negative"):
        SeedConfig(small_patches=-1)
