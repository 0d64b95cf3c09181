"""Plain QDQ: what Qualcomm's NPU computes in integers, and nothing else."""

import dataclasses
from collections import Counter

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from support.export import tiny_preprocess, tiny_student
from torch import Tensor, fx, nn

from edgeseed.core.network import StudentNetwork
from edgeseed.core.reading import read_record
from edgeseed.core.records import QuantizationRecord
from edgeseed.export.program import build_program, example_input, float_graph, trace
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.graph.layout import Kind, Layout, plan_layout
from edgeseed.export.quantize.graph.rewriting import insert_quantization, quantizer_of_kind
from edgeseed.export.quantize.graph.simulation import simulate
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.ranges.statistics import calibrate, scales_by_method
from edgeseed.export.quantize.scheme import Scheme
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos
from edgeseed.export.targets.onnx.plain_qdq import lint_plain_qdq
from edgeseed.export.targets.onnx.target import convert_program

Pixels = npt.NDArray[np.uint8]
EIGHT: Scheme = SCHEMES.load("qnn")
SIXTEEN: Scheme = SCHEMES.load("qnn-w8a16")


def graph_of(name: str) -> fx.GraphModule:
    network = tiny_student(name, trained=False)
    return float_graph(build_program(network, tiny_preprocess()))


def quantized(
    graph: fx.GraphModule, scheme: Scheme, pixels: Pixels
) -> tuple[fx.GraphModule, Layout]:
    layout = plan_layout(graph.graph, scheme)
    scales = scales_by_method(
        calibrate(graph, layout, Photos(pixels=pixels)), layout, scheme, "minmax"
    )
    return insert_quantization(graph, layout, scales, scheme), layout


def run(graph: fx.GraphModule, pixels: Pixels) -> list[Tensor]:
    with torch.no_grad():
        return list(graph(torch.from_numpy(pixels).float()))


def relative(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).abs().max() / truth.abs().max())


def onnx_of(
    network: StudentNetwork, scheme: Scheme, pixels: Pixels
) -> tuple[onnx.ModelProto, QuantizationRecord]:
    config = QuantizeConfig(calibrator="minmax", bias_correction=False, second_order=False)
    made = quantize(
        build_program(network, tiny_preprocess()), scheme, Photos(pixels=pixels),
        batch="dynamic", config=config,
    )  # fmt: skip
    model = convert_program(made.program, output_names=("embedding", "logits"), opset=21)
    return model, read_record(QuantizationRecord, made.record, what="it")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [EIGHT, SIXTEEN], ids=lambda scheme: scheme.name)
@pytest.mark.parametrize(
    "name",
    [
        "test_efficientnet",
        # Hard swish in sixteen bits is in the next test; a residual network has nothing of its own.
        pytest.param("mobilenetv3_small_050", marks=pytest.mark.slow),
        pytest.param("test_resnet", marks=pytest.mark.slow),
    ],
)
def test_every_operator_of_the_file_stands_between_dequantize_and_quantize(
    name: str, scheme: Scheme, pixels: Pixels
) -> None:
    model, record = onnx_of(tiny_student(name, trained=False), scheme, pixels)
    onnx.checker.check_model(model, full_check=True)
    assert list(lint_plain_qdq(model.graph, record)) == []
    kinds = Counter(node.op_type for node in model.graph.node)
    for bytes_only in ("Min", "Clip", "Tile", "Expand"):
        assert kinds[bytes_only] == 0
    assert not record.float_operators
    assert kinds["HardSwish"] == list(record.integer_operators.values()).count("hardswish")
    stored = {item.data_type for item in model.graph.initializer if not item.dims}
    wanted = onnx.TensorProto.UINT16 if scheme is SIXTEEN else onnx.TensorProto.UINT8
    assert wanted in stored


@pytest.mark.parametrize("name", ["test_efficientnet", "mobilenetv3_small_050"])
def test_sixteen_bits_are_the_float_network_but_for_its_weights(name: str, pixels: Pixels) -> None:
    graph = graph_of(name)
    fine = dataclasses.replace(
        SIXTEEN, weight=dataclasses.replace(SIXTEEN.weight, dtype=torch.int32, low=-(2**23),
                                            high=2**23)
    )  # fmt: skip
    found, layout = quantized(graph, fine, pixels)
    assert not layout.floats
    for value, truth in zip(run(found, pixels), run(graph, pixels), strict=True):
        assert relative(value, truth) < 5e-3


def test_the_photo_is_read_exactly_also_at_its_edge(pixels: Pixels) -> None:
    """A byte is 257 whole steps, and so is a byte less the grey: nothing is rounded in front of
    the first layer, and what it pads with is the mean of each channel."""
    graph = graph_of("test_efficientnet")
    layout = plan_layout(graph.graph, SIXTEEN)
    (image,) = [name for name, kind in layout.points.items() if kind is Kind.IMAGE]
    quantizer = quantizer_of_kind(Kind.IMAGE, 0, 255, SIXTEEN.activation)
    assert quantizer.scale == pytest.approx(1 / 257)
    assert quantizer.zero_point == 0
    assert quantizer_of_kind(Kind.IMAGE, 0, 255, EIGHT.activation).scale == 1.0
    first = next(node for node in graph.graph.nodes if node.target is torch.ops.aten.conv2d.default)
    found, _ = quantized(graph, SIXTEEN, pixels)
    black_and_white = np.concatenate([np.zeros_like(pixels[:1]), np.full_like(pixels[:1], 255)])
    values = {}
    for name, each in (("float", graph), ("integer", simulate(found))):
        recorder = fx.Interpreter(each)
        recorder.garbage_collect_values = False
        with torch.no_grad():
            recorder.run(torch.from_numpy(black_and_white).float())
        values[name] = next(
            value for node, value in recorder.env.items() if node.name == first.name
        )
    # The weights are bytes, the photo is not rounded: at the border as in the middle.
    error = (values["integer"] - values["float"]).abs()
    assert image == "image"
    assert float(error[..., 0, :].max()) <= 1.5 * float(error[..., 1:-1, 1:-1].max()) + 1e-3
    assert relative(values["integer"], values["float"]) < 2e-2


def test_a_gate_is_shut_and_open_exactly() -> None:
    quantizer = quantizer_of_kind(Kind.THREES, -9.0, 9.0, EIGHT.activation)
    low, high = quantizer.range
    assert low == pytest.approx(-3.0)
    assert 3.0 <= high < 3.05


def test_the_outputs_are_stored_as_well(pixels: Pixels) -> None:
    graph = graph_of("mobilenetv3_small_050")
    for scheme, wanted in ((EIGHT, True), (SCHEMES.load("arm"), False)):
        layout = plan_layout(graph.graph, scheme)
        (output,) = graph.graph.find_nodes(op="output")
        logits = output.args[0][1]
        assert (logits.name in layout.points) == wanted


def test_an_activation_whose_input_others_read_is_an_operator_of_its_own(pixels: Pixels) -> None:
    """Schemes for CPUs leave it in float: they have none but the limits of the integers."""

    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 8, 3)
            self.second = nn.Conv2d(8, 4, 1)

        def forward(self, image: Tensor) -> tuple[Tensor]:
            value = self.first(image / 32 - 4)
            bent = nn.functional.relu(value) + nn.functional.hardswish(value)
            return (self.second(bent * nn.functional.hardsigmoid(value)),)

    graph = float_graph(trace(Forked(), example_input(32, batch="dynamic"), batch="dynamic"))
    assert plan_layout(graph.graph, SCHEMES.load("x86")).floats
    found, layout = quantized(graph, SIXTEEN, pixels)
    assert not layout.floats
    assert relative(run(found, pixels)[0], run(graph, pixels)[0]) < 2e-2


def test_no_layer_stays_in_float_however_much_it_loses(pixels: Pixels) -> None:
    """ONNX Runtime would give it weights of eight bits with one scale when it loads the file."""
    network = tiny_student()
    program = build_program(network, tiny_preprocess())
    config = QuantizeConfig(calibrator="minmax", min_agreement=1.0, required_agreement=1.0)
    coarse = dataclasses.replace(EIGHT, activation=dataclasses.replace(EIGHT.activation, high=7))
    made = quantize(program, coarse, Photos(pixels=pixels), batch="dynamic", config=config)
    assert made.record["float"] == {}
    assert made.record["agreement"] < 1.0
