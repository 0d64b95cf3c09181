"""A TensorRT graph, run on this machine with float16's rounding and its largest number."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeseed.core.errors import GateError
from edgeseed.export.targets.tensorrt.model import TensorRTModel, rounded


def loud(path: Path, *, hides: bool) -> TensorRTModel:
    """A float16 model that makes photos 300 times as bright, and may then divide by them."""
    inside = [
        helper.make_node("Cast", ["image"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Mul", ["h", "by"], ["bright"], name="louder"),
        helper.make_node("Reciprocal" if hides else "Relu", ["bright"], ["r"]),
        helper.make_node("Cast", ["r"], ["embedding"], to=TensorProto.FLOAT),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3, 2, 2])
        for name in ("image", "embedding")
    ]
    by = numpy_helper.from_array(np.array(300, np.float16), "by")
    graph = helper.make_graph(inside, "loud", [values[0]], [values[1]], [by])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return TensorRTModel(path, batch="n", precision="fp16")


def test_overflow_names_the_tensor_and_the_way_out(tmp_path: Path) -> None:
    """ONNX Runtime would pass it: its CPU computes float16 files in float32, without the casts."""
    photos = np.full((2, 3, 2, 2), 255, np.uint8)
    problem = r"bright: reaches 7\.65e\+04 .* beyond float16's 65504; .*--set float32=louder$"
    with pytest.raises(GateError, match=problem):
        loud(tmp_path / "model.onnx", hides=False).infer(photos)


def test_an_overflow_that_does_not_show_in_the_outputs_is_found_by_the_lint(tmp_path: Path) -> None:
    model = loud(tmp_path / "model.onnx", hides=True)
    model.infer(np.full((1, 3, 2, 2), 200, np.uint8))
    assert model.largest_values(np.full((1, 3, 2, 2), 200, np.uint8))["bright"] == 60_000
    assert model.lint() == ()
    model = loud(tmp_path / "model.onnx", hides=True)
    model.infer(np.full((1, 3, 2, 2), 250, np.uint8))
    assert [finding.where for finding in model.lint()] == ["bright"]


def test_the_twin_rounds_to_float16_and_overflows_as_it_does(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Exp", ["h"], ["e"]),
        helper.make_node("Log", ["e"], ["l"]),
        helper.make_node("Cast", ["l"], ["y"], to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", [values[0]], [values[1]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    twin = onnx.load_from_string(rounded(model).SerializeToString())
    import onnxruntime

    session = onnxruntime.InferenceSession(
        twin.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    given = np.array([[1.0], [12.0]], np.float32)
    (found,) = session.run(None, {"x": given})
    with np.errstate(over="ignore"):
        expected = np.log(np.exp(given.astype(np.float16)).astype(np.float16))
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    assert np.isinf(found[1])
