"""Integers, palettes, sparse weights: as torch has them, from a package that coremltools wrote."""

from typing import Any

import numpy as np
import pytest
import torch
from support.coreml_operations import Interpret, values

from edgeseed.export.targets.coreml.interpreter.operations.quantization import (
    constexpr_blockwise_shift_scale,
    constexpr_cast,
    constexpr_lut_to_dense,
    constexpr_sparse_to_dense,
)


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
