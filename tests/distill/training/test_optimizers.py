"""Optimisers: which parameters they decay, and LARS step by step."""

import copy

import pytest
import torch
from support.distill import tiny_inputs
from torch import nn

from edgeseed.distill.methods.regress import Regress, RegressConfig
from edgeseed.distill.training.optimizers import LARS, build_optimizer, set_rates
from edgeseed.distill.training.recipe import Recipe


def method() -> Regress:
    torch.manual_seed(0)
    return Regress(RegressConfig(), tiny_inputs(Regress))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "lars"])
def test_norms_and_biases_are_spared_where_the_recipe_says_so(name: str) -> None:
    recipe = Recipe(optimizer=name, lr=0.1, weight_decay=0.1, decay_norm_and_bias=False)  # type: ignore[arg-type]
    optimizer = build_optimizer(method(), recipe)
    decayed, spared = optimizer.param_groups
    assert all(p.ndim > 1 for p in decayed["params"])
    assert all(p.ndim == 1 for p in spared["params"])
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    set_rates(optimizer, lr=0.5, weight_decay=0.2)
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.2, 0.0)
    assert decayed["lr"] == spared["lr"] == 0.5


def test_every_trained_parameter_is_in_exactly_one_group() -> None:
    one = method()
    one.student.network.backbone.requires_grad_(False)
    recipe = Recipe(optimizer="adamw", lr=0.1, decay_norm_and_bias=False)
    optimizer = build_optimizer(one, recipe)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in one.parameters() if p.requires_grad)


def test_sgd_with_buffers_made_beforehand_takes_torchs_own_steps() -> None:
    # Made beforehand because the fused kernel fails on weights that get a gradient later.
    one, twin = method(), method()
    recipe = Recipe(optimizer="sgd", lr=0.1, weight_decay=0.01)
    optimizers = (
        build_optimizer(one, recipe),
        torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, fused=True),
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for p, q in zip(one.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    pairs = zip(one.parameters(), twin.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


def test_lars_is_its_formula_for_three_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 3, generator=generator))
    bias = nn.Parameter(torch.randn(4, generator=generator))
    groups = [
        {"params": [weight], "weight_decay": 0.1, "decays": True},
        {"params": [bias], "weight_decay": 0.0, "decays": False},
    ]
    optimizer = LARS(groups, lr=0.5, momentum=0.9)
    expected_w, expected_b = weight.detach().clone(), bias.detach().clone()
    velocity_w, velocity_b = torch.zeros(4, 3), torch.zeros(4)
    for _ in range(3):
        weight.grad = torch.randn(4, 3, generator=generator)
        bias.grad = torch.randn(4, generator=generator)
        g = weight.grad + 0.1 * expected_w
        velocity_w = 0.9 * velocity_w + 0.5 * 0.001 * expected_w.norm() / g.norm() * g
        velocity_b = 0.9 * velocity_b + 0.5 * bias.grad
        expected_w, expected_b = expected_w - velocity_w, expected_b - velocity_b
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected_w)
    torch.testing.assert_close(bias.detach(), expected_b)


def test_lars_moves_a_weight_of_zeros_by_the_plain_rate() -> None:
    # A zero-initialised classifier has no norm: with a ratio of 0 it would never move.
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.ones(2, 2)
    LARS([weight], lr=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.full((2, 2), -0.5))


def test_lars_goes_on_from_its_saved_state() -> None:
    def run(steps: int, optimizer: LARS, weight: nn.Parameter) -> None:
        for _ in range(steps):
            weight.grad = weight.detach() * 2 + 1
            optimizer.step()

    weight = nn.Parameter(torch.ones(3, 3))
    optimizer = LARS([weight], lr=1.0)
    run(2, optimizer, weight)
    twin_weight = nn.Parameter(weight.detach().clone())
    twin = LARS([twin_weight], lr=1.0)
    twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(2, optimizer, weight)
    run(2, twin, twin_weight)
    assert torch.equal(weight, twin_weight)
