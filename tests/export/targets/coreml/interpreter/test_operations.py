"""Each operation of the interpreter against torch, through a package that coremltools wrote."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseed.core.errors import WorkError
from edgeseed.export.targets.coreml.interpreter.operations import OPERATIONS
from edgeseed.export.targets.coreml.interpreter.operations.indexing import classify
from edgeseed.export.targets.coreml.interpreter.operations.quantization import (
    constexpr_blockwise_shift_scale,
    constexpr_cast,
    constexpr_lut_to_dense,
    constexpr_sparse_to_dense,
)

Interpret = Callable[..., list[Tensor]]
Case = tuple[Callable[[Any, Any], Any], Callable[[Tensor], Tensor | Sequence[Tensor]]]


def values(*shape: int, low: float = -2.0, high: float = 2.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(shape).uniform_(low, high, generator=generator)


def check(interpret: Interpret, mb: Any, table: dict[str, Case], x: Tensor) -> None:
    """Every case of a table, all in one program: writing a package is what takes time."""
    counts: dict[str, int] = {}

    def build(x: Any) -> list[Any]:
        made = []
        for name, (build_one, _) in table.items():
            results = build_one(mb, x)
            results = list(results) if isinstance(results, list | tuple) else [results]
            counts[name] = len(results)
            made += results
        return made

    found = iter(interpret(build, x))
    for name, (_, expected) in table.items():
        wanted = expected(x)
        wanted = [wanted] if isinstance(wanted, Tensor) else list(wanted)
        assert counts[name] == len(wanted)
        for other, one in zip(wanted, found, strict=False):
            assert one.shape == other.shape, name
            torch.testing.assert_close(
                one,
                other.to(one.dtype),
                rtol=2e-6,
                atol=2e-6,
                msg=lambda text, n=name: f"{n}: {text}",
            )


def as_number(mb: Any, truth: Any) -> Any:
    """Core ML programs cannot give truth values to the outside."""
    return mb.cast(x=truth, dtype="int32")


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "abs": torch.abs, "acos": torch.acos, "asin": torch.asin, "atan": torch.atan,
    "atanh": torch.atanh, "ceil": torch.ceil, "cos": torch.cos, "cosh": torch.cosh,
    "erf": torch.erf, "exp": torch.exp, "exp2": torch.exp2, "floor": torch.floor,
    "identity": lambda x: x, "sign": torch.sign, "sin": torch.sin, "sinh": torch.sinh,
    "square": torch.square, "tan": torch.tan, "tanh": torch.tanh, "relu": torch.relu,
    "relu6": lambda x: F.relu6(x), "sigmoid": torch.sigmoid, "silu": lambda x: F.silu(x),
    "softplus": lambda x: F.softplus(x), "softsign": lambda x: F.softsign(x),
}  # fmt: skip


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


ALPHA = np.array([0.5, -0.25, 2.0], np.float32)
BETA = np.array([1.5, 0.5, 1.0], np.float32)


def channels(vector: Any) -> Tensor:
    return torch.from_numpy(np.asarray(vector)).reshape(1, -1, 1, 1)


ACTIVATIONS_WITH_SETTINGS: dict[str, Case] = {
    "clamped_relu": (
        lambda mb, x: mb.clamped_relu(x=x, alpha=0.3, beta=1.2),
        lambda x: torch.where(x >= 0, x, 0.3 * x).clamp(max=1.2),
    ),
    "clip": (lambda mb, x: mb.clip(x=x, alpha=-0.5, beta=1.0), lambda x: x.clamp(-0.5, 1)),
    "elu": (lambda mb, x: mb.elu(x=x, alpha=0.7), lambda x: F.elu(x, 0.7)),
    "gelu": (lambda mb, x: mb.gelu(x=x, mode="EXACT"), F.gelu),
    "gelu:tanh": (
        lambda mb, x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "gelu:sigmoid": (
        lambda mb, x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
        lambda x: x * torch.sigmoid(1.702 * x),
    ),
    "leaky_relu": (lambda mb, x: mb.leaky_relu(x=x, alpha=0.1), lambda x: F.leaky_relu(x, 0.1)),
    "linear_activation": (
        lambda mb, x: mb.linear_activation(x=x, alpha=2.0, beta=-1.0),
        lambda x: 2 * x - 1,
    ),
    "prelu": (
        lambda mb, x: mb.prelu(x=x, alpha=ALPHA),
        lambda x: F.prelu(x, torch.from_numpy(ALPHA)),
    ),
    "scaled_tanh": (
        lambda mb, x: mb.scaled_tanh(x=x, alpha=1.7, beta=0.6),
        lambda x: 1.7 * torch.tanh(0.6 * x),
    ),
    "sigmoid_hard": (
        lambda mb, x: mb.sigmoid_hard(x=x, alpha=1 / 6, beta=0.5),
        lambda x: F.hardsigmoid(x),
    ),
    "softmax": (lambda mb, x: mb.softmax(x=x, axis=1), lambda x: x.softmax(1)),
    "softmax:default": (lambda mb, x: mb.softmax(x=x), lambda x: x.softmax(-1)),
    "softplus_parametric": (
        lambda mb, x: mb.softplus_parametric(x=x, alpha=ALPHA, beta=BETA),
        lambda x: channels(ALPHA) * torch.log1p(torch.exp(channels(BETA) * x)),
    ),
    "threshold": (lambda mb, x: mb.threshold(x=x, alpha=0.2), lambda x: x.clamp(min=0.2)),
    "thresholded_relu": (
        lambda mb, x: mb.thresholded_relu(x=x, alpha=0.4),
        lambda x: torch.where(x >= 0.4, x, 0 * x),
    ),
}


def test_activations_with_settings(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, ACTIVATIONS_WITH_SETTINGS, values(2, 3, 4, 5))


BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "real_div": torch.div,
    "maximum": torch.maximum, "minimum": torch.minimum, "floor_div": torch.floor_divide,
    "mod": torch.remainder, "pow": torch.pow, "equal": torch.eq, "not_equal": torch.ne,
    "greater": torch.gt, "greater_equal": torch.ge, "less": torch.lt, "less_equal": torch.le,
}  # fmt: skip


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


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "reduce_l1_norm": lambda x: x.abs().sum((1, 2)),
    "reduce_l2_norm": lambda x: x.square().sum((1, 2)).sqrt(),
    "reduce_log_sum": lambda x: x.sum((1, 2)).log(),
    "reduce_log_sum_exp": lambda x: x.logsumexp((1, 2)),
    "reduce_max": lambda x: x.amax((1, 2)),
    "reduce_mean": lambda x: x.mean((1, 2)),
    "reduce_min": lambda x: x.amin((1, 2)),
    "reduce_prod": lambda x: x.prod(2).prod(1),
    "reduce_sum": lambda x: x.sum((1, 2)),
    "reduce_sum_square": lambda x: x.square().sum((1, 2)),
}


@pytest.mark.parametrize("keep", [False, True])
def test_reductions(interpret: Interpret, mb: Any, keep: bool) -> None:
    x = values(2, 3, 4, low=0.3, high=1.4)
    found = interpret(
        lambda x: [
            getattr(mb, name)(x=x, axes=[1, -1], keep_dims=keep, name=f"y_{name}")
            for name in REDUCTIONS
        ],
        x,
    )
    for name, value in zip(REDUCTIONS, found, strict=True):
        wanted = REDUCTIONS[name](x)
        wanted = wanted.reshape(2, 1, 1) if keep else wanted
        assert value.shape == wanted.shape, name
        torch.testing.assert_close(value, wanted, msg=name)


ORDERS_AND_SUMS_ALONG_AN_AXIS: dict[str, Case] = {
    "reduce_argmax": (lambda mb, x: mb.reduce_argmax(x=x, axis=1), lambda x: x.argmax(1)),
    "reduce_argmin": (
        lambda mb, x: mb.reduce_argmin(x=x, axis=-1, keep_dims=True),
        lambda x: x.argmin(-1, keepdim=True),
    ),
    "argsort": (
        lambda mb, x: mb.argsort(x=x, axis=1),
        lambda x: x.argsort(1, descending=True),
    ),
    "argsort:ascending": (
        lambda mb, x: mb.argsort(x=x, axis=-1, ascending=True),
        lambda x: x.argsort(-1),
    ),
    "topk": (lambda mb, x: mb.topk(x=x, k=2, axis=1), lambda x: x.topk(2, 1)),
    "topk:ascending": (
        lambda mb, x: mb.topk(x=x, k=3, axis=-1, ascending=True, return_indices=False),
        lambda x: x.topk(3, -1, largest=False).values,
    ),
    "cumsum": (lambda mb, x: mb.cumsum(x=x, axis=1), lambda x: x.cumsum(1)),
    "cumsum:exclusive": (
        lambda mb, x: mb.cumsum(x=x, axis=1, exclusive=True),
        lambda x: x.cumsum(1) - x,
    ),
    "cumsum:reverse": (
        lambda mb, x: mb.cumsum(x=x, axis=-1, reverse=True),
        lambda x: x.flip(-1).cumsum(-1).flip(-1),
    ),
    "band_part": (
        lambda mb, x: mb.band_part(x=x, lower=1, upper=0),
        lambda x: x.tril() - x.tril(-2),
    ),
    "band_part:upper": (lambda mb, x: mb.band_part(x=x, lower=0), lambda x: x.triu()),
    "non_zero": (
        lambda mb, x: mb.non_zero(x=mb.cast(x=mb.greater(x=x, y=1.0), dtype="fp32")),
        lambda x: (x > 1).nonzero(),
    ),
}


def test_orders_and_sums_along_an_axis(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, ORDERS_AND_SUMS_ALONG_AN_AXIS, values(3, 4, 5))


GAMMA = np.array([1.5, 0.5, -1.0], np.float32)
VARIANCE = np.array([0.5, 1.0, 2.0], np.float32)


NORMALIZATIONS: dict[str, Case] = {
    "batch_norm": (
        lambda mb, x: mb.batch_norm(
            x=x, mean=ALPHA, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=1e-3
        ),
        lambda x: F.batch_norm(
            x, *(torch.from_numpy(each) for each in (ALPHA, VARIANCE, GAMMA, BETA)), eps=1e-3
        ),
    ),
    "batch_norm:plain": (
        lambda mb, x: mb.batch_norm(x=x, mean=ALPHA, variance=VARIANCE),
        lambda x: F.batch_norm(x, torch.from_numpy(ALPHA), torch.from_numpy(VARIANCE)),
    ),
    "instance_norm": (
        lambda mb, x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA, epsilon=1e-3),
        lambda x: F.instance_norm(
            x, weight=torch.from_numpy(GAMMA), bias=torch.from_numpy(BETA), eps=1e-3
        ),
    ),
    "layer_norm": (
        lambda mb, x: mb.layer_norm(
            x=x, axes=[-1], gamma=np.arange(5, dtype=np.float32), epsilon=1e-3
        ),
        lambda x: F.layer_norm(x, [5], torch.arange(5.0), eps=1e-3),
    ),
    "layer_norm:channels": (
        lambda mb, x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA, beta=BETA),
        lambda x: F.layer_norm(
            x.movedim(1, -1), [3], torch.from_numpy(GAMMA), torch.from_numpy(BETA)
        ).movedim(-1, 1),
    ),
    "l2_norm": (
        lambda mb, x: mb.l2_norm(x=x, epsilon=1e-3),
        lambda x: x / (x.square().sum((1, 2, 3), keepdim=True) + 1e-3).sqrt(),
    ),
    "local_response_norm": (
        lambda mb, x: mb.local_response_norm(x=x, size=3, alpha=0.5, beta=0.6, k=1.5),
        lambda x: F.local_response_norm(x, 3, 0.5, 0.6, 1.5),
    ),
}


def test_normalizations(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, NORMALIZATIONS, values(2, 3, 4, 5))


def kernel(*shape: int) -> Any:
    return values(*shape, seed=7).numpy()


def convolved(x: Tensor, weight: Any, **settings: Any) -> Tensor:
    return F.conv2d(x, torch.from_numpy(weight), torch.from_numpy(BETA), **settings)


WINDOWS_OVER_IMAGES: dict[str, Case] = {
    "conv": (
        lambda mb, x: mb.conv(x=x, weight=kernel(3, 4, 3, 3), bias=BETA, pad_type="valid"),
        lambda x: convolved(x, kernel(3, 4, 3, 3)),
    ),
    "conv:strided": (
        lambda mb, x: mb.conv(
            x=x, weight=kernel(3, 4, 3, 3), bias=BETA, strides=[2, 1], pad_type="custom",
            pad=[1, 1, 2, 2], dilations=[1, 2],
        ),
        lambda x: convolved(
            x, kernel(3, 4, 3, 3), stride=(2, 1), padding=(1, 2), dilation=(1, 2)
        ),
    ),
    "conv:uneven": (
        lambda mb, x: mb.conv(
            x=x, weight=kernel(3, 4, 3, 3), bias=BETA, pad_type="custom", pad=[0, 1, 2, 1]
        ),
        lambda x: convolved(F.pad(x, (2, 1, 0, 1)), kernel(3, 4, 3, 3)),
    ),
    "conv:same": (
        lambda mb, x: mb.conv(
            x=x, weight=kernel(3, 4, 3, 3), bias=BETA, strides=[2, 2], pad_type="same"
        ),
        # 7 rows need one row on both sides, 8 columns one column after: TensorFlow's padding.
        lambda x: convolved(F.pad(x, (0, 1, 1, 1)), kernel(3, 4, 3, 3), stride=2),
    ),
    "conv:same_lower": (
        lambda mb, x: mb.conv(
            x=x, weight=kernel(3, 4, 3, 3), bias=BETA, strides=[2, 2], pad_type="same_lower"
        ),
        lambda x: convolved(F.pad(x, (1, 0, 1, 1)), kernel(3, 4, 3, 3), stride=2),
    ),
    "conv:depthwise": (
        lambda mb, x: mb.conv(
            x=x, weight=kernel(4, 1, 5, 5), groups=4, pad_type="custom", pad=[2, 2, 2, 2]
        ),
        lambda x: F.conv2d(x, torch.from_numpy(kernel(4, 1, 5, 5)), padding=2, groups=4),
    ),
    "conv_transpose": (
        lambda mb, x: mb.conv_transpose(x=x, weight=kernel(4, 3, 3, 3), bias=BETA),
        lambda x: F.conv_transpose2d(
            x, torch.from_numpy(kernel(4, 3, 3, 3)), torch.from_numpy(BETA)
        ),
    ),
    "conv_transpose:strided": (
        lambda mb, x: mb.conv_transpose(
            x=x, weight=kernel(4, 2, 3, 3), strides=[2, 2], groups=2, pad_type="custom",
            pad=[1, 1, 1, 1],
        ),
        lambda x: F.conv_transpose2d(
            x, torch.from_numpy(kernel(4, 2, 3, 3)), stride=2, padding=1, groups=2
        ),
    ),
    "conv_transpose:output": (
        lambda mb, x: mb.conv_transpose(
            x=x, weight=kernel(4, 3, 3, 3), strides=[2, 2], pad_type="custom",
            pad=[1, 1, 1, 1], output_shape=[2, 3, 14, 16],
        ),
        lambda x: F.conv_transpose2d(
            x, torch.from_numpy(kernel(4, 3, 3, 3)), stride=2, padding=1, output_padding=1
        ),
    ),
    "conv_transpose:same": (
        lambda mb, x: mb.conv_transpose(
            x=x, weight=kernel(4, 3, 4, 4), strides=[2, 2], pad_type="same"
        ),
        lambda x: F.conv_transpose2d(
            x, torch.from_numpy(kernel(4, 3, 4, 4)), stride=2, padding=1
        ),
    ),
    "max_pool": (
        lambda mb, x: mb.max_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]
        ),
        lambda x: F.max_pool2d(x, 3, 2, 1),
    ),
    "max_pool:ceil": (
        lambda mb, x: mb.max_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
            ceil_mode=True,
        ),
        lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    ),
    "avg_pool": (
        lambda mb, x: mb.avg_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1]
        ),
        lambda x: F.avg_pool2d(x, 3, 2, 1),
    ),
    "avg_pool:exclude": (
        lambda mb, x: mb.avg_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
            exclude_padding_from_average=True,
        ),
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    ),
    "avg_pool:ceil": (
        lambda mb, x: mb.avg_pool(
            x=x, kernel_sizes=[3, 2], strides=[2, 3], pad_type="custom", pad=[1, 1, 0, 0],
            ceil_mode=True,
        ),
        lambda x: F.avg_pool2d(x, (3, 2), (2, 3), (1, 0), ceil_mode=True),
    ),
    "avg_pool:ceil-exclude": (
        lambda mb, x: mb.avg_pool(
            x=x, kernel_sizes=[3, 3], strides=[2, 2], pad_type="custom", pad=[1, 1, 1, 1],
            ceil_mode=True, exclude_padding_from_average=True,
        ),
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    ),
    "l2_pool": (
        lambda mb, x: mb.l2_pool(
            x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid"
        ),
        lambda x: F.lp_pool2d(x, 2.0, 2),
    ),
}  # fmt: skip


def test_windows_over_images(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, WINDOWS_OVER_IMAGES, values(2, 4, 7, 8))


@pytest.mark.parametrize("spatial", [1, 3])
def test_windows_over_lines_and_volumes(interpret: Interpret, mb: Any, spatial: int) -> None:
    x = values(1, 2, *[6] * spatial)
    weight = kernel(4, 2, *[3] * spatial)
    found = interpret(
        lambda x: [
            mb.conv(x=x, weight=weight, pad_type="custom", pad=[1] * (2 * spatial)),
            mb.max_pool(x=x, kernel_sizes=[2] * spatial, strides=[2] * spatial, pad_type="valid"),
        ],
        x,
    )
    convolve = {1: F.conv1d, 3: F.conv3d}[spatial]
    pool = {1: F.max_pool1d, 3: F.max_pool3d}[spatial]
    torch.testing.assert_close(found[0], convolve(x, torch.from_numpy(weight), padding=1))
    torch.testing.assert_close(found[1], pool(x, 2))


LEFT = values(4, 6, seed=3)


MATRIX_PRODUCTS: dict[str, Case] = {
    "linear": (
        lambda mb, x: mb.linear(x=x, weight=kernel(3, 5), bias=BETA),
        lambda x: F.linear(x, torch.from_numpy(kernel(3, 5)), torch.from_numpy(BETA)),
    ),
    "matmul": (
        lambda mb, x: mb.matmul(x=x, y=kernel(5, 5, 3)),
        lambda x: x @ torch.from_numpy(kernel(5, 5, 3)),
    ),
    "matmul:transposed": (
        lambda mb, x: mb.matmul(x=x, y=kernel(3, 5), transpose_x=True, transpose_y=True),
        lambda x: x.mT @ torch.from_numpy(kernel(3, 5)).mT,
    ),
    "einsum": (
        lambda mb, x: mb.einsum(values=(x, x), equation="chw,whr->chr"),
        lambda x: torch.einsum("chw,whr->chr", x, x),
    ),
}


def test_matrix_products(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, MATRIX_PRODUCTS, values(5, 5, 5))


def test_attention(interpret: Interpret, mb: Any) -> None:
    query, key, value, mask = (
        values(1, 2, 3, 4),
        values(1, 2, 5, 4),
        values(1, 2, 5, 6),
        values(3, 5),
    )
    (found,) = interpret(
        lambda q, k, v, m: mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m),
        query, key, value, mask, target="iOS18",
    )  # fmt: skip
    wanted = (query @ key.mT / 2 + mask).softmax(-1) @ value
    torch.testing.assert_close(found, wanted)


def blocks(x: Tensor) -> Tensor:
    """TensorFlow's space_to_depth with blocks of 2, place by place."""
    return torch.cat([x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)], dim=1)


MOVES_OF_ELEMENTS: dict[str, Case] = {
    "reshape": (lambda mb, x: mb.reshape(x=x, shape=[4, -1]), lambda x: x.reshape(4, -1)),
    "reshape:zeros": (
        lambda mb, x: mb.reshape(x=x, shape=[0, -1, 0, 0]),
        lambda x: x.reshape(2, 8, 4, 6),
    ),
    "reshape_like": (
        lambda mb, x: mb.reshape_like(
            x=x, ref_tensors=(x, x), begins=(0, 1), ends=(1, 0), end_masks=(False, True)
        ),
        lambda x: x,
    ),
    "flatten2d": (lambda mb, x: mb.flatten2d(x=x, axis=-2), lambda x: x.reshape(16, 24)),
    "expand_dims": (
        lambda mb, x: mb.expand_dims(x=mb.reduce_sum(x=x, axes=[1]), axes=[0, -1]),
        lambda x: x.sum(1)[None, ..., None],
    ),
    "squeeze": (
        lambda mb, x: mb.squeeze(x=mb.reduce_sum(x=x, axes=[1, 2], keep_dims=True)),
        lambda x: x.sum((1, 2)),
    ),
    "transpose": (
        lambda mb, x: mb.transpose(x=x, perm=[0, -1, 1, 2]),
        lambda x: x.permute(0, 3, 1, 2),
    ),
    "shape": (lambda mb, x: mb.shape(x=x), lambda x: torch.tensor(x.shape)),
    "slice_by_index": (
        lambda mb, x: mb.slice_by_index(
            x=x, begin=[0, 1, -1, 0], end=[2, -1, 0, 6], stride=[1, 2, -1, 2]
        ),
        lambda x: x[:, 1:-1:2, [3, 2, 1], ::2],
    ),
    "slice_by_index:masks": (
        lambda mb, x: mb.slice_by_index(
            x=x, begin=[1, 3, 0, 2], end=[0, 0, 3, 0], begin_mask=[False, True, False, False],
            end_mask=[False, True, False, True], squeeze_mask=[True, False, False, False],
        ),
        lambda x: x[1, :, 0:3, 2:],
    ),
    "slice_by_index:last": (
        lambda mb, x: mb.slice_by_index(
            x=x, begin=[0, 0, 0, -1], end=[2, 8, 4, 0],
            squeeze_mask=[False, False, False, True],
        ),
        lambda x: x[..., -1],
    ),
    "slice_by_size": (
        lambda mb, x: mb.slice_by_size(x=x, begin=[0, 2, 1, -2], size=[2, 3, -1, 1]),
        lambda x: x[:, 2:5, 1:, 4:5],
    ),
    "concat": (
            lambda mb, x: mb.concat(values=(x, x), axis=-1),
            lambda x: torch.cat([x, x], -1),
        ),
    "concat:interleave": (
        lambda mb, x: mb.concat(values=(x, mb.relu(x=x)), axis=1, interleave=True),
        lambda x: torch.stack([x, x.relu()], 2).flatten(1, 2),
    ),
    "stack": (lambda mb, x: mb.stack(values=(x, x), axis=1), lambda x: torch.stack([x, x], 1)),
    "split": (lambda mb, x: mb.split(x=x, num_splits=2, axis=1), lambda x: x.chunk(2, 1)),
    "split:sizes": (
        lambda mb, x: mb.split(x=x, split_sizes=[1, 2, 3], axis=-1),
        lambda x: x.split([1, 2, 3], -1),
    ),
    "tile": (lambda mb, x: mb.tile(x=x, reps=[1, 2, 1, 3]), lambda x: x.repeat(1, 2, 1, 3)),
    "pad": (
        lambda mb, x: mb.pad(x=x, pad=[1, 0, 2, 1], mode="constant", constant_val=0.5),
        lambda x: F.pad(x, (2, 1, 1, 0), value=0.5),
    ),
    "pad:reflect": (
        lambda mb, x: mb.pad(x=x, pad=[1, 2, 3, 0], mode="reflect"),
        lambda x: F.pad(x, (3, 0, 1, 2), mode="reflect"),
    ),
    "pad:replicate": (
        lambda mb, x: mb.pad(x=x, pad=[0, 2, 1, 1], mode="replicate"),
        lambda x: F.pad(x, (1, 1, 0, 2), mode="replicate"),
    ),
    "reverse": (lambda mb, x: mb.reverse(x=x, axes=[1, -1]), lambda x: x.flip(1, 3)),
    "sliding_windows": (
        lambda mb, x: mb.sliding_windows(x=x, axis=2, size=3, stride=1),
        lambda x: x.unfold(2, 3, 1).movedim(-1, 3),
    ),
    "depth_to_space": (
        lambda mb, x: mb.depth_to_space(x=mb.space_to_depth(x=x, block_size=2), block_size=2),
        lambda x: x,
    ),
    "space_to_depth": (lambda mb, x: mb.space_to_depth(x=x, block_size=2), blocks),
    "pixel_shuffle": (
        lambda mb, x: mb.pixel_shuffle(x=x, upscale_factor=2),
        lambda x: F.pixel_shuffle(x, 2),
    ),
    "pixel_unshuffle": (
        lambda mb, x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
        lambda x: F.pixel_unshuffle(x, 2),
    ),
    "space_to_batch": (
        lambda mb, x: mb.space_to_batch(
            x=x, block_shape=[2, 2], paddings=[[0, 0], [1, 1]]
        ),
        lambda x: torch.cat(
            [F.pad(x, (1, 1))[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
        ),
    ),
    "batch_to_space": (
        lambda mb, x: mb.batch_to_space(
            x=mb.space_to_batch(x=x, block_shape=[2, 3], paddings=[[0, 0], [0, 0]]),
            block_shape=[2, 3], crops=[[1, 0], [0, 2]],
        ),
        lambda x: x[..., 1:, :-2],
    ),
    "crop": (
        lambda mb, x: mb.crop(x=x, crop_height=[1, 0], crop_width=[2, 1]),
        lambda x: x[..., 1:, 2:-1],
    ),
    "reverse_sequence": (
        lambda mb, x: mb.reverse_sequence(x=x, lengths=[2, 4], seq_axis=2, batch_axis=0),
        lambda x: torch.stack([x[0][:, [1, 0, 2, 3]], x[1][:, [3, 2, 1, 0]]]),
    ),
    "fill_like": (
        lambda mb, x: mb.fill_like(ref_tensor=x, value=2.5),
        lambda x: torch.full_like(x, 2.5),
    ),
    "fill": (
        lambda mb, x: mb.fill(shape=mb.shape(x=x), value=1.5),
        lambda x: torch.full_like(x, 1.5),
    ),
    "range_1d": (
        lambda mb, x: mb.range_1d(
            start=1, end=mb.squeeze(x=mb.gather(x=mb.shape(x=x), indices=[1])), step=2
        ),
        lambda x: torch.arange(1, 8, 2),
    ),
}  # fmt: skip


def test_moves_of_elements(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, MOVES_OF_ELEMENTS, values(2, 8, 4, 6))


def test_a_slice_is_replaced(interpret: Interpret, mb: Any) -> None:
    x, update = values(3, 4), values(2, 2, seed=1)
    (found,) = interpret(
        lambda x, u: mb.slice_update(x=x, update=u, begin=[0, 1], end=[3, 3], stride=[2, 1]),
        x, update, target="iOS18",
    )  # fmt: skip
    wanted = x.clone()
    wanted[::2, 1:3] = update
    assert torch.equal(found, wanted)


COMBINE: dict[str, Callable[[Tensor, float], Tensor]] = {
    "update": torch.full_like, "add": torch.add, "sub": torch.sub, "mul": torch.mul,
    "div": torch.div, "max": lambda old, new: old.clamp(min=new),
    "min": lambda old, new: old.clamp(max=new),
}  # fmt: skip


def scattered(x: Tensor, mode: str) -> Tensor:
    """Rows 2 and 0 combined with twos and threes, one after the other."""
    wanted = x.clone()
    for row, number in ((2, 2.0), (0, 3.0)):
        wanted[row] = COMBINE[mode](wanted[row].clone(), number)
    return wanted


UPDATES = np.repeat(np.array([[2.0], [3.0]], np.float32), 5, axis=1)


@pytest.mark.parametrize("mode", ["update", "add", "sub", "mul", "div", "max", "min"])
def test_scatters(interpret: Interpret, mb: Any, mode: str) -> None:
    x = values(4, 5, low=1.0, high=4.0)
    along = np.repeat(np.array([[2], [0]], np.int32), 5, axis=1)
    found = interpret(
        lambda x: [
            mb.scatter(data=x, indices=[2, 0], updates=UPDATES, axis=0, mode=mode),
            mb.scatter_nd(data=x, indices=[[2], [0]], updates=UPDATES, mode=mode),
            mb.scatter_along_axis(data=x, indices=along, updates=UPDATES, axis=0, mode=mode),
        ],
        x,
    )
    for value in found:
        torch.testing.assert_close(value, scattered(x, mode))


GATHERS: dict[str, Case] = {
    "gather": (
        lambda mb, x: mb.gather(x=x, indices=[[2, 0], [-1, 1]], axis=1),
        lambda x: x[:, torch.tensor([[2, 0], [-1, 1]])],
    ),
    "gather:scalar": (lambda mb, x: mb.gather(x=x, indices=1, axis=-1), lambda x: x[..., 1]),
    "gather:batch": (
        lambda mb, x: mb.gather(x=x, indices=[[2, 0], [1, 1]], axis=1, batch_dims=1),
        lambda x: torch.stack([x[0, [2, 0]], x[1, [1, 1]]]),
    ),
    "gather_along_axis": (
        lambda mb, x: mb.gather_along_axis(
            x=x, indices=np.arange(40, dtype=np.int32).reshape(2, 4, 5) % 5, axis=-1
        ),
        lambda x: x.gather(-1, torch.arange(40).reshape(2, 4, 5) % 5),
    ),
    "gather_nd": (
        lambda mb, x: mb.gather_nd(x=x, indices=[[1, 2], [0, -1]]),
        lambda x: torch.stack([x[1, 2], x[0, -1]]),
    ),
    "gather_nd:batch": (
        lambda mb, x: mb.gather_nd(x=x, indices=[[[2]], [[0]]], batch_dims=1),
        lambda x: torch.stack([x[0, [2]], x[1, [0]]]),
    ),
    "one_hot": (
        lambda mb, x: mb.one_hot(
            indices=mb.reduce_argmax(x=x, axis=-1), one_hot_vector_size=5, axis=1,
            on_value=2.0, off_value=-1.0,
        ),
        lambda x: 3.0 * F.one_hot(x.argmax(-1), 5).movedim(-1, 1) - 1.0,
    ),
}  # fmt: skip


def test_gathers(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, GATHERS, values(2, 4, 5))


def resized(x: Tensor, size: Any, *, corners: bool = False) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=corners)


RESIZES: dict[str, Case] = {
    "upsample_nearest_neighbor": (
        lambda mb, x: mb.upsample_nearest_neighbor(
            x=x, scale_factor_height=2, scale_factor_width=3
        ),
        lambda x: x.repeat_interleave(2, 2).repeat_interleave(3, 3),
    ),
    "resize_nearest_neighbor": (
        lambda mb, x: mb.resize_nearest_neighbor(
            x=x, target_size_height=7, target_size_width=3
        ),
        lambda x: F.interpolate(x, (7, 3)),
    ),
    "upsample_bilinear": (
        lambda mb, x: mb.upsample_bilinear(
            x=x, scale_factor_height=2, scale_factor_width=3, align_corners=True
        ),
        lambda x: resized(x, (8, 18), corners=True),
    ),
    "upsample_bilinear:half": (
        lambda mb, x: mb.upsample_bilinear(
            x=x, scale_factor_height=2, scale_factor_width=2, align_corners=False
        ),
        lambda x: resized(x, (8, 12)),
    ),
    "resize_bilinear": (
        lambda mb, x: mb.resize_bilinear(
            x=x, target_size_height=3, target_size_width=9, sampling_mode="UNALIGN_CORNERS"
        ),
        lambda x: resized(x, (3, 9)),
    ),
    "resize_bilinear:strict": (
        lambda mb, x: mb.resize_bilinear(
            x=x, target_size_height=9, target_size_width=1,
            sampling_mode="STRICT_ALIGN_CORNERS",
        ),
        lambda x: resized(x, (9, 1), corners=True),
    ),
    "resize": (
        lambda mb, x: mb.resize(
            x=x, shape=[9, 0], resized_dims=np.uint32(2), sampling_mode="UNALIGN_CORNERS"
        ),
        lambda x: resized(x, (9, 6)),
    ),
    "resize:nearest": (
        lambda mb, x: mb.resize(
            x=x, shape=[8, 12], resized_dims=np.uint32(2),
            interpolation_mode="NEAREST_NEIGHBOR",
        ),
        lambda x: F.interpolate(x, (8, 12)),
    ),
}  # fmt: skip


def test_resizes(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, RESIZES, values(1, 2, 4, 6))


@pytest.mark.parametrize(
    ("mode", "size", "points"),
    [
        ("UNALIGN_CORNERS", 5, [0.0, 0.1, 0.5, 0.9, 1.0]),
        ("STRICT_ALIGN_CORNERS", 5, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("DEFAULT", 5, [0.0, 0.4, 0.8, 1.0, 1.0]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("OFFSET_CORNERS", 6, [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12]),
        ("DEFAULT", 6, [0.0, 1 / 3, 2 / 3, 1.0, 1.0, 1.0]),
        ("ALIGN_CORNERS", 1, [0.5]),
    ],
)
def test_sampling_grids_are_those_of_apples_reference(
    interpret: Interpret, mb: Any, mode: str, size: int, points: list[float]
) -> None:
    """The examples in the reference of `resize_bilinear`: two elements, 0 and 1."""
    (found,) = interpret(
        lambda x: mb.resize_bilinear(
            x=x, target_size_height=1, target_size_width=size, sampling_mode=mode
        ),
        torch.tensor([[[[0.0, 1.0]]]]),
    )
    torch.testing.assert_close(found.flatten(), torch.tensor(points))


def test_integers_saturate_and_come_back(interpret: Interpret, mb: Any) -> None:
    x = torch.tensor([[-100.0, -0.3, 0.25], [0.75, 1.0, 100.0]])

    def build(x: Any) -> list[Any]:
        whole = mb.quantize(input=x, scale=0.5, zero_point=np.uint8(3), output_dtype="uint8")
        rows = mb.quantize(
            input=x, scale=np.array([0.1, 2.0], np.float32), axis=0, output_dtype="int8"
        )
        return [
            mb.dequantize(input=whole, scale=0.5, zero_point=np.uint8(3)),
            mb.dequantize(input=rows, scale=np.array([0.1, 2.0], np.float32), axis=0),
        ]

    whole, rows = interpret(build, x)
    assert whole.tolist() == [[-1.5, -0.5, 0.0], [1.0, 1.0, 100.0]]  # 0.5 and 1.5 go to 0 and 2
    wanted = torch.tensor([[-12.8, -0.3, 0.2], [0.0, 0.0, 100.0]])
    torch.testing.assert_close(rows, wanted)


def test_weights_in_8_bits(interpret: Interpret, mb: Any) -> None:
    levels = np.arange(-8, 7, dtype=np.int8).reshape(3, 5)
    scale = np.array([0.5, 0.25, 2.0], np.float32)
    zeros = np.array([1, 0, -2], np.int8)

    def build(x: Any) -> Any:
        weight = mb.constexpr_affine_dequantize(
            quantized_data=levels, zero_point=zeros, scale=scale, axis=np.int32(0)
        )
        return mb.linear(x=x, weight=weight)

    (found,) = interpret(build, torch.eye(5))
    wanted = (levels.astype(np.float32) - zeros[:, None]) * scale[:, None]
    assert torch.equal(found.T, torch.from_numpy(wanted))


@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_weights_from_a_palette(interpret: Interpret, mb: Any, bits: int) -> None:
    palette = values(2**bits).numpy()
    numbers = (np.arange(15) * 7) % 2**bits
    packed = np.packbits(
        ((numbers[:, None] >> np.arange(bits)) & 1).astype(np.uint8).ravel(), bitorder="little"
    )

    def build(x: Any) -> Any:
        weight = mb.constexpr_lut_to_dense(
            indices=packed, lut=palette, shape=np.array([3, 5], np.uint32)
        )
        return mb.linear(x=x, weight=weight)

    (found,) = interpret(build, torch.eye(5))
    assert torch.equal(found.T, torch.from_numpy(palette[numbers].reshape(3, 5)))


def test_palettes_of_blocks_and_of_vectors_as_in_apples_reference() -> None:
    """The two cases in the reference of iOS 18's `constexpr_lut_to_dense`."""
    indices = torch.tensor([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3]).reshape(6, 2)
    lut = torch.tensor([1.0, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1)
    wanted = [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]]
    assert constexpr_lut_to_dense(indices, lut).tolist() == wanted
    bits = torch.tensor([[[0, 0], [1, 0]], [[1, 1], [0, 0]]])
    vectors = torch.arange(6.0).reshape(1, 1, 1, 2, 3)
    dense = constexpr_lut_to_dense(bits, vectors, vector_axis=torch.tensor(1))
    assert dense[0].tolist() == [[0, 0], [1, 1], [2, 2], [3, 0], [4, 1], [5, 2]]


def test_sparse_weights(interpret: Interpret, mb: Any) -> None:
    kept = np.array([0, 1, 1, 0, 0, 1, 0, 0, 0, 1], bool)
    dense = np.zeros(10, np.float32)
    dense[kept] = [1, 2, 3, 4]

    def build(x: Any) -> Any:
        weight = mb.constexpr_sparse_to_dense(
            nonzero_data=dense[kept],
            mask=np.packbits(kept, bitorder="little"),
            shape=np.array([2, 5], np.uint32),
        )
        return mb.linear(x=x, weight=weight)

    (found,) = interpret(build, torch.eye(5))
    assert torch.equal(found.T, torch.from_numpy(dense.reshape(2, 5)))
    mask = torch.from_numpy(kept.reshape(2, 5))
    assert torch.equal(
        constexpr_sparse_to_dense(torch.tensor([1.0, 2, 3, 4]), mask),
        torch.from_numpy(dense.reshape(2, 5)),
    )


def test_weights_with_a_scale_for_each_block() -> None:
    data = torch.arange(8).reshape(2, 4)
    scale, offset = torch.tensor([[1.0, 10.0], [2.0, 20.0]]), torch.tensor([[0, 1], [4, 6]])
    found = constexpr_blockwise_shift_scale(data, scale, offset)
    assert found.tolist() == [[0, 1, 10, 20], [0, 2, 0, 20]]
    assert constexpr_cast(torch.tensor([0.5]), "fp32").tolist() == [0.5]


def test_a_classifier_numbers_its_class() -> None:
    number, scores = classify(torch.tensor([[0.1, 0.7, 0.2]]), ("a", "b", "c"))
    assert number == 1
    assert scores.tolist() == pytest.approx([0.1, 0.7, 0.2])
    with pytest.raises(WorkError, match="3 probabilities for 2 classes"):
        classify(torch.tensor([[0.1, 0.7, 0.2]]), ("a", "b"))


def test_every_operation_of_the_interpreter_is_tested_here() -> None:
    called = set(re.findall(r"(\w+)\(", Path(__file__).read_text(encoding="utf-8")))
    assert set(OPERATIONS) <= called | UNARY.keys() | BINARY.keys() | REDUCTIONS.keys()
