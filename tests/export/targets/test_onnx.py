from collections import Counter
from pathlib import Path

import onnx

from edgeseed.core.bundle import read_bundle
from edgeseed.export.verification.onnx import OnnxModel, optimised_graph


def test_the_file_runs_on_the_oldest_runtime_it_names(made_fp32: Path) -> None:
    model = onnx.load(made_fp32 / "model.onnx")
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 18)]
    assert model.ir_version == 8
    assert read_bundle(made_fp32).manifest.minimum_runtime == {"onnxruntime": "1.14"}


def test_the_file_tells_how_to_call_it_and_nothing_of_the_machine(made_fp32: Path) -> None:
    content = (made_fp32 / "model.onnx").read_bytes()
    properties = {item.key: item.value for item in onnx.load_from_string(content).metadata_props}
    assert "RGB pixels 0..255" in properties["edgeseed.input"]
    assert '"plain"' in properties["edgeseed.labels"]
    assert b"site-packages" not in content
    assert b"/work" not in content


def test_onnx_runtime_runs_the_int8_file_in_integers_only(made_int8: Path) -> None:
    """Whatever is left in float in the middle costs more than int8 gains."""
    kinds = Counter(node.op_type for node in optimised_graph(made_int8 / "model.onnx").node)
    assert kinds["Conv"] == kinds["Gemm"] == kinds["Sigmoid"] == kinds["Mul"] == kinds["Add"] == 0
    assert kinds["QuantizeLinear"] == 1  # the photo
    assert kinds["DequantizeLinear"] == 1  # the embedding
    assert kinds["QLinearConv"] == 17


def test_a_layer_that_was_meant_to_be_int8_and_is_not_is_found(made_int8: Path) -> None:
    quantization = read_bundle(made_int8).manifest.quantization
    assert quantization is not None
    more = {**quantization, "integer": {**quantization["integer"], "conv2d_99": "conv"}}
    model = OnnxModel(made_int8 / "model.onnx", batch="batch", quantization=more)
    assert [str(finding) for finding in model.lint()] == [
        "conv: 18 were meant to be int8, ONNX Runtime has 17"
    ]
