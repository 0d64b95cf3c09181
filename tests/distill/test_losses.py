"""Each loss against a slow, literal version of its formula, by hand, and by its invariants."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from edgeseed.distill import distributed
from edgeseed.distill.losses import (
    cosine_and_smooth_l1,
    entropy,
    info_nce,
    kl_divergence,
    labelled_cross_entropy,
    nt_xent,
    queue_similarity,
    soft_cross_entropy,
    soft_label_loss,
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


# --------------------------------------------------------------------------- contrast


def literal_nt_xent(first: Tensor, second: Tensor, temperature: float) -> float:
    """SimCLR's formula, one anchor and one candidate after another."""
    views = [*first, *second]
    count, total = len(first), 0.0
    for i, anchor in enumerate(views):
        partner = (i + count) % (2 * count)
        powers = {
            j: math.exp(float(anchor @ other / anchor.norm() / other.norm()) / temperature)
            for j, other in enumerate(views)
            if j != i
        }
        total -= math.log(powers[partner] / sum(powers.values()))
    return total / count


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_nt_xent_is_the_formula(temperature: float) -> None:
    first, second = rows(6, 5), rows(6, 5, seed=1)
    expected = literal_nt_xent(first, second, temperature)
    assert float(nt_xent(first, second, temperature=temperature)) == pytest.approx(expected, 1e-10)


def test_nt_xent_has_the_value_computed_by_hand() -> None:
    # Both views of two photos are e1 and e2, τ = 1. Each anchor has one candidate at cosine 1 (its
    # other view) and two at 0; its own view is none. So L = 2 log(1 + 2/e) = 1.1030...
    basis = torch.eye(2, dtype=torch.float64)
    value = float(nt_xent(basis, basis, temperature=1.0))
    assert value == pytest.approx(2 * math.log(1 + 2 / math.e), rel=1e-12)
    assert value == pytest.approx(1.102889, abs=1e-6)


def test_nt_xent_ignores_length_the_order_of_photos_and_which_view_is_first() -> None:
    first, second = rows(6, 5), rows(6, 5, seed=1)
    before = nt_xent(first, second, temperature=0.2)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(nt_xent(3 * second, 0.1 * first, temperature=0.2), before)
    torch.testing.assert_close(nt_xent(first[order], second[order], temperature=0.2), before)


def test_a_lone_photo_has_nothing_to_be_told_from() -> None:
    # With its own view among the candidates this would be log 2.
    assert float(nt_xent(rows(1, 5), rows(1, 5), temperature=0.1)) == 0.0


def test_nt_xent_over_two_ranks_is_that_of_one_with_its_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Gathering without the gradient (`all_gather`'s own) would train photos as anchors only.
    first, second = rows(6, 5).requires_grad_(), rows(6, 5, seed=1).requires_grad_()
    together = nt_xent(first, second, temperature=0.2)
    expected = torch.autograd.grad(together, [first, second])
    losses = []
    for rank in range(2):
        # What the other rank would send: nt_xent gathers its first views, then its second.
        sent = iter([torch.nn.functional.normalize(views, dim=1) for views in (first, second)])
        monkeypatch.setattr(distributed, "gather_with_grad", lambda _, sent=sent: next(sent))
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        mine = [views.chunk(2)[rank] for views in (first, second)]
        losses.append(nt_xent(mine[0], mine[1], temperature=0.2))
    mean = torch.stack(losses).mean()
    torch.testing.assert_close(mean, together)
    for got, wanted in zip(torch.autograd.grad(mean, [first, second]), expected, strict=True):
        torch.testing.assert_close(got, wanted)


def test_nt_xent_passes_gradcheck() -> None:
    inputs = (rows(4, 3).requires_grad_(), rows(4, 3, seed=1).requires_grad_())
    assert torch.autograd.gradcheck(
        lambda a, b: nt_xent(a, b, temperature=0.3), inputs, raise_exception=True
    )


def literal_info_nce(query: Tensor, key: Tensor, queue: Tensor, temperature: float) -> float:
    total = 0.0
    for q, k in zip(query, key, strict=True):
        q, k = q / q.norm(), k / k.norm()
        powers = [math.exp(float(q @ entry) / temperature) for entry in (k, *queue)]
        total -= math.log(powers[0] / sum(powers))
    return total / len(query)


def test_info_nce_is_the_formula() -> None:
    query, key, queue = rows(4, 6), rows(4, 6, seed=1), units(9, 6, seed=2)
    loss, logits = info_nce(query, key, queue, temperature=0.2)
    assert float(loss) == pytest.approx(literal_info_nce(query, key, queue, 0.2), 1e-10)
    assert logits.shape == (4, 10)


def test_info_nce_has_the_value_computed_by_hand() -> None:
    # q = k = e1, one key e2 in the queue, τ = 1: L = log(1 + 1/e) = 0.313262.
    basis = torch.eye(2, dtype=torch.float64)
    loss, _ = info_nce(basis[:1], basis[:1], basis[1:], temperature=1.0)
    assert float(loss) == pytest.approx(math.log1p(1 / math.e), rel=1e-12)
    assert float(loss) == pytest.approx(0.313262, abs=1e-6)


def test_info_nce_ignores_length_and_the_order_of_the_queue_and_passes_gradcheck() -> None:
    query, key, queue = rows(3, 4), rows(3, 4, seed=1), units(6, 4, seed=2)
    before, _ = info_nce(query, key, queue, temperature=0.2)
    after, _ = info_nce(5 * query, 0.2 * key, queue.flip(0), temperature=0.2)
    torch.testing.assert_close(after, before)
    assert torch.autograd.gradcheck(
        lambda q: info_nce(q, key, queue, temperature=0.2)[0],
        (query.requires_grad_(),),
        raise_exception=True,
    )


# --------------------------------------------------------------------------- soft labels


def test_kl_divergence_is_the_mean_over_photos_not_over_classes() -> None:
    # DoGo's code takes PyTorch's default, the mean over all entries: here 7 times smaller.
    logits, target = rows(5, 7), rows(5, 7, seed=1).softmax(1)
    total = 0.0
    for row, p in zip(logits.log_softmax(1).tolist(), target.tolist(), strict=True):
        total += sum(q * (math.log(q) - value) for q, value in zip(p, row, strict=True)) / 5
    assert float(kl_divergence(logits, target)) == pytest.approx(total, rel=1e-10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        default = torch.nn.functional.kl_div(logits.log_softmax(1), target)
    assert float(kl_divergence(logits, target)) == pytest.approx(7 * float(default))


def test_kl_divergence_is_zero_at_equality_and_cross_entropy_less_entropy_elsewhere() -> None:
    logits, target = rows(5, 7), rows(5, 7, seed=1).softmax(1)
    assert float(kl_divergence(target.log() + 3.0, target)) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(
        kl_divergence(logits, target), soft_cross_entropy(logits, target) - entropy(target)
    )


def test_kl_divergence_to_one_hot_targets_is_finite() -> None:
    assert bool(torch.isfinite(kl_divergence(rows(3, 3), torch.eye(3, dtype=torch.float64))))


def test_soft_label_loss_has_the_value_computed_by_hand() -> None:
    # Teacher (2, 0) at T = 2: p = e / (1 + e) = 0.731059. A student that knows nothing has log 2,
    # times T² = 4: 2.772589. The floor is 4 times the entropy 0.582203 of p: 2.328812.
    student, teacher = torch.zeros(1, 2), torch.tensor([[2.0, 0.0]])
    loss, floor = soft_label_loss(student, teacher, temperature=2.0)
    assert float(loss) == pytest.approx(4 * math.log(2), abs=1e-6)
    assert float(floor) == pytest.approx(2.328812, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_label_loss_is_the_formula(temperature: float) -> None:
    student, teacher = rows(5, 4), rows(5, 4, seed=1)
    total = 0.0
    for s, t in zip(
        (student / temperature).tolist(), (teacher / temperature).tolist(), strict=True
    ):
        p = [math.exp(value) / sum(map(math.exp, t)) for value in t]
        log_sum = math.log(sum(map(math.exp, s)))
        total -= sum(q * (value - log_sum) for q, value in zip(p, s, strict=True)) / 5
    loss, _ = soft_label_loss(student, teacher, temperature=temperature)
    assert float(loss) == pytest.approx(temperature**2 * total, rel=1e-10)


def test_soft_label_gradient_is_that_of_matching_logits_at_high_temperature() -> None:
    # Hinton, eq. 4: for logits of mean zero, T² dL/dz -> (z - v) / N as T grows. Without the T² the
    # gradient would vanish.
    student, teacher = rows(3, 5), rows(3, 5, seed=1)
    student, teacher = (z - z.mean(1, keepdim=True) for z in (student, teacher))
    student.requires_grad_()
    loss, _ = soft_label_loss(student, teacher, temperature=1e3)
    (gradient,) = torch.autograd.grad(loss, [student])
    expected = (student - teacher).detach() / 5 / 3
    torch.testing.assert_close(gradient, expected, rtol=1e-2, atol=1e-4)


def test_soft_label_loss_ignores_a_shift_of_logits_and_passes_gradcheck() -> None:
    student, teacher = rows(3, 4), rows(3, 4, seed=1)
    before, floor = soft_label_loss(student, teacher, temperature=3.0)
    after, _ = soft_label_loss(student + 2, teacher - 7, temperature=3.0)
    torch.testing.assert_close(after, before)
    equal, _ = soft_label_loss(teacher, teacher, temperature=3.0)
    torch.testing.assert_close(equal, floor)
    assert torch.autograd.gradcheck(
        lambda z: soft_label_loss(z, teacher, temperature=3.0)[0],
        (student.requires_grad_(),),
        raise_exception=True,
    )


def test_cross_entropy_counts_photos_with_a_label_only() -> None:
    logits, labels = rows(4, 3), torch.tensor([2, -1, 0, -1])
    expected = -(logits.log_softmax(1)[0, 2] + logits.log_softmax(1)[2, 0]) / 2
    torch.testing.assert_close(labelled_cross_entropy(logits, labels), expected)
    assert float(labelled_cross_entropy(logits, torch.full((4,), -1))) == 0.0
