"""Functions of each element: as torch has them, from a package that coremltools wrote."""

from typing import Any

import torch
from support.coreml_operations import BINARY, UNARY, Case, Interpret, as_number, check, values


def test_functions_of_one_tensor(interpret: Interpret, mb: Any) -> None:
    x = values(4, 5, low=-0.95, high=0.95)
    found = interpret(lambda x: [getattr(mb, name)(x=x, name=f"y_{name}") for name in UNARY], x)
    for name, value in zip(UNARY, found, strict=True):
        torch.testing.assert_close(value, UNARY[name](x), rtol=2e-6, atol=2e-6, msg=name)


def test_a_half_rounds_to_the_even_neighbour(interpret: Interpret, mb: Any) -> None:
    (found,) = interpret(lambda x: mb.round(x=x), torch.tensor([-1.5, -0.5, 0.5, 1.5, 2.5, 2.6]))
    assert found.tolist() == [-2, 0, 0, 2, 2, 3]


FUNCTIONS_OF_POSITIVE_NUMBERS: dict[str, Case] = {
    "sqrt": (lambda mb, x: mb.sqrt(x=x), torch.sqrt),
    "rsqrt": (lambda mb, x: mb.rsqrt(x=x, epsilon=0.1), lambda x: (x + 0.1).rsqrt()),
    "rsqrt:default": (lambda mb, x: mb.rsqrt(x=x), torch.rsqrt),
    "inverse": (lambda mb, x: mb.inverse(x=x, epsilon=0.5), lambda x: 1 / (x + 0.5)),
    "inverse:default": (lambda mb, x: mb.inverse(x=x), lambda x: 1 / (x + 1e-4)),
    "log": (lambda mb, x: mb.log(x=x, epsilon=0.25), lambda x: (x + 0.25).log()),
    "log:default": (lambda mb, x: mb.log(x=x), torch.log),
}


def test_functions_of_positive_numbers(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, FUNCTIONS_OF_POSITIVE_NUMBERS, values(3, 4, low=0.1, high=4.0))


def test_functions_of_two_tensors_broadcast(interpret: Interpret, mb: Any) -> None:
    x, y = values(2, 3, 4, low=0.2), values(3, 1, low=0.2, seed=1)
    x[0, 0, 0] = y[0, 0]

    def build(x: Any, y: Any) -> list[Any]:
        results = [getattr(mb, name)(x=x, y=y) for name in BINARY]
        return [mb.cast(x=each, dtype="fp32", name=f"y_{i}") for i, each in enumerate(results)]

    found = interpret(build, x, y)
    for name, value in zip(BINARY, found, strict=True):
        torch.testing.assert_close(value, BINARY[name](x, y).float(), msg=name)


def test_truth_values_combine_and_choose(interpret: Interpret, mb: Any) -> None:
    x, y = values(12), values(12, seed=1)

    def build(x: Any, y: Any) -> list[Any]:
        a, b = mb.greater(x=x, y=0.0), mb.greater(x=y, y=0.0)
        truths = [
            mb.logical_and(x=a, y=b),
            mb.logical_or(x=a, y=b),
            mb.logical_xor(x=a, y=b),
            mb.logical_not(x=a),
        ]
        return [*(as_number(mb, truth) for truth in truths), mb.select(cond=a, a=x, b=y)]

    found = interpret(build, x, y)
    a, b = x > 0, y > 0
    for value, wanted in zip(found, [a & b, a | b, a ^ b, ~a], strict=False):
        assert torch.equal(value.bool(), wanted)
    assert torch.equal(found[-1], torch.where(a, x, y))


def test_a_cast_to_integers_cuts_towards_zero(interpret: Interpret, mb: Any) -> None:
    (found,) = interpret(
        lambda x: mb.cast(x=x, dtype="int32"), torch.tensor([-1.7, -0.2, 0.9, 2.5])
    )
    assert found.dtype == torch.int32
    assert found.tolist() == [-1, 0, 0, 2]
