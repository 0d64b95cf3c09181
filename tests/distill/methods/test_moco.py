"""MoCo as a method: how keys are made, what follows what, and what enters the queue when."""

import dataclasses

import pytest
import torch
from support.distill import tiny_batch, tiny_inputs, tiny_progress
from torch.nn import functional as F

from edgeseed.distill.methods.moco import Moco, MocoConfig

PLAN = Moco.views(MocoConfig(), 32)


def make(**config: object) -> Moco:
    torch.manual_seed(0)
    return Moco(MocoConfig(queue_size=16, **config), tiny_inputs(Moco))  # type: ignore[arg-type]


def test_loss_of_a_step_is_the_literal_one() -> None:
    method, batch = make().eval(), tiny_batch(PLAN)
    result = method(batch, tiny_progress())
    query = F.normalize(method.head(method.student(batch.views[0]).embedding))
    key = F.normalize(method.key_head(method.key_student(batch.views[1]).embedding))
    total = 0.0
    for q, k in zip(query, key, strict=True):
        logits = torch.cat([k[None], method.queue.entries]) @ q / 0.2
        total -= logits.log_softmax(0)[0].item() / len(query)
    assert result.loss.item() == pytest.approx(total, rel=1e-5)


def test_one_optimiser_step_is_the_gradient_of_the_formula() -> None:
    method, batch = make(), tiny_batch(PLAN)
    weight = method.head.get_parameter("0.weight")
    before = weight.detach().clone()
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    method(batch, tiny_progress()).loss.backward()
    optimizer.step()
    twin = make()
    query = F.normalize(twin.head(twin.student(batch.views[0]).embedding))
    with torch.no_grad():
        key = F.normalize(twin.key_head(twin.key_student(batch.views[1]).embedding))
    logits = torch.cat([(query * key).sum(1, keepdim=True), query @ twin.queue.entries.T], 1) / 0.2
    loss = F.cross_entropy(logits, torch.zeros(8, dtype=torch.long))
    (gradient,) = torch.autograd.grad(loss, [twin.head.get_parameter("0.weight")])
    torch.testing.assert_close(weight.detach(), before - 0.1 * gradient)


def test_keys_get_no_gradient_and_their_networks_are_not_trained() -> None:
    method = make()
    method(tiny_batch(PLAN), tiny_progress()).loss.backward()
    for network in (method.key_student, method.key_head):
        assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert all(p.grad is not None for p in method.head.parameters())


def test_key_networks_start_as_the_trained_ones_and_follow_with_the_momentum() -> None:
    method = make(momentum=0.9)
    weight, key_weight = (
        method.head.get_parameter("0.weight"),
        method.key_head.get_parameter("0.weight"),
    )
    first = weight.detach().clone()
    assert torch.equal(key_weight, first)
    for _ in range(2):
        method(tiny_batch(PLAN), tiny_progress())
        with torch.no_grad():
            weight.add_(1.0)
        method.after_step(tiny_progress())
    # θ' after two steps: 0.9 (0.9 θ0 + 0.1 θ1) + 0.1 θ2 with θ_n = θ0 + n.
    torch.testing.assert_close(key_weight, first + 0.9 * 0.1 * 1 + 0.1 * 2)


def test_queue_takes_the_keys_only_after_the_step() -> None:
    # If it took them before, each key would be its own negative.
    method, batch = make().eval(), tiny_batch(PLAN)
    before = method.queue.entries.clone()
    with torch.no_grad():
        key = F.normalize(method.key_head(method.key_student(batch.views[1]).embedding))
    method(batch, tiny_progress())
    assert torch.equal(method.queue.entries, before)
    method.after_step(tiny_progress())
    torch.testing.assert_close(method.queue.entries[:8], key)
    assert torch.equal(method.queue.entries[8:], before[8:])


@pytest.mark.parametrize("key_norm", ["batch", "moving"])
def test_moving_statistics_make_a_key_independent_of_the_photos_beside_it(key_norm: str) -> None:
    method = make(key_norm=key_norm).train()
    batch = tiny_batch(PLAN)
    other = torch.cat([batch.views[1][:1], torch.rand_like(batch.views[1][1:])])
    keys = []
    for second in (batch.views[1], other):
        method(dataclasses.replace(batch, views=(batch.views[0], second)), tiny_progress())
        assert method._waiting is not None
        keys.append(method._waiting[0])
    assert torch.equal(keys[0], keys[1]) == (key_norm == "moving")


def test_moving_statistics_are_those_of_the_student() -> None:
    method = make(key_norm="moving").train()
    method(tiny_batch(PLAN), tiny_progress())
    method.after_step(tiny_progress())
    pairs = list(zip(method.student.buffers(), method.key_student.buffers(), strict=True))
    assert pairs
    assert all(torch.equal(a, b) for a, b in pairs)


def test_student_alone_ships_and_the_trained_head_is_kept() -> None:
    method = make()
    assert set(method.networks()) == {"student"}
    assert set(method.heads()) == {"head"}
    assert any(name.startswith("key_student.") for name in method.state_dict())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tau", 0, "tau=0 must be above 0"),
        ("momentum", 1.0, "momentum=1.0 must be at least 0 and below 1"),
        ("projection_dim", 0, "projection_dim=0 must be at least 1"),
    ],
)
def test_bad_settings_are_named(name: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MocoConfig(**{name: value})  # type: ignore[arg-type]
