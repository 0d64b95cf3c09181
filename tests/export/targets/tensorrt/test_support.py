"""What TensorRT's parser takes, looked up without TensorRT."""

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from edgeseed.export.targets.tensorrt.support import HIGHEST_OPSET, MADE_FOR, major, preflight


def model(
    *operators: str, opset: int = 19, kind: int = TensorProto.FLOAT, domain: str = ""
) -> ModelProto:
    """A row of operators of one input and one output."""
    names = ["x", *(f"t{index}" for index in range(len(operators)))]
    nodes = [
        helper.make_node(name, [names[at]], [names[at + 1]], domain=domain)
        for at, name in enumerate(operators)
    ]
    ends = [helper.make_tensor_value_info(name, kind, [1, 4]) for name in (names[0], names[-1])]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", opset)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def findings(made: ModelProto, *versions: str) -> list[str]:
    return [str(each) for each in preflight(made, versions=versions or MADE_FOR)]


def test_what_every_version_takes_has_no_finding() -> None:
    assert findings(model("Relu", "Sigmoid", "HardSwish")) == []


def test_an_operator_without_an_importer_is_named_once() -> None:
    assert findings(model("Relu", "Mish", "Mish", opset=19)) == [
        "t1: TensorRT has no operator Mish"
    ]


def test_an_operator_of_another_domain_is_none_of_its() -> None:
    made = model("Relu", domain="com.microsoft")
    nodes = [each for each in findings_without_types(made) if "no operator" in each]
    assert nodes == ["t0: TensorRT has no operator Relu"]


def findings_without_types(made: ModelProto) -> list[str]:
    # Shapes of foreign operators cannot be inferred; those of outputs are stated.
    return findings(made, "10.3")


@pytest.mark.parametrize(("version", "opset"), [("10.3", 20), ("11", 25)])
def test_an_opset_that_is_too_new_is_named_with_the_version(version: str, opset: int) -> None:
    assert HIGHEST_OPSET[str(major(version))] == opset
    assert findings(model("Relu", opset=opset), version) == []
    if opset < 23:  # what this onnx knows in any case
        assert findings(model("Relu", opset=opset + 1), version) == [
            f"opset {opset + 1}: TensorRT {version} reads up to opset {opset}"
        ]


def test_a_type_that_it_lacks_is_named_with_its_tensor() -> None:
    assert "x: TensorRT has no type DOUBLE" in findings(model("Relu", kind=TensorProto.DOUBLE))
    made = model("Relu")
    made.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.uint16), "w"))
    assert findings(made) == ["w: TensorRT has no type UINT16"]


@pytest.mark.parametrize(("text", "number"), [("10.3", 10), ("11", 11), ("8.6.1", 8)])
def test_the_major_version_is_the_first_number(text: str, number: int) -> None:
    assert major(text) == number
