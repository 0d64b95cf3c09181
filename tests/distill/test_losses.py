"""Each loss against a slow, literal version of its formula, by hand, and by its invariants."""

import math

import pytest
import torch
from torch import Tensor

from edgeseed.distill.losses import (
    cosine_and_smooth_l1,
    entropy,
    queue_similarity,
    soft_cross_entropy,
)


def literal_seed_loss(
    student: list[list[float]],
    teacher: list[list[float]],
    queue: list[list[float]],
    *,
    tau_student: float,
    tau_teacher: float,
) -> float:
    """The formula of methods.md A.1, one number after another, in Python floats."""

    def unit(vector: list[float]) -> list[float]:
        length = math.sqrt(sum(x * x for x in vector))
        return [x / length for x in vector]

    def dot(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    def softmax(values: list[float]) -> list[float]:
        top = max(values)
        powers = [math.exp(value - top) for value in values]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for z_s, z_t in zip(map(unit, student), map(unit, teacher), strict=True):
        l_s = [dot(z_s, entry) / tau_student for entry in (z_t, *queue)]
        l_t = [dot(z_t, entry) / tau_teacher for entry in (z_t, *queue)]
        log_sum = max(l_s) + math.log(sum(math.exp(value - max(l_s)) for value in l_s))
        total -= sum(p * (value - log_sum) for p, value in zip(softmax(l_t), l_s, strict=True))
    return total / len(student)


def seed_loss(
    student: Tensor, teacher: Tensor, queue: Tensor, tau_s: float, tau_t: float
) -> Tensor:
    student_logits, teacher_logits = queue_similarity(
        student, teacher, queue, tau_student=tau_s, tau_teacher=tau_t
    )
    return soft_cross_entropy(student_logits, teacher_logits.softmax(1))


def rows(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def units(*shape: int, seed: int = 0) -> Tensor:
    return torch.nn.functional.normalize(rows(*shape, seed=seed), dim=1)


@pytest.mark.parametrize(("tau_s", "tau_t"), [(0.2, 0.01), (0.07, 0.07), (1.0, 0.5)])
def test_seed_loss_is_the_formula(tau_s: float, tau_t: float) -> None:
    student, teacher, queue = rows(5, 7), rows(5, 7, seed=1), units(11, 7, seed=2)
    expected = literal_seed_loss(
        student.tolist(), teacher.tolist(), queue.tolist(), tau_student=tau_s, tau_teacher=tau_t
    )
    assert float(seed_loss(student, teacher, queue, tau_s, tau_t)) == pytest.approx(expected, 1e-10)


def test_seed_loss_has_the_value_computed_by_hand() -> None:
    # z_S = z_T = e1, one queue entry e2, both temperatures 1: logits (1, 0) on both sides, so
    # p = e / (1 + e) and the loss is p log(1 + 1/e) + (1 - p)(1 + log(1 + 1/e)) = 0.58220...
    basis = torch.eye(2, dtype=torch.float64)
    value = seed_loss(basis[:1], basis[:1], basis[1:], 1.0, 1.0)
    p = math.e / (1 + math.e)
    by_hand = p * math.log1p(1 / math.e) + (1 - p) * (1 + math.log1p(1 / math.e))
    assert by_hand == pytest.approx(0.582203, abs=1e-6)
    assert float(value) == pytest.approx(by_hand, rel=1e-12)


def test_seed_loss_becomes_infonce_as_the_teachers_temperature_goes_to_zero() -> None:
    student, teacher, queue = units(4, 8), units(4, 8, seed=1), units(16, 8, seed=2)
    infonce_logits = torch.cat([(student * teacher).sum(1, True), student @ queue.T], 1) / 0.2
    infonce = torch.nn.functional.cross_entropy(infonce_logits, torch.zeros(4, dtype=torch.long))
    assert float(seed_loss(student, teacher, queue, 0.2, 1e-4)) == pytest.approx(float(infonce))


def test_seed_loss_ignores_the_length_of_embeddings_and_the_order_of_the_queue() -> None:
    student, teacher, queue = rows(4, 8), rows(4, 8, seed=1), units(16, 8, seed=2)
    before = seed_loss(student, teacher, queue, 0.2, 0.05)
    shuffled = queue[torch.randperm(16, generator=torch.Generator().manual_seed(0))]
    after = seed_loss(3 * student, 0.1 * teacher, shuffled, 0.2, 0.05)
    torch.testing.assert_close(after, before)


def test_seed_loss_reaches_its_floor_when_student_and_teacher_agree() -> None:
    teacher, queue = units(4, 8, seed=1), units(16, 8, seed=2)
    student_logits, teacher_logits = queue_similarity(
        teacher, teacher, queue, tau_student=0.07, tau_teacher=0.07
    )
    target = teacher_logits.softmax(1)
    torch.testing.assert_close(soft_cross_entropy(student_logits, target), entropy(target))


def test_no_student_gets_below_the_floor() -> None:
    teacher, queue = units(4, 8, seed=1), units(16, 8, seed=2)
    for seed in range(5):
        logits, teacher_logits = queue_similarity(
            units(4, 8, seed=10 + seed), teacher, queue, tau_student=0.2, tau_teacher=0.05
        )
        target = teacher_logits.softmax(1)
        assert soft_cross_entropy(logits, target) > entropy(target)


def test_own_embedding_is_column_zero_and_is_there_once() -> None:
    student, teacher, queue = units(3, 8), units(3, 8, seed=1), units(16, 8, seed=2)
    student_logits, teacher_logits = queue_similarity(
        student, teacher, queue, tau_student=0.5, tau_teacher=0.25
    )
    assert student_logits.shape == teacher_logits.shape == (3, 17)
    torch.testing.assert_close(teacher_logits[:, 0], torch.full((3,), 4.0, dtype=torch.float64))
    assert bool((teacher_logits[:, 1:] < 4.0 - 1e-6).all())
    torch.testing.assert_close(student_logits[:, 0], (student * teacher).sum(1) / 0.5)


def test_seed_loss_passes_gradcheck() -> None:
    student = rows(3, 4).requires_grad_()
    teacher, queue = rows(3, 4, seed=1), units(6, 4, seed=2)
    assert torch.autograd.gradcheck(
        lambda z: seed_loss(z, teacher, queue, 0.2, 0.1), (student,), raise_exception=True
    )


def test_regression_loss_has_the_value_computed_by_hand() -> None:
    # Perpendicular unit vectors: 1 - cos = 1; each of two differences is 1, smooth L1 of it 0.5.
    loss = cosine_and_smooth_l1(
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([[0.0, 1.0]]),
        cosine_weight=1,
        smooth_l1_weight=0.1,
    )
    assert float(loss) == pytest.approx(1 + 0.1 * 0.5)


def test_regression_loss_is_the_formula() -> None:
    prediction, target = rows(4, 6), 2 * rows(4, 6, seed=1)
    total = 0.0
    for p, t in zip(prediction.tolist(), target.tolist(), strict=True):
        dot = sum(a * b for a, b in zip(p, t, strict=True))
        cosine = dot / math.sqrt(sum(a * a for a in p) * sum(b * b for b in t))
        differences = [abs(a - b) for a, b in zip(p, t, strict=True)]
        smooth = sum(d * d / 2 if d < 1 else d - 0.5 for d in differences) / len(p)
        total += (0.9 * (1 - cosine) + 0.1 * smooth) / 4
    loss = cosine_and_smooth_l1(prediction, target, cosine_weight=0.9, smooth_l1_weight=0.1)
    assert float(loss) == pytest.approx(total, rel=1e-10)


def test_regression_loss_is_zero_at_equality_and_ignores_the_order_of_photos() -> None:
    prediction, target = rows(4, 6), rows(4, 6, seed=1)
    assert float(
        cosine_and_smooth_l1(target, target, cosine_weight=1, smooth_l1_weight=1)
    ) == pytest.approx(0, abs=1e-12)
    order = torch.tensor([2, 0, 3, 1])
    weights = {"cosine_weight": 1.0, "smooth_l1_weight": 0.1}
    torch.testing.assert_close(
        cosine_and_smooth_l1(prediction[order], target[order], **weights),
        cosine_and_smooth_l1(prediction, target, **weights),
    )


def test_cosine_part_of_the_regression_ignores_scale_and_the_other_part_does_not() -> None:
    prediction, target = rows(4, 6), rows(4, 6, seed=1)

    def loss(factor: float, smooth: float) -> float:
        weights = {"cosine_weight": 1.0, "smooth_l1_weight": smooth}
        return float(cosine_and_smooth_l1(factor * prediction, target, **weights))

    assert loss(7.0, 0.0) == pytest.approx(loss(1.0, 0.0))
    assert loss(7.0, 0.1) > loss(1.0, 0.1) + 0.01


def test_regression_loss_passes_gradcheck() -> None:
    target = rows(3, 4, seed=1)
    assert torch.autograd.gradcheck(
        lambda p: cosine_and_smooth_l1(p, target, cosine_weight=1.0, smooth_l1_weight=0.1),
        (rows(3, 4).requires_grad_(),),
        raise_exception=True,
    )


def test_losses_compute_in_float32_whatever_the_networks_ran_in() -> None:
    # At a temperature of 0.01 a bfloat16 logit near 100 is off by up to 0.25: softmax by a quarter.
    student, teacher, queue = (
        units(4, 16).float(),
        units(4, 16, seed=1).float(),
        units(32, 16).float(),
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = queue_similarity(student, teacher, queue, tau_student=0.2, tau_teacher=0.01)
    outside = queue_similarity(student, teacher, queue, tau_student=0.2, tau_teacher=0.01)
    for got, expected in zip(inside, outside, strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)
    narrow = queue_similarity(student.bfloat16(), teacher, queue, tau_student=0.2, tau_teacher=0.01)
    assert narrow[0].dtype == torch.float32


def test_entropy_of_one_hot_is_zero_and_of_uniform_is_log_n() -> None:
    assert float(entropy(torch.eye(4))) == 0.0
    assert float(entropy(torch.full((2, 8), 1 / 8))) == pytest.approx(math.log(8))
