"""DoGo as a method: two networks, four losses, and who gets which gradient."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.distill import tiny_batch, tiny_inputs, tiny_progress, tiny_student
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.core.errors import UsageError
from edgeseed.core.network import load_student
from edgeseed.distill import DistillResult, distill
from edgeseed.distill.data.views import Augmenter
from edgeseed.distill.losses import nt_xent
from edgeseed.distill.methods.dogo import (
    Dogo,
    DogoConfig,
    SimsiamHead,
    mutual_kl,
    negative_cosine,
)
from edgeseed.distill.training.trainer import Trainer

PLAN = Dogo.views(DogoConfig(), 32)
PARTS = ("student_ssl", "student_kl", "peer_ssl", "peer_kl")


def waves(*shape: int, shift: float) -> Tensor:
    """Numbers without a generator, so that golden values hold for ever."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(1.7 * steps + shift).reshape(shape)


def make(**config: Any) -> Dogo:
    torch.manual_seed(0)
    return Dogo(DogoConfig(**config), tiny_inputs(Dogo))


# --------------------------------------------------------------------------- losses


def literal_kl(
    first: list[list[float]],
    second: list[list[float]],
    other_first: list[list[float]],
    other_second: list[list[float]],
    *,
    tau: float,
) -> float:
    """KL(P_other ‖ P) of methods.md A.2, one number after another, in Python floats."""

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    def row(anchor: list[float], others: list[list[float]]) -> list[float]:
        powers = [math.exp(cosine(anchor, other) / tau) for other in others]
        return [power / sum(powers) for power in powers]

    total = 0.0
    for own, other in zip(first, other_first, strict=True):
        p, q = row(other, other_second), row(own, second)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total / len(first)


VIEWS = [waves(6, 5, shift=shift) for shift in (0.0, 1.0, 2.0, 4.0)]


@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_kl_is_the_formula(tau: float) -> None:
    expected = literal_kl(*(view.tolist() for view in VIEWS), tau=tau)
    assert float(mutual_kl(*VIEWS, tau=tau)) == pytest.approx(expected, rel=1e-9)


def test_losses_have_the_values_of_the_authors_code() -> None:
    # NeurAI-Lab/DoGo, criterion/kl.py and ntxent.py, run in float64 on these numbers. Their KL is
    # the mean over all N x N entries, ours over the N rows: 6 times as much for these 6 photos.
    a, b, c, d = VIEWS
    assert float(mutual_kl(a, b, c, d, tau=0.1)) == pytest.approx(6 * 0.41703847769973845)
    assert float(mutual_kl(c, d, a, b, tau=0.1)) == pytest.approx(6 * 1.0122504481338148)
    assert float(nt_xent(a, b, temperature=0.5)) / 2 == pytest.approx(1.95213823858011)
    assert float(nt_xent(c, d, temperature=0.5)) / 2 == pytest.approx(3.996020791140609)


def test_kl_is_the_mean_over_rows_and_the_papers_weight_is_converted() -> None:
    # F.kl_div's default reduction divides by N x N: the authors' weight of 100 at a batch of 256 is
    # 100 / 256 of a KL that is the mean over rows.
    a, b, c, d = (F.normalize(view, dim=1) for view in VIEWS)
    own, other = (a @ b.T / 0.1).log_softmax(1), (c @ d.T / 0.1).softmax(1)
    with pytest.warns(UserWarning, match="batchmean"):
        mean_of_entries = F.kl_div(own, other, reduction="mean")
    kl = mutual_kl(*VIEWS, tau=0.1)
    torch.testing.assert_close(kl, F.kl_div(own, other, reduction="batchmean"))
    torch.testing.assert_close(kl / 6, mean_of_entries)
    assert DogoConfig().kl_weight * 256 == 100


def test_kl_is_zero_for_networks_that_agree_and_only_for_them() -> None:
    a, b, c, d = VIEWS
    assert float(mutual_kl(a, b, a, b, tau=0.1)) == pytest.approx(0, abs=1e-9)
    assert float(mutual_kl(a, b, c, d, tau=0.1)) > 0.1


def test_kl_ignores_lengths_the_order_of_photos_and_how_a_network_turns_its_space() -> None:
    a, b, c, d = VIEWS
    before = mutual_kl(a, b, c, d, tau=0.1)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(mutual_kl(a[order], b[order], c[order], d[order], tau=0.1), before)
    torch.testing.assert_close(mutual_kl(3 * a, 0.2 * b, c, 7 * d, tau=0.1), before)
    turn, _ = torch.linalg.qr(waves(5, 5, shift=9))
    torch.testing.assert_close(mutual_kl(a, b, c @ turn, d @ turn, tau=0.1), before)


def test_networks_may_have_embeddings_of_unlike_length() -> None:
    a, b = VIEWS[:2]
    assert torch.isfinite(mutual_kl(a, b, waves(6, 9, shift=2), waves(6, 9, shift=4), tau=0.1))


def test_kl_stays_finite_where_the_log_of_a_softmax_does_not() -> None:
    # The authors take softmax(...).log(): at a low temperature float32 has probabilities of 0.
    a, b, c, d = (view.float() for view in VIEWS)
    own = (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.005).softmax(1).log()
    assert bool(torch.isinf(own).any())
    assert torch.isfinite(mutual_kl(a, b, c, d, tau=0.005))


def test_losses_pass_gradcheck() -> None:
    a, b, c, d = VIEWS
    first, second = a[:4].clone().requires_grad_(), b[:4].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, y: mutual_kl(x, y, c[:4], d[:4], tau=0.3), (first, second)
    )
    assert torch.autograd.gradcheck(
        lambda x, y: negative_cosine(x, y, c[:4], d[:4]), (first, second)
    )


def test_the_other_network_gets_no_gradient() -> None:
    a, b, c, d = (view.clone().requires_grad_() for view in VIEWS)
    mutual_kl(a, b, c, d, tau=0.1).backward()
    assert a.grad is not None
    assert b.grad is not None
    assert c.grad is None
    assert d.grad is None


def test_simsiam_loss_is_the_mean_of_two_cosines_and_stops_the_gradient() -> None:
    p, p2, z, z2 = (view.clone().requires_grad_() for view in VIEWS)
    loss = negative_cosine(p, p2, z, z2)
    cosines = F.cosine_similarity(p, z2) + F.cosine_similarity(p2, z)
    torch.testing.assert_close(loss, -cosines.mean() / 2)
    loss.backward()
    assert z.grad is None
    assert z2.grad is None
    assert negative_cosine(z, z, z, z).item() == pytest.approx(-1)


# --------------------------------------------------------------------------- method


@pytest.mark.parametrize("losses", [("simclr", "simclr"), ("simsiam", "simclr")])
def test_loss_of_a_step_is_the_literal_one(losses: tuple[str, str]) -> None:
    method = make(student_loss=losses[0], peer_loss=losses[1]).eval()
    batch = tiny_batch(PLAN)
    result = method(batch, tiny_progress())
    x1, y1, x2, y2 = batch.views
    (px1, zx1), (py1, zy1) = (
        method.student_head(method.student(view).embedding) for view in (x1, y1)
    )
    (px2, _), (py2, _) = (method.peer_head(method.peer(view).embedding) for view in (x2, y2))
    if losses[0] == "simsiam":
        ssl = -(F.cosine_similarity(px1, zy1) + F.cosine_similarity(py1, zx1)).mean() / 2
    else:
        ssl = nt_xent(px1, py1, temperature=0.5) / 2
    kl, peer_kl = (
        literal_kl(*(view.tolist() for view in views), tau=0.1)
        for views in ((px1, py1, px2, py2), (px2, py2, px1, py1))
    )
    expected = ssl + nt_xent(px2, py2, temperature=0.5) / 2 + 100 / 256 * (kl + peer_kl)
    assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert float(result.logs["student_ssl"]) == pytest.approx(ssl.item(), rel=1e-5)


def test_two_simsiam_networks_aim_their_predictions_at_the_others_projections() -> None:
    method = make(student_loss="simsiam", peer_loss="simsiam").eval()
    batch = tiny_batch(PLAN)
    result = method(batch, tiny_progress())
    student = [method.student_head(method.student(v).embedding) for v in batch.views[:2]]
    peer = [method.peer_head(method.peer(v).embedding) for v in batch.views[2:]]
    expected = mutual_kl(
        student[0].prediction, student[1].prediction, peer[0].projection, peer[1].projection,
        tau=0.1,
    )  # fmt: skip
    torch.testing.assert_close(result.logs["student_kl"], expected.detach())


class Wrapped(nn.Module):
    """What DataParallel, DDP and torch.compile do: the network behind another class."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *arguments: Any) -> Any:
        return self.module(*arguments)


@pytest.mark.parametrize("loss", ["simclr", "simsiam"])
def test_wrapped_networks_lose_none_of_the_losses(loss: str) -> None:
    # The authors ask isinstance(model, SimCLR), which DataParallel makes false: on several GPUs
    # only the KL was left, and no word about it.
    plain = make(student_loss=loss, peer_loss=loss)
    before = plain(tiny_batch(PLAN), tiny_progress())
    wrapped = make(student_loss=loss, peer_loss=loss)
    for name in ("student", "peer", "student_head", "peer_head"):
        setattr(wrapped, name, Wrapped(getattr(wrapped, name)))
    after = nn.DataParallel(wrapped)(tiny_batch(PLAN), tiny_progress())
    assert set(after.logs) == set(PARTS)
    for name in PARTS:
        assert abs(float(after.logs[name])) > 1e-3
        assert torch.equal(after.logs[name], before.logs[name])
    assert torch.equal(after.loss, before.loss)


def test_one_optimiser_step_is_the_gradient_of_each_networks_own_loss() -> None:
    # One backward through L_1 + L_2 must be the paper's two: no gradient crosses over.
    method, batch = make(), tiny_batch(PLAN)
    weights = [
        method.student_head.get_parameter("projector.3.weight"),
        method.peer_head.get_parameter("projector.3.weight"),
    ]
    before = [weight.detach().clone() for weight in weights]
    method(batch, tiny_progress()).loss.backward()
    torch.optim.SGD(method.parameters(), lr=0.1).step()
    twin = make()
    student = [twin.student_head(twin.student(v).embedding).prediction for v in batch.views[:2]]
    peer = [twin.peer_head(twin.peer(v).embedding).prediction for v in batch.views[2:]]
    for weight, then, own, other, head in zip(
        weights, before, (student, peer), (peer, student), (twin.student_head, twin.peer_head),
        strict=True,
    ):  # fmt: skip
        loss = nt_xent(*own, temperature=0.5) / 2
        similarity = [
            F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.1 for a, b in (own, other)
        ]
        loss = loss + 100 / 256 * F.kl_div(
            similarity[0].log_softmax(1), similarity[1].detach().softmax(1), reduction="batchmean"
        )
        (gradient,) = torch.autograd.grad(
            loss, head.get_parameter("projector.3.weight"), retain_graph=True
        )
        torch.testing.assert_close(weight.detach(), then - 0.1 * gradient, rtol=1e-4, atol=1e-6)
        assert not torch.equal(weight.detach(), then)


def test_without_the_kl_each_network_learns_as_if_alone() -> None:
    # The comparison that the paper makes, and that must differ in nothing else.
    method, batch = make(kl_weight=0.0), tiny_batch(PLAN)
    method(batch, tiny_progress()).loss.backward()
    gradient = method.student_head.get_parameter("projector.0.weight").grad
    assert gradient is not None
    other = make(kl_weight=0.0)
    other.peer.load_state_dict(tiny_student("test_resnet", seed=9).state_dict())
    other(batch, tiny_progress()).loss.backward()
    again = other.student_head.get_parameter("projector.0.weight").grad
    assert again is not None
    assert torch.equal(again, gradient)


def test_peer_may_have_a_weight_of_its_own() -> None:
    batch = tiny_batch(PLAN)
    same, own = make(kl_weight=1.0), make(kl_weight=1.0, peer_kl_weight=0.0)
    results = [method(batch, tiny_progress()) for method in (same, own)]
    difference = results[0].loss - results[1].loss
    torch.testing.assert_close(difference.detach(), results[0].logs["peer_kl"])


@pytest.mark.slow
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
    assert min(losses[-3:]) < 0.8 * losses[0]


def test_each_network_sees_its_own_pair_of_views() -> None:
    canvases = torch.randint(0, 255, (2, 3, 32, 32), dtype=torch.uint8)
    augmenter = Augmenter(PLAN, seed=0, device=torch.device("cpu"), channels_last=False)
    shapes = torch.full((2, 2), 32).numpy()
    views = augmenter(canvases, shapes, torch.arange(2).numpy(), period=0, step=0)
    for number, view in enumerate(views):
        assert not any(torch.equal(view, other) for other in views[number + 1 :])


def test_views_are_those_of_each_networks_loss() -> None:
    crops = Dogo.views(DogoConfig(peer_loss="simsiam"), 32).crops
    assert [crop.brightness for crop in crops] == [0.8, 0.8, 0.4, 0.4]
    assert all(crop.scale == (0.08, 1.0) and crop.blur == 0 for crop in crops)
    assert all(crop.blur == 0.5 for crop in Dogo.views(DogoConfig(), 224).crops)


def test_both_networks_are_kept_and_no_head_ships() -> None:
    method = make(peer_loss="simsiam")
    assert list(method.networks()) == ["student", "peer"]
    assert set(method.heads()) == {"student_head", "peer_head"}
    assert isinstance(method.peer_head, SimsiamHead)
    assert [tuple(p.shape) for n, p in method.student_head.named_parameters() if "weight" in n] == [
        (512, method.student.embedding_dim), (512,), (128, 512),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tau", 0, "tau=0 must be above 0"),
        ("kl_weight", -1, "kl_weight=-1 must not be negative"),
        ("peer_kl_weight", -1, "peer_kl_weight=-1 must not be negative"),
        ("projection_dim", 0, "projection_dim=0 must be at least 1"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DogoConfig(**{field: value})


# --------------------------------------------------------------------------- end to end


@pytest.fixture
def call(make_photos: Callable[..., Path], tmp_path: Path) -> Callable[..., DistillResult]:
    photos = make_photos(16)

    def run(out: str, **changes: Any) -> DistillResult:
        arguments: dict[str, Any] = {
            "method": "dogo", "teacher": None, "student": "test_efficientnet",
            "peer": "test_resnet", "data": photos, "out": tmp_path / out, "epochs": 2,
            "batch_size": 8, "image_size": 32, "devices": "cpu",
        }  # fmt: skip
        return distill(**{**arguments, **changes})

    return run


def test_run_keeps_both_students_and_resumes_exactly(
    call: Callable[..., DistillResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = call("whole")
    specs = {name: load_student(path)[1] for name, path in whole.networks.items()}
    assert specs["student"].architecture.name == "test_efficientnet"
    assert specs["peer"].architecture.name == "test_resnet"
    assert whole.student == whole.networks["student"]

    end_epoch = Trainer._end_epoch

    def end_and_die(self: Trainer) -> None:
        end_epoch(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_end_epoch", end_and_die)
    with pytest.raises(KeyboardInterrupt):
        call("cut")
    monkeypatch.undo()
    resumed = call("cut", resume=True)
    assert resumed.loss == whole.loss
    for name, path in whole.networks.items():
        before, after = (load_student(p)[0].state_dict() for p in (path, resumed.networks[name]))
        assert all(torch.equal(after[key], value) for key, value in before.items())


def test_missing_peer_and_needless_teacher_are_told_before_anything_is_written(
    call: Callable[..., DistillResult], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="dogo needs a peer: give --peer NAME"):
        call("run", peer=None)
    with pytest.raises(UsageError, match="dogo has no teacher: leave out --teacher test_vit"):
        call("run", teacher="test_vit")
    assert not (tmp_path / "run").exists()
