"""Feature regression as a method: standardised targets, mixup, patches."""

import pytest
import torch
from support.distill import tiny_batch, tiny_inputs, tiny_progress
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.distill.methods.regress import Regress, RegressConfig, Standardizer

PLAN = Regress.views(RegressConfig(), 32)


def make(**config: object) -> Regress:
    torch.manual_seed(0)
    return Regress(RegressConfig(**config), tiny_inputs(Regress))  # type: ignore[arg-type]


def last_weight(method: Regress) -> Tensor:
    last = method.head[-1]
    assert isinstance(last, nn.Linear)
    return last.weight


def test_loss_of_a_step_is_the_literal_one() -> None:
    method, batch = make(), tiny_batch(PLAN)
    result = method(batch, tiny_progress())
    twin = make()
    teacher = twin.teacher(batch).embedding
    variance = teacher.var(0, correction=0)
    target = (teacher - teacher.mean(0)) / (variance + 1e-4 * variance.mean()).sqrt()
    prediction = twin.head(twin.student(batch.views[0]).embedding)
    total = 0.0
    for p, t in zip(prediction, target, strict=True):
        d = (p - t).abs()
        smooth = torch.where(d < 1, d * d / 2, d - 0.5).mean()
        total += (1 - p @ t / (p.norm() * t.norm()) + 0.1 * smooth).item() / len(target)
    assert result.loss.item() == pytest.approx(total, rel=1e-5)
    assert result.floor == 0.0


def test_standardizer_has_the_mean_and_deviation_of_all_it_saw() -> None:
    rows = torch.randn(40, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
    standardize = Standardizer(5)
    for part in rows.split([7, 13, 20]):
        standardize.update(part)
    torch.testing.assert_close(standardize.mean, rows.mean(0))
    torch.testing.assert_close(standardize.squares / 40, rows.var(0, correction=0))
    done = standardize(rows)
    torch.testing.assert_close(done.mean(0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(done.std(0, correction=0), torch.ones(5), atol=1e-3, rtol=0)


def test_statistics_are_fixed_after_their_steps_and_go_on_where_they_were_saved() -> None:
    # The run has 20 steps, 4 an epoch: statistics are gathered over the first 4.
    method, batch = make().eval(), tiny_batch(PLAN)
    assert method.gathering_steps == 4
    method(batch, tiny_progress(3))
    restored = make().eval()
    restored.load_state_dict(method.state_dict())
    before = method.standardize.mean.clone()
    method(tiny_batch(PLAN, seed=1), tiny_progress(4))
    assert torch.equal(method.standardize.mean, before)
    result = restored(batch, tiny_progress(4))
    assert torch.equal(result.loss, method(batch, tiny_progress(4)).loss)


def test_dimension_that_hardly_varies_is_not_blown_up() -> None:
    rows = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = 1e-6 * rows[:, 1]
    standardize = Standardizer(2)
    standardize.update(rows)
    assert float(standardize(rows)[:, 1].abs().max()) < 1e-2


def test_one_optimiser_step_is_the_gradient_of_the_formula() -> None:
    method, batch = make(), tiny_batch(PLAN)
    weight = last_weight(method)
    before = weight.detach().clone()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
    method(batch, tiny_progress()).loss.backward()
    optimizer.step()
    twin = make()
    teacher = twin.teacher(batch).embedding
    twin.standardize.update(teacher)
    target = twin.standardize(teacher)
    prediction = twin.head(twin.student(batch.views[0]).embedding)
    loss = (1 - F.cosine_similarity(prediction, target)).mean()
    loss = loss + 0.1 * F.smooth_l1_loss(prediction, target)
    (gradient,) = torch.autograd.grad(loss, [last_weight(twin)])
    torch.testing.assert_close(weight.detach(), before - 0.1 * gradient)


def test_patch_term_meets_on_the_students_grid_and_trains_the_trunk() -> None:
    method = make(patch_weight=0.5)
    plan = Regress.views(method.config, 32)
    result = method(tiny_batch(plan), tiny_progress())
    result.loss.backward()
    assert float(result.logs["patch_loss"]) > 0
    assert all(p.grad is not None for p in method.patch_head.parameters())
    assert set(method.heads()) == {"head", "patch_head"}


def test_views_are_blended_unless_declined() -> None:
    assert Regress.views(RegressConfig(), 64).mixup
    assert not Regress.views(RegressConfig(mixup=False), 64).mixup


def test_head_with_layer_norm_learns_from_a_single_photo() -> None:
    method = make(head_norm="layer")
    batch = tiny_batch(PLAN, batch_size=1)
    assert torch.isfinite(method.eval()(batch, tiny_progress()).loss)


@pytest.mark.parametrize("name", ["smooth_l1_weight", "patch_weight"])
def test_weights_must_not_be_negative(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=-1 must not be negative"):
        make(**{name: -1})
