import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import tiny_preprocess
from torch.nn import functional

from edgeseed.core.agreement import relative_error
from edgeseed.core.network import StudentNetwork
from edgeseed.export.proof.gates import float16_limit
from edgeseed.export.proof.reference import (
    _STRETCHES,
    _rounded,
    _Rounding,
    reference_outputs,
    rounded_draws,
    rounded_outputs,
)

Pixels = npt.NDArray[np.uint8]


def test_weights_in_float16_cost_a_little_and_leave_the_student_as_it_was(
    network: StudentNetwork, pixels: Pixels
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    wanted = reference_outputs(network, tiny_preprocess(), pixels[:20])
    found = rounded_outputs(network, tiny_preprocess(), pixels[:20])
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        assert 0 < relative_error(found[name], value) < 2e-2
    assert all(before[name].equal(value) for name, value in network.state_dict().items())


def test_draws_of_rounding_differ_and_are_of_one_size(
    network: StudentNetwork, pixels: Pixels
) -> None:
    subject = (network, tiny_preprocess(), pixels[:40])
    wanted, one = reference_outputs(*subject), rounded_outputs(*subject)
    draws = rounded_draws(*subject, wanted)
    for name in wanted:
        np.testing.assert_array_equal(draws[0][0][name], one[name])
        costs = [relative_error(drawn[name], own[name]) for drawn, own in draws]
        assert [len(own[name]) for _, own in draws] == [40, 32, 32, 32]
        assert len(set(costs)) == 4
        assert max(costs) < 3 * min(costs)


def test_the_draw_that_costs_most_counts() -> None:
    truth = {"embedding": np.ones((1, 4), np.float32)}
    draws = [
        ({"embedding": np.float32(1 + cost) * truth["embedding"]}, truth) for cost in (2e-3, 4e-3)
    ]
    assert float16_limit(draws, least=2e-3) == pytest.approx(8e-3)


def test_what_float16_holds_it_holds_in_every_draw() -> None:
    """Rounded too, a photo's bytes made further draws cost twice the first."""
    exact = torch.tensor([0.0, 127.0, 255.0, 6.0, -0.375, 49_984.0, 6.0e4])
    thirds = torch.arange(1, 50) / 3
    for stretch in _STRETCHES:
        assert _rounded(exact, stretch).equal(exact)
        drawn = _rounded(thirds, stretch)
        assert (drawn != thirds.half().float()).sum() > 10
        assert ((drawn - thirds).abs() <= 2**-11 * 2 * thirds).all()


@pytest.mark.parametrize(
    ("cost", "limit"), [(1e-5, 2e-3), (1.2e-3, 2.4e-3), (3.14e-3, 6.3e-3), (0.3, 5e-2)]
)
def test_the_limit_of_float16_is_twice_its_cost_within_bounds(cost: float, limit: float) -> None:
    truth = np.ones((1, 4), np.float32)
    rounded = {"embedding": (truth + cost).astype(np.float32)}
    assert float16_limit([(rounded, {"embedding": truth})], least=2e-3) == pytest.approx(limit)


def test_attention_rounds_after_each_of_its_four_steps() -> None:
    """As files compute it. Rounded once, a ViT's allowance was less than its file's due."""

    class Attention(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.scaled_dot_product_attention(x, 2 * x, x + 1)

    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0)).half().float()
    graph = torch.export.export(Attention(), (x,)).module()
    found = _Rounding(graph).run(x)

    def rounded(value: torch.Tensor) -> torch.Tensor:
        return value.half().float()

    weights = rounded(rounded(rounded(x * 0.5) @ rounded(2 * x).mT).softmax(-1))
    torch.testing.assert_close(found, rounded(weights @ rounded(x + 1)), rtol=0, atol=0)
    torch.testing.assert_close(found, Attention()(x), rtol=5e-3, atol=5e-3)
    assert not found.equal(rounded(Attention()(x)))
