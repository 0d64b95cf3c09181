"""SimCLR as a method: its head, its one pass over both views, and what is trained."""

import pytest
import torch
from support.distill import tiny_batch, tiny_inputs, tiny_progress
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.distill import distributed
from edgeseed.distill.methods import simclr
from edgeseed.distill.methods.simclr import Simclr, SimclrConfig

PLAN = Simclr.views(SimclrConfig(), 32)


def make(**config: object) -> Simclr:
    torch.manual_seed(0)
    return Simclr(SimclrConfig(**config), tiny_inputs(Simclr))  # type: ignore[arg-type]


def literal_loss(method: Simclr, views: tuple[Tensor, ...], temperature: float) -> Tensor:
    """The classic form: 2B rows, each finds its other view among the 2B - 1 others."""
    z = F.normalize(method.head(method.student(torch.cat(views)).embedding), dim=1)
    count = len(z) // 2
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(2 * count).roll(count)
    return 2 * F.cross_entropy(logits, partner)


def test_loss_of_a_step_is_the_literal_one() -> None:
    method, batch = make(), tiny_batch(PLAN)
    expected = literal_loss(make(), batch.views, 0.1).item()
    result = method(batch, tiny_progress())
    assert result.loss.item() == pytest.approx(expected, rel=1e-5)
    assert result.floor is None


def test_one_optimiser_step_is_the_gradient_of_the_formula() -> None:
    method, batch = make(temperature=0.2), tiny_batch(PLAN)
    weight = method.head.get_parameter("0.weight")
    before = weight.detach().clone()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    method(batch, tiny_progress()).loss.backward()
    optimizer.step()
    twin = make(temperature=0.2)
    loss = literal_loss(twin, batch.views, 0.2)
    (gradient,) = torch.autograd.grad(loss, [twin.head.get_parameter("0.weight")])
    torch.testing.assert_close(weight.detach(), before - 0.1 * gradient)
    assert not torch.equal(weight.detach(), before)


def test_head_is_the_papers_three_layers() -> None:
    # Each Linear without a bias, BatchNorm after each, no ReLU and no shift at the end.
    method = make()
    kinds = [type(layer) for layer in method.head]
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU]
    assert kinds == [*hidden, *hidden, nn.Linear, nn.BatchNorm1d]
    linears = [layer for layer in method.head if isinstance(layer, nn.Linear)]
    assert all(layer.bias is None for layer in linears)
    width = method.student.embedding_dim
    assert [layer.out_features for layer in linears] == [width, width, 128]
    method(tiny_batch(PLAN), tiny_progress()).loss.backward()
    assert not method.head[-1].bias.requires_grad
    assert method.head[1].bias.grad is not None


def test_first_layer_of_the_head_is_kept_for_fine_tuning() -> None:
    assert set(make().heads()) == {"head"}
    assert set(make().networks()) == {"student"}


def test_both_views_go_through_the_networks_in_one_batch() -> None:
    # Apart, BatchNorm would tell first views from second ones.
    method, batch = make(), tiny_batch(PLAN)
    seen: list[int] = []
    method.student.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    method(batch, tiny_progress())
    assert seen == [16]


def test_loss_does_not_care_which_view_is_first() -> None:
    batch = tiny_batch(PLAN)
    swapped = tiny_batch(PLAN)
    object.__setattr__(swapped, "views", batch.views[::-1])
    losses = [make()(one, tiny_progress()).loss for one in (batch, swapped)]
    torch.testing.assert_close(losses[0], losses[1])


def test_loss_falls_on_a_batch_that_is_shown_again_and_again() -> None:
    method, batch = make(), tiny_batch(PLAN)
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    losses, found = [], []
    for _ in range(10):
        result = method(batch, tiny_progress())
        optimizer.zero_grad()
        result.loss.backward()
        optimizer.step()
        losses.append(result.loss.item())
        found.append(float(result.logs["found"]))
    assert losses[-1] < 0.5 * losses[0]
    assert found[-1] > found[0]


def test_two_views_are_drawn_and_cut_as_in_the_paper() -> None:
    assert len(PLAN.crops) == 2
    assert PLAN.crops[0].scale == (0.08, 1.0)
    assert not PLAN.mixup


def test_several_devices_share_their_batch_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    # Local statistics leave a mark by which a rank's photos are told from those of others.
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "nccl")
    names = set(make().state_dict())
    method = make()
    norms = [m for m in method.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
    monkeypatch.undo()
    assert set(make().state_dict()) == names


def test_processes_without_gpus_keep_their_batch_norm_and_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.get_backend", lambda: "gloo")
    assert isinstance(make().head[1], nn.BatchNorm1d)
    assert "BatchNorm stays within each process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", 0, "temperature=0 must be above 0"),
        ("projection_dim", 0, "projection_dim=0 must be at least 1"),
        ("num_layers", 0, "num_layers=0 must be at least 1"),
    ],
)
def test_bad_settings_are_named(name: str, value: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimclrConfig(**{name: value})


def test_recipe_is_the_papers_rate_at_its_batch() -> None:
    # Authors' code: 0.075 times the root of the batch, 4.8 at 4096.
    assert simclr.METHOD.RECIPE.peak_lr == pytest.approx(0.075 * 4096**0.5)
