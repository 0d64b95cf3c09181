"""float16 as a property of the file: parity, borders, what stays in float32, and what cannot be."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from support.export import lively
from torch import Tensor, fx
from torch.export import ExportedProgram

from edgeseed.core.errors import UnknownNameError, WorkError
from edgeseed.core.network import StudentNetwork, build_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture
from edgeseed.export.program import build_program, output_names, trace
from edgeseed.export.samples import synthetic_photo
from edgeseed.export.targets.onnx.half import half_program, to_half
from edgeseed.export.targets.onnx.target import convert_program

Array = npt.NDArray[np.float32]


def run(model: ModelProto, values: npt.NDArray[np.generic]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, {session.get_inputs()[0].name: values}))


def types(model: ModelProto) -> Counter[int]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return Counter(value.type.tensor_type.elem_type for value in inferred.value_info)


def floats(model: ModelProto) -> set[str]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    return {
        value.name
        for value in [*inferred.value_info, *inferred.output]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT
    }


def graph(
    *nodes: onnx.NodeProto, opset: int = 19, **constants: npt.NDArray[np.generic]
) -> ModelProto:
    """(N, 4) `x` to (N, 4) `y`."""
    made = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def network(name: str, size: int) -> tuple[StudentNetwork, Preprocess, npt.NDArray[np.uint8]]:
    torch.manual_seed(0)
    preprocess = Preprocess(image_size=size, resize=size, interpolation="bicubic")
    pixels = np.stack([preprocess.pixels(synthetic_photo(size, seed=seed)) for seed in range(16)])
    made = build_student(
        Architecture(name=name, kwargs={"img_size": size} if "vit" in name else {}), num_classes=4
    )
    return lively(made, pixels), preprocess, pixels


class RoundsToHalf(fx.Interpreter):
    """Computes in float32 and rounds the result of every operator to float16."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        is_rounded = isinstance(value, Tensor) and value.is_floating_point()
        return value.half().float() if is_rounded and n.op != "output" else value


def run_in_half(program: ExportedProgram, images: Array) -> list[Array]:
    module = program.module(check_guards=False)
    assert isinstance(module, fx.GraphModule)
    with torch.no_grad():
        return [value.numpy() for value in RoundsToHalf(module).run(torch.from_numpy(images))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("test_efficientnet", 64),
        pytest.param("test_vit", 64, marks=pytest.mark.slow),
        pytest.param("test_convnext", 64, marks=pytest.mark.slow),
        pytest.param("test_resnet", 64, marks=pytest.mark.slow),
        pytest.param("mobilenetv3_large_100", 96, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 96, marks=pytest.mark.slow),
    ],
)
def test_networks_are_themselves_in_half(name: str, size: int) -> None:
    student, preprocess, pixels = network(name, size)
    program = build_program(student, preprocess)
    images = pixels.astype(np.float32)
    with torch.no_grad():
        expected = [
            value.numpy() for value in program.module(check_guards=False)(torch.from_numpy(images))
        ]
    half = half_program(program, shape=(3, size, size), batch="dynamic")
    float32 = convert_program(half, output_names=output_names(program), opset=19)
    float16 = to_half(float32)
    rounded = run_in_half(half, images)
    for found, truth, simulated in zip(run(float16, images), expected, rounded, strict=True):
        assert found.dtype == np.float32
        # A deep network of random weights makes more of rounding than one in a hundred. The file
        # may not make more of it than rounding every value does.
        rounding = np.abs(simulated - truth).max()
        assert np.abs(found - truth).max() <= max(1e-2 * np.abs(truth).max(), rounding)
    assert types(float16)[TensorProto.FLOAT] == 0
    assert float16.ByteSize() < 0.6 * float32.ByteSize()


class FirstLayer(torch.nn.Module):
    """A student's normalisation, and a convolution that adds up the channels."""

    mean: torch.Tensor
    factor: torch.Tensor
    kernel: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1))
        self.register_buffer("factor", 1 / torch.tensor([58.395, 57.12, 57.375]).view(1, 3, 1, 1))
        self.register_buffer("kernel", torch.ones(1, 3, 1, 1))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        scaled = (image - self.mean) * self.factor
        return (torch.nn.functional.conv2d(scaled, self.kernel),)


@pytest.mark.slow
def test_a_photo_of_low_contrast_is_normalised_as_exactly_as_any() -> None:
    """`(image - 123.675) * 0.0171` in float16 shifts every pixel alike."""
    program = trace(FirstLayer(), torch.zeros(1, 3, 2, 2), batch=1)
    grey = np.tile(np.array([124, 116, 104], np.float32).reshape(1, 3, 1, 1), (1, 1, 2, 2))
    with torch.no_grad():
        truth = program.module(check_guards=False)(torch.from_numpy(grey))[0].numpy()

    def error(used: torch.export.ExportedProgram) -> float:
        model = to_half(convert_program(used, output_names=("embedding",), opset=19))
        return float(np.abs(run(model, grey)[0] - truth).max() / np.abs(truth).max())

    assert error(program) > 5e-3
    assert error(half_program(program, shape=(3, 2, 2), batch=1)) < 1e-3


def test_the_given_model_is_not_changed() -> None:
    model = graph(helper.make_node("Add", ["x", "c"], ["y"]), c=np.ones(4, np.float32))
    before = model.SerializeToString()
    to_half(model)
    assert model.SerializeToString() == before


def test_what_is_kept_in_float32_is_named_by_operator_or_by_node() -> None:
    nodes = (
        helper.make_node("Exp", ["x"], ["e"], name="first"),
        helper.make_node("Log", ["e"], ["l"], name="second"),
        helper.make_node("Add", ["l", "e"], ["y"], name="third"),
    )
    for kept in (["Exp", "second"], ["first", "Log"]):
        model = to_half(graph(*nodes), keep_float32=kept)
        float32 = {node.name for node in model.graph.node if node.output[0] in floats(model)}
        assert float32 == {"first", "second", "y_cast"}
        casts = [node for node in model.graph.node if node.op_type == "Cast"]
        assert len(casts) == 3  # e and l for the sum, the sum for the output: each once
        small = np.full((1, 4), 2.0, np.float32)
        assert np.allclose(run(model, small)[0], 2 + np.exp(2), rtol=2e-3)


def test_a_name_to_keep_that_is_not_in_the_model_is_an_error() -> None:
    model = graph(helper.make_node("Softmax", ["x"], ["y"]))
    with pytest.raises(UnknownNameError, match="did you mean 'Softmax'"):
        to_half(model, keep_float32=["Softmaxx"])


def test_a_constant_beyond_float16_is_named() -> None:
    model = graph(
        helper.make_node("Mul", ["x", "big"], ["y"]), big=np.array([1, 7e4, 0, 0], np.float32)
    )
    with pytest.raises(WorkError, match=r"constant big holds 70000, beyond float16's 65504"):
        to_half(model)
    kept = to_half(model, keep_float32=["Mul"])
    assert run(kept, np.ones((1, 4), np.float32))[0].max() == 7e4


def test_no_limit_stays_no_limit() -> None:
    limit = np.float32(np.finfo(np.float32).max)
    model = graph(
        helper.make_node("Clip", ["x", "low", "high"], ["y"]),
        low=np.array(0, np.float32), high=np.array(limit),
    )  # fmt: skip
    values = np.array([[-1, 1, 6e4, 3]], np.float32)
    assert np.array_equal(run(to_half(model), values)[0], np.array([[0, 1, 6e4, 3]], np.float32))


def quantized(scale: float, *, opset: int = 19) -> ModelProto:
    return graph(
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bias"]),
        helper.make_node("Add", ["d", "bias"], ["y"]),
        opset=opset,
        s=np.array(scale, np.float32), z=np.array(0, np.int8),
        b=np.array([1, 2, 3, 100_000_000], np.int32),
        bs=np.array(1e-8, np.float32), bz=np.array(0, np.int32),
    )  # fmt: skip


def test_quantized_graphs_get_half_scales_and_biases_that_have_not_vanished() -> None:
    model = to_half(quantized(0.25))
    assert types(model)[TensorProto.FLOAT] == 0
    assert Counter(node.op_type for node in model.graph.node)["DequantizeLinear"] == 1
    found = run(model, np.array([[0.3, 0.1, -0.4, 1]], np.float32))[0]
    # 1e-8 is zero in float16; the bias that it scales is not.
    assert np.allclose(found, [[0.25, 0, -0.5, 2]], atol=1e-7)


def test_before_opset_19_quantization_stays_in_float32() -> None:
    model = to_half(quantized(0.25, opset=18))
    scales = {item.name: item.data_type for item in model.graph.initializer}
    assert scales["s"] == TensorProto.FLOAT
    assert np.allclose(
        run(model, np.array([[0.3, 0.1, -0.4, 1]], np.float32))[0], [[0.25, 0, -0.5, 2]]
    )


def test_a_scale_that_float16_rounds_to_zero_is_an_error() -> None:
    with pytest.raises(WorkError, match=r"scale s holds 1e-08, which float16 rounds to zero"):
        to_half(quantized(1e-8))


def test_sizes_that_an_operator_wants_in_float32_stay() -> None:
    model = graph(
        helper.make_node("Unsqueeze", ["x", "axes"], ["u"]),
        helper.make_node("Resize", ["u", "", "scales"], ["r"], mode="nearest"),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"], keepdims=0),
        helper.make_node("Identity", ["m"], ["y"]),
        axes=np.array([1], np.int64), scales=np.array([1, 2, 1], np.float32),
    )  # fmt: skip
    values = np.array([[1, 2, 3, 4]], np.float32)
    assert np.array_equal(run(to_half(model), values)[0], values)


def test_constants_inside_nodes_become_half_too() -> None:
    model = graph(
        helper.make_node("Constant", [], ["c"], value_floats=[1.0, 2.0, 3.0, 4.0]),
        helper.make_node("Cast", ["c"], ["i"], to=TensorProto.INT64),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["f", "x"], ["y"]),
    )
    half = to_half(model)
    assert types(half)[TensorProto.FLOAT] == 0
    assert np.array_equal(run(half, np.zeros((1, 4), np.float32))[0], [[1, 2, 3, 4]])


def test_flow_control_is_refused_by_name(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["t"])],
        "inner",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, ["n", 4])],
    )
    model = graph(
        helper.make_node(
            "If", ["flag"], ["y"], name="branch", then_branch=inner, else_branch=inner
        ),
        flag=np.array(True),
    )
    with pytest.raises(WorkError, match="branch has a graph inside"):
        to_half(model)
