"""A file that is not plain QDQ is refused before an NPU's compiler sees it."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseed.core.records import QuantizationRecord
from edgeseed.export.targets.onnx.plain_qdq import lint_plain_qdq

RECORD = QuantizationRecord(
    scheme="qnn", integer_operators={"conv2d": "conv", "hardswish": "hardswish", "add": "add"}
)


def whole_model() -> onnx.ModelProto:
    """conv -> hard-swish -> a sum with itself, each between DQ and Q."""
    node = helper.make_node

    def stored(name: str, source: str) -> list[onnx.NodeProto]:
        return [
            node("QuantizeLinear", [source, "scale", "zero"], [f"{name}_q"]),
            node("DequantizeLinear", [f"{name}_q", "scale", "zero"], [f"{name}_dq"]),
        ]

    nodes = [
        *stored("image", "image"),
        node("DequantizeLinear", ["weight", "weight_scale", "weight_zero"], ["w"], axis=0),
        node("Conv", ["image_dq", "w"], ["conv2d"]),
        *stored("conv2d", "conv2d"),
        node("HardSwish", ["conv2d_dq"], ["hardswish"]),
        *stored("hardswish", "hardswish"),
        node("Add", ["hardswish_dq", "hardswish_dq"], ["add"]),
        *stored("add", "add"),
        node("Reshape", ["add_dq", "shape"], ["flat"]),
        *stored("flat", "flat"),
    ]
    arrays = {
        "scale": np.float32(0.1), "zero": np.uint8(128), "other": np.float32(0.2),
        "weight": np.ones((2, 3, 1, 1), np.int8), "weight_scale": np.ones(2, np.float32),
        "weight_zero": np.zeros(2, np.int8), "shape": np.array([1, -1]),
        "top": np.uint8(200),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes, "plain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("flat_dq", TensorProto.FLOAT, [1, 32])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in arrays.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def findings(model: onnx.ModelProto) -> str:
    return "; ".join(map(str, lint_plain_qdq(model.graph, RECORD)))


def find(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    found: onnx.NodeProto = next(node for node in model.graph.node if node.output[0] == output)
    return found


def float_result(model: onnx.ModelProto) -> None:
    """The convolution's result is not stored in front of the hard-swish."""
    find(model, "hardswish").input[0] = "conv2d"


def other_scale(model: onnx.ModelProto) -> None:
    find(model, "conv2d_dq").input[1] = "other"


def bytes_clipped(model: onnx.ModelProto) -> None:
    """As the schemes for CPUs have it."""
    clip = helper.make_node("Clip", ["conv2d_q", "", "top"], ["clipped"])
    model.graph.node.insert(6, clip)
    find(model, "conv2d_dq").input[0] = "clipped"


def float_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(
        numpy_helper.from_array(np.ones((2, 3, 1, 1), np.float32), "floats")
    )
    find(model, "conv2d").input[1] = "floats"


def pieces(model: onnx.ModelProto) -> None:
    """Hard-swish as x times a gate."""
    gate = helper.make_node("HardSigmoid", ["conv2d_dq"], ["gate"])
    at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "HardSwish")
    model.graph.node[at].op_type = "Mul"
    model.graph.node[at].input.append("gate")
    model.graph.node.insert(at, gate)


def test_a_plain_file_has_nothing_to_say_of() -> None:
    model = whole_model()
    onnx.checker.check_model(model, full_check=True)
    assert findings(model) == ""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (float_result, "1 were meant to stand between DequantizeLinear and QuantizeLinear, 0 do"),
        (other_scale, "conv2d_dq: it reads integers otherwise than they are stored"),
        (bytes_clipped, "clipped: Clip reads the integers conv2d_q themselves"),
        (bytes_clipped, "conv2d_dq: it reads what Clip made of integers"),
        (float_weights, "conv: 1 were meant to stand between"),
        (pieces, "hardswish: 1 were meant to stand between"),
    ],
)
def test_whatever_is_not_plain_is_found(
    fault: Callable[[onnx.ModelProto], None], message: str
) -> None:
    model = whole_model()
    fault(model)
    assert message in findings(model)
