from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseed.export.targets.onnx.byte_weights import large_float_readers, pack, store_as_bytes

RANDOM = np.random.default_rng(0)


def one_node_model(op_type: str, shape: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    weights = RANDOM.normal(size=shape).astype(np.float32)
    columns = op_type == "MatMul" or not attributes.get("transB")
    size = [2, shape[1], 5, 5] if op_type == "Conv" else [2, shape[0 if columns else 1]]
    graph = helper.make_graph(
        [helper.make_node(op_type, ["x", "w"], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, size)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"] * len(shape))],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.parametrize(
    ("op_type", "shape", "attributes", "channels"),
    [
        ("Conv", (16, 8, 3, 3), {}, 16),
        ("Gemm", (12, 64), {"transB": 1}, 12),
        ("Gemm", (64, 12), {}, 12),
        ("MatMul", (64, 12), {}, 12),
    ],
)
def test_every_output_channel_has_a_scale_of_its_own(
    op_type: str, shape: tuple[int, ...], attributes: dict[str, int], channels: int
) -> None:
    model = one_node_model(op_type, shape, **attributes)
    packed = store_as_bytes(model)
    found = {item.name: numpy_helper.to_array(item) for item in packed.graph.initializer}
    weights = numpy_helper.to_array(model.graph.initializer[0])
    assert found["w_bytes"].dtype == np.int8
    assert found["w_scale"].size == channels
    error = np.abs(found["w_bytes"] * found["w_scale"] - weights)
    assert np.all(error <= found["w_scale"] * 0.5001)
    onnx.checker.check_model(packed)


def test_a_channel_of_zeros_stays_zero() -> None:
    packed, scale = pack(np.zeros((2, 3), np.float32), axis=0)
    assert not packed.any()
    assert np.all(scale > 0)


def test_weights_that_something_else_reads_too_stay_float() -> None:
    model = one_node_model("MatMul", (64, 12))
    model.graph.node.append(helper.make_node("Relu", ["w"], ["z"]))
    assert not [item for item in store_as_bytes(model).graph.initializer if "bytes" in item.name]


def test_small_weights_stay_float() -> None:
    model = one_node_model("Conv", (4, 2, 3, 3))
    assert store_as_bytes(model).SerializeToString() == model.SerializeToString()
    assert large_float_readers(model.graph) == []


def test_only_weights_on_a_grid_of_bytes_become_bytes_where_nothing_may_be_lost() -> None:
    model = one_node_model("Gemm", (12, 64), transB=1)
    kept = store_as_bytes(model, only_exact=True)
    assert kept.SerializeToString() == model.SerializeToString()
    packed, scale = pack(numpy_helper.to_array(model.graph.initializer[0]), axis=0)
    on_grid = numpy_helper.from_array((packed * scale).astype(np.float32), "w")
    model.graph.initializer[0].CopyFrom(on_grid)
    stored = {i.name: i for i in store_as_bytes(model, only_exact=True).graph.initializer}
    np.testing.assert_array_equal(numpy_helper.to_array(stored["w_bytes"]), packed)
