"""Products of matrices, and attention: as torch has them, from a package that coremltools wrote."""

from typing import Any

import torch
import torch.nn.functional as F
from support.coreml_operations import BETA, Case, Interpret, check, kernel, values

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
