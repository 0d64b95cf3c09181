"""CRD as a method: its loss, its two banks and their fixed Z, which photos are the others."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.distill import (
    CLASSES,
    tiny_batch,
    tiny_inputs,
    tiny_progress,
    tiny_student,
    tiny_teacher,
)
from torch import Tensor
from torch.nn import functional as F

from edgeseed.core.errors import ConfigError
from edgeseed.core.network import load_student
from edgeseed.distill import distill
from edgeseed.distill.methods import METHODS, crd
from edgeseed.distill.methods.crd import (
    ContrastMemory,
    Crd,
    CrdConfig,
    NegativeSampler,
    bank_products,
    contrast_loss,
)
from edgeseed.distill.networks.frozen import FrozenTeacher

PLAN = Crd.views(CrdConfig(), 32)


def waves(*shape: int, shift: float) -> Tensor:
    """Numbers without a generator, so that golden values hold for ever."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(1.7 * steps + shift).reshape(shape)


def units(*shape: int, shift: float) -> Tensor:
    return F.normalize(waves(*shape, shift=shift), dim=1)


def memory_of(student: Tensor, teacher: Tensor, *, tau: float = 0.07) -> ContrastMemory:
    memory = ContrastMemory(
        len(student), dim=student.shape[1], tau=tau, momentum=0.5, generator=torch.Generator()
    ).double()
    memory.student.copy_(student)
    memory.teacher.copy_(teacher)
    return memory


def make(*, labelled: bool = True, parts: dict[str, Any] | None = None, **config: Any) -> Crd:
    torch.manual_seed(0)
    changes: dict[str, Any] = {} if labelled else {"labels": None, "student": tiny_student()}
    return Crd(CrdConfig(**config), tiny_inputs(Crd, **(changes | (parts or {}))))


def batch_of(*, labelled: bool = True, seed: int = 0) -> Any:
    return tiny_batch(PLAN, labels=labelled, seed=seed)


# --------------------------------------------------------------------------- the loss


def literal_loss(
    anchors: list[list[float]], bank: list[list[float]], indices: list[list[int]], *, tau: float
) -> float:
    """methods.md A.5 for one direction, one number after another, in Python floats."""
    n, b, k = len(bank), len(anchors), len(indices[0]) - 1
    raw = [
        [math.exp(sum(x * y for x, y in zip(v, bank[j], strict=True)) / tau) for j in row]
        for v, row in zip(anchors, indices, strict=True)
    ]
    z = n * sum(map(sum, raw)) / (b * (k + 1))
    total = 0.0
    for row in raw:
        p = [value / z for value in row]
        total -= math.log(p[0] / (p[0] + k / n + 1e-7))
        total -= sum(math.log((k / n) / (q + k / n + 1e-7)) for q in p[1:])
    return total / b


INDICES = torch.tensor([[0, 1, 2, 5, 4], [3, 0, 6, 1, 1], [6, 5, 4, 3, 2]])


@pytest.mark.parametrize("tau", [0.07, 0.5])
def test_loss_is_the_formula(tau: float) -> None:
    student, teacher = units(3, 4, shift=0), units(3, 4, shift=1)
    memory = memory_of(waves(7, 4, shift=2), waves(7, 4, shift=4), tau=tau)
    p_student, p_teacher = memory(student, teacher, INDICES)
    indices: list[list[int]] = INDICES.tolist()
    for probabilities, anchors, bank in (
        (p_student, student, memory.teacher),
        (p_teacher, teacher, memory.student),
    ):
        expected = literal_loss(anchors.tolist(), bank.tolist(), indices, tau=tau)
        assert float(contrast_loss(probabilities, num_samples=7)) == pytest.approx(expected, 1e-9)


def test_two_steps_have_the_values_of_the_authors_code() -> None:
    # HobbitLong/RepDistiller, crd/memory.py and crd/criterion.py, run in float64 on these numbers:
    # a first step that fixes Z and moves the banks, and a second with the anchors exchanged.
    v_s, v_t, own = units(3, 4, shift=0), units(3, 4, shift=1), torch.tensor([0, 3, 6])
    memory = memory_of(0.8 * waves(7, 4, shift=2), 0.8 * waves(7, 4, shift=4))
    losses = []
    for student, teacher in ((v_s, v_t), (v_t, v_s)):
        scores = memory(student, teacher, INDICES)
        losses.append(sum(float(contrast_loss(p, num_samples=7)) for p in scores))
        memory.update(student, teacher, own)
    assert memory.normalizers.tolist() == pytest.approx([6465442.478411631, 2416715.902694867])
    assert losses == pytest.approx([31.289664996446703, 24.983544052119335])
    assert memory.student[3].tolist() == pytest.approx(
        [0.6042170177594323, -0.36136469585930536, -0.51109731477093, 0.49306884597422557]
    )
    assert memory.teacher.sum().item() == pytest.approx(-0.4716872663783096)


def test_one_positive_and_one_negative_have_the_value_computed_by_hand() -> None:
    # n = 2, K = 1, so K / n = 1/2; P = 1/2 for both: h = 1/2, and the loss - log 1/2 - log 1/2.
    half = torch.full((1, 2), 0.5, dtype=torch.float64)
    assert float(contrast_loss(half, num_samples=2)) == pytest.approx(2 * math.log(2), abs=1e-6)


def test_loss_ignores_the_order_of_photos_and_of_negatives() -> None:
    probabilities = waves(4, 9, shift=0).square() + 0.1
    before = contrast_loss(probabilities, num_samples=50)
    shuffled = probabilities[torch.tensor([2, 0, 3, 1])][:, [0, 5, 3, 8, 1, 2, 7, 6, 4]]
    torch.testing.assert_close(contrast_loss(shuffled, num_samples=50), before)


def test_loss_falls_as_the_photo_is_found_and_rises_as_another_is() -> None:
    even = torch.full((1, 5), 0.3, dtype=torch.float64)
    base = float(contrast_loss(even, num_samples=20))
    for column, sign in ((0, -1), (1, 1), (4, 1)):
        moved = even.clone()
        moved[0, column] += 0.1
        assert sign * (float(contrast_loss(moved, num_samples=20)) - base) > 1e-3


@pytest.mark.parametrize("chunked", [False, True])
def test_loss_passes_gradcheck(chunked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if chunked:
        monkeypatch.setattr(crd, "_SMALL_BANK", 0)
        monkeypatch.setattr(crd, "_CHUNK_NUMBERS", 2 * 3 * 4)
    memory = memory_of(units(7, 4, shift=2), units(7, 4, shift=4), tau=0.5)

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        scores = memory(student, teacher, INDICES)
        return sum((contrast_loss(p, num_samples=7) for p in scores), torch.zeros(()))

    anchors = (units(3, 4, shift=0).requires_grad_(), units(3, 4, shift=1).requires_grad_())
    loss(*anchors)  # fixes Z: it is a constant, the first batch's gradient is not its
    assert torch.autograd.gradcheck(loss, anchors)


# --------------------------------------------------------------------------- memory


def test_products_in_chunks_are_the_products_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    anchors, bank = units(5, 8, shift=0).requires_grad_(), units(40, 8, shift=1)
    indices = torch.randint(40, (5, 9), generator=torch.Generator().manual_seed(0))
    weights = waves(5, 9, shift=3)
    results = []
    everything = 5 * 40
    for small_bank, most, numbers in (
        (100, everything, 1), (0, everything, 1), (0, everything, 5 * 8 * 4),
        (0, everything, 10**6), (100, everything - 1, 5 * 8 * 4),
    ):  # fmt: skip
        monkeypatch.setattr(crd, "_SMALL_BANK", small_bank)
        monkeypatch.setattr(crd, "_MOST_PRODUCTS", most)
        monkeypatch.setattr(crd, "_CHUNK_NUMBERS", numbers)
        products = bank_products(anchors, bank, indices)
        (gradient,) = torch.autograd.grad((products * weights).sum(), anchors)
        results.append((products, gradient))
    literal = torch.einsum("bd,bkd->bk", anchors, bank[indices])
    for products, gradient in results:
        torch.testing.assert_close(products, literal)
        torch.testing.assert_close(gradient, results[0][1])


def test_no_more_rows_are_copied_at_once_than_said() -> None:
    # All of (256, 16385, 128) in float32 is 2.1 GB, and the authors' code holds it twice.
    indices = torch.zeros(256, 16_385, dtype=torch.int64)
    widest = max(part.shape[1] for part in crd._column_chunks(indices, 128))
    assert 256 * widest * 128 <= crd._CHUNK_NUMBERS
    assert sum(part.shape[1] for part in crd._column_chunks(indices, 128)) == 16_385


def test_the_products_of_a_large_bank_are_never_all_held(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def apply(anchors: Tensor, bank: Tensor, indices: Tensor) -> Tensor:
        asked.append(len(bank))
        return anchors.new_zeros(indices.shape)

    monkeypatch.setattr(crd._ChunkedProducts, "apply", apply)
    monkeypatch.setattr(crd, "_MOST_PRODUCTS", 4 * 60)
    for rows in (60, 61):
        indices = torch.zeros(4, 30, dtype=torch.int64)
        bank_products(units(4, 8, shift=0), units(rows, 8, shift=1), indices)
    assert asked == [61]


def test_nothing_of_the_banks_is_kept_for_the_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crd, "_SMALL_BANK", 0)
    anchors, bank = units(4, 8, shift=0).requires_grad_(), units(60, 8, shift=1)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        bank_products(anchors, bank, torch.zeros(4, 30, dtype=torch.int64))
    assert all(tensor.data_ptr() == bank.data_ptr() or tensor.numel() == 4 * 30 for tensor in kept)


def test_bank_starts_uniform_between_the_papers_bounds() -> None:
    memory = make(labelled=False, parts={"num_samples": 64}).memory
    bound = math.sqrt(3 / 128)
    for bank in (memory.student, memory.teacher):
        assert bank.shape == (64, 128)
        assert bank.abs().max() <= bound
        assert float(bank.square().sum(1).mean()) == pytest.approx(1, abs=0.1)
    assert not torch.equal(memory.student, memory.teacher)


def test_z_is_fixed_by_the_first_batch() -> None:
    method = make()
    method(batch_of(), tiny_progress())
    method.after_step(tiny_progress())
    fixed = method.memory.normalizers.clone()
    assert bool((fixed > 0).all())
    method(batch_of(seed=5), tiny_progress(1))
    assert torch.equal(method.memory.normalizers, fixed)


def test_z_and_banks_go_on_where_they_were_saved() -> None:
    # The authors' live in the loss, which is in no checkpoint: resumed, Z is that of another batch.
    method = make()
    method(batch_of(), tiny_progress())
    method.after_step(tiny_progress())
    resumed = make()
    resumed.load_state_dict(method.state_dict(), strict=True)
    assert resumed.sampler.order.tolist() == method.sampler.order.tolist()
    losses = [one(batch_of(seed=5), tiny_progress(1)).loss for one in (method, resumed)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(resumed.memory.normalizers, method.memory.normalizers)
    forgetful = make()
    state = method.state_dict()
    state["memory.normalizers"] = torch.zeros(2)
    forgetful.load_state_dict(state)
    assert not torch.equal(forgetful(batch_of(seed=5), tiny_progress(1)).loss, losses[0])


def test_banks_take_the_batch_only_after_the_step() -> None:
    method, batch = make(), batch_of()
    before = [method.memory.student.clone(), method.memory.teacher.clone()]
    method(batch, tiny_progress())
    banks = [method.memory.student, method.memory.teacher]
    assert all(torch.equal(now, then) for now, then in zip(banks, before, strict=True))
    method.after_step(tiny_progress())
    for bank, then in zip(banks, before, strict=True):
        assert torch.equal(bank[8:], then[8:])
        torch.testing.assert_close(bank[:8].norm(dim=1), torch.ones(8))
        assert not torch.equal(bank[:8], then[:8])


# --------------------------------------------------------------------------- the others


def test_negatives_of_a_photo_are_all_other_classes_evenly() -> None:
    labels = torch.tensor([2, 0, 1, 0, 2, 0, 1])
    sampler = NegativeSampler(7, labels)
    own = torch.arange(7)
    drawn = sampler.draw(own, count=4000, generator=torch.Generator().manual_seed(0))
    for photo, row in zip(own.tolist(), drawn, strict=True):
        counts = torch.bincount(row, minlength=7)
        other = labels != labels[photo]
        assert bool((counts[~other] == 0).all())
        expected = 4000 / int(other.sum())
        assert bool(((counts[other] - expected).abs() < 5 * math.sqrt(expected)).all())


def test_without_labels_the_others_are_all_but_the_photo_itself() -> None:
    sampler = NegativeSampler(9, None)
    drawn = sampler.draw(torch.tensor([0, 4, 8]), count=3000, generator=torch.Generator())
    for photo, row in zip((0, 4, 8), drawn, strict=True):
        assert set(row.tolist()) == set(range(9)) - {photo}


def test_photo_without_a_label_has_all_others_and_is_a_negative_of_all() -> None:
    sampler = NegativeSampler(5, torch.tensor([0, 0, -1, 1, -1]))
    drawn = sampler.draw(torch.tensor([0, 2]), count=500, generator=torch.Generator())
    assert set(drawn[0].tolist()) == {2, 3, 4}
    assert set(drawn[1].tolist()) == {0, 1, 3, 4}


def test_relax_looks_for_any_photo_of_the_class_and_exact_for_the_photo_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Tensor] = []
    forward = ContrastMemory.forward

    def spy(self: ContrastMemory, student: Tensor, teacher: Tensor, indices: Tensor) -> Any:
        seen.append(indices)
        return forward(self, student, teacher, indices)

    monkeypatch.setattr(ContrastMemory, "forward", spy)
    for negatives in ("exact", "relax", "uniform"):
        make(negatives=negatives)(batch_of(), tiny_progress())
    labels = torch.arange(32) % len(CLASSES)
    exact, relax, uniform = (indices[:, 0] for indices in seen)
    assert torch.equal(exact, torch.arange(8))
    assert torch.equal(uniform, torch.arange(8))
    assert torch.equal(labels[relax], labels[:8])
    assert not torch.equal(relax, exact)
    for indices in seen:
        assert not bool((indices[:, 1:] == torch.arange(8)[:, None]).any())
    assert not bool((labels[seen[0][:, 1:]] == labels[:8, None]).any())


def test_negatives_are_drawn_from_the_steps_generator() -> None:
    # So that a resumed run draws the same, and two steps draw others.
    losses = [make()(batch_of(seed=seed), tiny_progress()).logs["crd_loss"] for seed in (1, 1, 2)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])


# --------------------------------------------------------------------------- the method


def test_loss_of_a_step_is_the_literal_one() -> None:
    method, batch = make(kd_weight=1.0).eval(), batch_of()
    result = method(batch, tiny_progress())
    twin, again = make().eval(), batch_of()
    output = twin.student(again.views[0])
    teacher = twin.teacher(again).embedding
    others = twin.sampler.draw(again.indices, count=31, generator=again.generator)
    indices = torch.cat([again.indices[:, None], others], 1).tolist()
    v_s = F.normalize(twin.student_embedding(output.embedding), dim=1)
    v_t = F.normalize(twin.teacher_embedding(teacher), dim=1)
    contrast = sum(
        literal_loss(v.tolist(), bank.tolist(), indices, tau=0.07)
        for v, bank in ((v_s, twin.memory.teacher), (v_t, twin.memory.student))
    )
    label_loss = F.cross_entropy(output.logits, again.labels).item()
    logits = twin.teacher.project(teacher, "classifier")
    kd = 16 * F.kl_div(
        (output.logits / 4).log_softmax(1), (logits / 4).softmax(1), reduction="batchmean"
    )
    assert result.loss.item() == pytest.approx(0.8 * contrast + label_loss + kd.item(), rel=1e-4)


def test_one_optimiser_step_is_the_gradient_of_the_formula() -> None:
    method = make()
    weights = [method.student_embedding.weight, method.teacher_embedding.weight]
    before = [weight.detach().clone() for weight in weights]
    method(batch_of(), tiny_progress()).loss.backward()
    torch.optim.SGD(method.parameters(), lr=0.1).step()

    twin, batch = make(), batch_of()
    others = twin.sampler.draw(batch.indices, count=31, generator=batch.generator)
    indices = torch.cat([batch.indices[:, None], others], 1)
    v_s = F.normalize(twin.student_embedding(twin.student(batch.views[0]).embedding), dim=1)
    v_t = F.normalize(twin.teacher_embedding(twin.teacher(batch).embedding), dim=1)
    loss = torch.zeros(())
    for v, bank in ((v_s, twin.memory.teacher), (v_t, twin.memory.student)):
        raw = torch.einsum("bd,bkd->bk", v, bank[indices]).div(0.07).exp()
        p, m = raw / (32 * raw.mean().detach()), 31 / 32
        logs = torch.cat([(p / (p + m + 1e-7))[:, :1], m / (p + m + 1e-7)[:, 1:]], 1).log()
        loss = loss - 0.8 * logs.sum(1).mean()
    gradients = torch.autograd.grad(
        loss, [twin.student_embedding.weight, twin.teacher_embedding.weight]
    )
    for weight, then, gradient in zip(weights, before, gradients, strict=True):
        torch.testing.assert_close(weight.detach(), then - 0.1 * gradient, rtol=1e-4, atol=1e-6)
        assert not torch.equal(weight.detach(), then)


def test_both_embeddings_learn_and_neither_ships() -> None:
    method = make()
    method(batch_of(), tiny_progress()).loss.backward()
    assert method.teacher_embedding.weight.grad is not None
    assert float(method.teacher_embedding.weight.grad.abs().sum()) > 0
    assert set(method.heads()) == {"student_embedding", "teacher_embedding"}


def test_loss_falls_on_a_batch_that_is_shown_again_and_again() -> None:
    method = make()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for step in range(12):
        result = method(batch_of(), tiny_progress(step))
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        method.after_step(tiny_progress(step))
        losses.append(result.loss.item())
    assert min(losses[-3:]) < 0.7 * losses[0]


def test_without_labels_there_is_no_classifier_and_it_says_that_others_do_better(
    capsys: pytest.CaptureFixture[str],
) -> None:
    method = make(labelled=False)
    warning = capsys.readouterr().err
    assert "not the recommended default" in warning
    assert "regress" in warning
    result = method(batch_of(labelled=False), tiny_progress())
    assert set(result.logs) == {"crd_loss"}
    torch.testing.assert_close(result.loss.detach(), 0.8 * result.logs["crd_loss"])
    assert "not a recommended default" in METHODS.summary("crd")


def test_usual_negatives_shrink_to_a_small_set_and_what_was_asked_for_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert make().num_negatives == 31
    assert "31 negatives instead of 16384: there are 32 photos" in capsys.readouterr().err
    assert make(num_negatives=50).num_negatives == 50


def test_small_photos_are_seen_nearly_whole() -> None:
    assert Crd.views(CrdConfig(), 32).crops[0].scale == ((28 / 32) ** 2, 1.0)
    assert Crd.views(CrdConfig(), 224).crops[0].scale == (0.08, 1.0)


# --------------------------------------------------------------------------- wrong calls


@pytest.mark.parametrize("negatives", ["exact", "relax"])
def test_negatives_of_other_classes_without_labels_name_the_way_out(negatives: str) -> None:
    with pytest.raises(ConfigError, match=f"negatives={negatives}.*class folders.*uniform"):
        make(labelled=False, negatives=negatives)


def test_photos_of_one_class_only_name_the_way_out() -> None:
    with pytest.raises(ConfigError, match="all photos are of one; use negatives=uniform"):
        make(parts={"labels": torch.zeros(32, dtype=torch.int64)})


def test_kd_needs_a_teacher_that_tells_the_same_classes_apart() -> None:
    headless = FrozenTeacher(tiny_teacher())
    with pytest.raises(ConfigError, match="classifier, and tiny test_resnet has none"):
        make(kd_weight=1.0, parts={"teacher": headless})
    with pytest.raises(ConfigError, match="which need labels; use kd_weight=0"):
        make(labelled=False, kd_weight=1.0)
    other = tiny_student(classes=("rose", "lily", "iris"))
    with pytest.raises(
        ConfigError, match="the photos' 3 classes, and tiny test_resnet tells 3 oth"
    ):
        make(kd_weight=1.0, parts={"student": other})


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tau", 0, "tau=0 must be above 0"),
        ("kd_weight", -1, "kd_weight=-1 must not be negative"),
        ("num_negatives", 0, "num_negatives=0 must be at least 1"),
        ("bank_momentum", 1.0, "bank_momentum=1.0 must be from 0 up to below 1"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrdConfig(**{field: value})


# --------------------------------------------------------------------------- end to end


def test_run_with_labels_ships_a_classifier_and_resumes_exactly(
    make_photos: Any, teacher_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = make_photos(24, classes=2)

    def run(out: str, **changes: Any) -> Any:
        return distill(
            method="crd", teacher=teacher_file, student="test_efficientnet", data=photos,
            out=tmp_path / out, epochs=2, batch_size=8, image_size=32, devices="cpu", **changes,
        )  # fmt: skip

    whole = run("whole")
    network, spec = load_student(whole.student)
    assert spec.classes == ("class0", "class1")
    assert network.head is not None
    monkeypatch.setattr(
        "edgeseed.distill.training.trainer.Trainer._end_epoch", _die_after_one_epoch()
    )
    with pytest.raises(KeyboardInterrupt):
        run("cut")
    monkeypatch.undo()
    resumed = run("cut", resume=True)
    assert resumed.loss == whole.loss
    again = load_student(resumed.student)[0].state_dict()
    assert all(torch.equal(again[name], value) for name, value in network.state_dict().items())


def _die_after_one_epoch() -> Any:
    from edgeseed.distill.training.trainer import Trainer

    end_epoch = Trainer._end_epoch

    def end_and_die(self: Trainer) -> None:
        end_epoch(self)
        raise KeyboardInterrupt

    return end_and_die


def test_run_without_labels_ships_a_trunk(
    make_photos: Any, teacher_file: str, tmp_path: Path
) -> None:
    result = distill(
        method="crd", teacher=teacher_file, student="test_efficientnet", data=make_photos(8),
        out=tmp_path / "run", epochs=1, batch_size=8, image_size=32, devices="cpu",
    )  # fmt: skip
    assert load_student(result.student)[1].classes is None
