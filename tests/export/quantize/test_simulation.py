import pytest
import torch

from edgeseed.export.quantize.simulation import fake_quantize


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
        (found * weights).sum().backward()  # type: ignore[no-untyped-call]  # torch has no types
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
