import pytest
import torch

from edgeseed.export.quantize.graph.simulation import fake_quantize, stretched_quantize


@pytest.mark.parametrize(
    ("zero_point", "low", "high"), [(0, -127, 127), (100, 0, 255), (-128, -128, 127), (0, 0, 42)]
)
def test_numbers_and_gradients_are_those_of_torch(zero_point: int, low: int, high: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = 4 * torch.randn(4, 8, 5, 5, generator=generator)
    weights = torch.randn(4, 8, 5, 5, generator=generator)
    results = []
    for function in (fake_quantize, torch.fake_quantize_per_tensor_affine):
        leaf = values.clone().requires_grad_()
        found = function(leaf, 0.037, zero_point, low, high)
        (found * weights).sum().backward()
        results.append((found.detach(), leaf.grad))
    assert results[0][1] is not None
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_without_gradients_the_numbers_are_the_same() -> None:
    values = torch.linspace(-3, 3, 101)
    with torch.inference_mode():
        found = fake_quantize(values, 0.1, 7, 0, 31)
    expected = fake_quantize(values.clone().requires_grad_(), 0.1, 7, 0, 31).detach()
    assert found.equal(expected)
    assert values.equal(torch.linspace(-3, 3, 101)), "its input was written to"


@pytest.mark.parametrize(("zero_point", "low", "high"), [(0, -127, 127), (100, 0, 255)])
def test_an_unstretched_range_is_the_plain_one(zero_point: int, low: int, high: int) -> None:
    values = 4 * torch.randn(200, generator=torch.Generator().manual_seed(0))
    leaves = [values.clone().requires_grad_() for _ in range(2)]
    stretch = torch.zeros((), requires_grad=True)
    found = stretched_quantize(leaves[0], 0.037, zero_point, low, high, stretch)
    plain = fake_quantize(leaves[1], 0.037, zero_point, low, high)
    torch.testing.assert_close(found, plain)
    for result in (found, plain):
        result.square().sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad)


def test_the_gradient_of_a_range_is_that_of_learned_step_sizes() -> None:
    """s (round(x / s) - x / s) inside, s times the nearer end outside."""
    values = torch.tensor([0.26, -0.14, 5.0, -5.0])
    stretch = torch.zeros((), requires_grad=True)
    found = stretched_quantize(values, 0.1, 0, -8, 7, stretch)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    (found * weights).sum().backward()
    expected = 0.1 * (1 * (3 - 2.6) + 2 * (-1 + 1.4) + 3 * 7 + 4 * -8)
    assert stretch.grad is not None
    assert float(stretch.grad) == pytest.approx(expected, rel=1e-5)


def test_a_range_that_cuts_off_most_values_wants_to_be_wider() -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    slopes = []
    for scale in (0.01, 2.0):
        stretch = torch.zeros((), requires_grad=True)
        found = stretched_quantize(values, scale, 0, -8, 7, stretch)
        (found - values).square().mean().backward()
        assert stretch.grad is not None
        slopes.append(float(stretch.grad))
    assert slopes[0] < 0 < slopes[1]
