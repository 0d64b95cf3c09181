import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from support.export import tiny_preprocess, tiny_student
from torch import Tensor, nn

from edgeseed.core.agreement import relative_error
from edgeseed.core.bundle import read_bundle
from edgeseed.core.errors import UsageError, WorkError
from edgeseed.core.network import StudentNetwork
from edgeseed.export import export
from edgeseed.export.program import build_program, example_input, float_graph, trace
from edgeseed.export.proof.gates import FLOAT16_MOST, float16_limit
from edgeseed.export.proof.reference import reference_outputs, rounded_draws
from edgeseed.export.proof.verify import gather
from edgeseed.export.quantize.graph.layout import operator_of
from edgeseed.export.quantize.scales import ops
from edgeseed.export.targets.onnx import target as onnx_target
from edgeseed.export.targets.onnx.model import OnnxModel, optimised_graph
from edgeseed.export.targets.onnx.target import (
    TARGET,
    OnnxSettings,
    convert_program,
    keep_floats_float,
    scheme_of_this_machine,
)


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


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_bytes_are_clipped_and_never_compared(dtype: type) -> None:
    """ONNX Runtime has `Min` of bytes from 1.24 on only, and `Clip` of them from 1.3."""
    make, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = onnx.helper.make_graph(
        [make("Min", ["x", "top"], ["y"]), make("Min", ["f", "one"], ["g"])],
        "bytes",
        [
            onnx.helper.make_tensor_value_info("x", kind, [4]),
            onnx.helper.make_tensor_value_info("f", onnx.TensorProto.FLOAT, [4]),
        ],
        [
            onnx.helper.make_tensor_value_info("y", kind, [4]),
            onnx.helper.make_tensor_value_info("g", onnx.TensorProto.FLOAT, [4]),
        ],
        [array(np.array(100, dtype), "top"), array(np.array(1, np.float32), "one")],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
    )
    onnx_target.clip_bytes(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Clip", "Min"]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    values: npt.NDArray[np.generic] = np.array([-3, 5, 100, 120]).astype(dtype)
    found, _ = session.run(None, {"x": values, "f": values.astype(np.float32)})
    np.testing.assert_array_equal(found, np.minimum(values, 100))


@pytest.mark.parametrize("groups", [1, 4])
def test_a_float_layer_between_integers_keeps_its_weights(groups: int) -> None:
    """ONNX Runtime would give them eight bits with one scale: all but the last channel is lost."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(4, 4 // groups, 3, 3)).astype(np.float32)
    weight *= np.array([0.02, 0.05, 0.1, 10], np.float32).reshape(-1, 1, 1, 1)
    make, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    step = float(np.float32(0.02))
    number = {"s": np.float32(step), "z": np.uint8(128), "t": np.float32(step)}
    graph = onnx.helper.make_graph(
        [
            make("QuantizeLinear", ["image", "s", "z"], ["q"]),
            make("DequantizeLinear", ["q", "s", "z"], ["d"]),
            make("Conv", ["d", "w", "b"], ["c"], name="conv", group=groups),
            make("QuantizeLinear", ["c", "t", "z"], ["r"]),
            make("DequantizeLinear", ["r", "t", "z"], ["out"]),
            make("Relu", ["d"], ["other"]),
        ],
        "between",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1, 4, 9, 9])],
        [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list("nchw"))
            for name in ("out", "other")
        ],
        [array(weight, "w"), array(np.ones(4, np.float32), "b")]
        + [array(np.asarray(value), name) for name, value in number.items()],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
    )
    image = random.normal(size=(1, 4, 9, 9)).astype(np.float32)
    found = []
    keep_floats_float(model)
    onnx.checker.check_model(model, full_check=True)
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        found.append(session.run(["out", "other"], {"image": image}))
    for plain, optimised in zip(*found, strict=True):
        # A sum in another order may round the other way.
        assert np.abs(optimised - plain).max() < 1.5 * step


def test_a_layer_that_was_meant_to_be_int8_and_is_not_is_found(made_int8: Path) -> None:
    quantization = read_bundle(made_int8).manifest.quantization
    assert quantization is not None
    operators = {**quantization.integer_operators, "conv2d_99": "conv"}
    more = dataclasses.replace(quantization, integer_operators=operators)
    model = OnnxModel(made_int8 / "model.onnx", batch="batch", quantization=more)
    assert [str(finding) for finding in model.lint()] == [
        "conv: 18 were meant to be int8, ONNX Runtime has 17"
    ]


def test_half_precision_halves_the_weights_and_keeps_float32_at_the_border(
    made_fp16: Path,
) -> None:
    graph = onnx.load(made_fp16 / "model.onnx").graph
    kinds = {value.type.tensor_type.elem_type for value in [*graph.input, *graph.output]}
    assert kinds == {onnx.TensorProto.FLOAT}
    assert Counter(item.data_type for item in graph.initializer)[onnx.TensorProto.FLOAT] == 0
    (parity,) = [g for g in read_bundle(made_fp16).manifest.gates if g.name == "parity"]
    # What rounding costs is the student's, whose head is fitted on each machine anew.
    assert 1e-5 < parity.value < 1e-2
    assert 1e-2 <= parity.limit <= FLOAT16_MOST
    evidence = gather(read_bundle(made_fp16))
    subject = (evidence.network, evidence.spec.preprocess, evidence.proof.pixels)
    draws = rounded_draws(*subject, reference_outputs(*subject))
    assert parity.limit == float16_limit(draws, least=1e-2)


def test_bytes_are_unpacked_when_the_file_is_loaded_not_for_every_photo(
    made_w8: Path,
) -> None:
    """`DequantizeLinear` would stay in the graph and make the model three times as slow."""
    content = onnx.load(made_w8 / "model.onnx").graph
    runs = Counter(node.op_type for node in optimised_graph(made_w8 / "model.onnx").node)
    assert Counter(node.op_type for node in content.node)["Cast"] > 10
    assert runs["Cast"] == runs["DequantizeLinear"] == 0


def test_w8_is_judged_by_agreement_and_a_quarter_of_the_size(
    made_w8: Path, made_fp32: Path
) -> None:
    bundle = read_bundle(made_w8)
    assert {"top1_agreement", "embedding_cosine"} <= {gate.name for gate in bundle.manifest.gates}
    # Of a tiny network, whose graph weighs as much as its weights.
    assert bundle.model_size_bytes < 0.4 * read_bundle(made_fp32).model_size_bytes


@pytest.mark.parametrize("precision", ["fp16", "w8"])
def test_a_weight_that_stayed_float32_is_found(made_fp32: Path, precision: str) -> None:
    model = OnnxModel(made_fp32 / "model.onnx", batch="batch", precision=precision)
    findings = model.lint()
    assert findings
    assert f"float32 weights in a file that is to be {precision}" in str(findings[0])
    kept = OnnxModel(
        made_fp32 / "model.onnx", batch="batch", precision="fp16", float32=("Conv", "Gemm")
    )
    assert kept.lint() == ()


def test_only_the_engine_that_an_app_has_may_be_timed(made_int8: Path) -> None:
    manifest = read_bundle(made_int8).manifest
    assert manifest.quantization is not None
    own, other = ("x86", "arm") if scheme_of_this_machine() == "x86" else ("arm", "x86")
    for scheme, timed in ((own, True), (other, False)):
        quantization = dataclasses.replace(manifest.quantization, scheme=scheme)
        model = TARGET.open(made_int8, dataclasses.replace(manifest, quantization=quantization))
        assert (model.single_run() is not None) == timed


def test_an_opset_without_known_runtimes_is_refused(student: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="opset is '17'; known: 18, 19"):
        export(student, out=tmp_path / "bundle", options={"opset": 17})


def test_a_scheme_that_an_opset_lacks_is_refused_before_a_photo_is_read(
    student: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--precision int8: opset is 19, and ONNX quantizes"):
        export(
            student, precision="int8", scheme="qnn-w8a16", out=tmp_path / "bundle",
            calibration=tmp_path / "none", options={"opset": 19},
        )  # fmt: skip


@pytest.mark.parametrize(("asked", "written"), [(18, 21), (21, 21), (23, 23), (19, None)])
def test_uint16_takes_the_opset_that_has_it(asked: int, written: int | None) -> None:
    class Stored(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            stored: torch.Tensor = ops.quantize_per_tensor(image, 1.0, 0, 0, 65535, torch.uint16)
            return stored

    program = trace(Stored(), example_input(8, batch="dynamic"), batch="dynamic")
    settings = OnnxSettings(opset=asked, float32=())
    if written is None:
        with pytest.raises(UsageError, match="opset is 19, and ONNX quantizes to uint16 from 21"):
            settings.fitting(program)
    else:
        assert settings.fitting(program).opset == written


@pytest.mark.slow
def test_signed_integers_are_judged_as_an_arm_processor_runs_them(
    student: Path, photos: Path, tmp_path: Path
) -> None:
    """On x86, ONNX Runtime leaves int8 activations in float unless told; the lint then failed."""
    export(
        student, precision="int8", scheme="arm", calibration=photos, out=tmp_path / "bundle",
        quantization={"max_float_layers": 0, "calibrator": "minmax"},
        min_agreement=0.95,  # one of 32 photos is 3 points
    )  # fmt: skip
    graph = optimised_graph(tmp_path / "bundle/model.onnx", signed=True)
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QLinearConv"] == 17
    assert kinds["Conv"] == 0


def test_an_operator_that_onnx_lacks_is_named(network: StudentNetwork) -> None:
    class Strange(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            mean: torch.Tensor = torch.special.bessel_j0(image).mean(dim=(2, 3))
            return mean

    program = trace(Strange(), example_input(8, batch="dynamic"), batch="dynamic")
    with pytest.raises(WorkError, match=r"ONNX cannot express this network: .*bessel_j0"):
        convert_program(program, output_names=("embedding",), opset=18)


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
@pytest.mark.parametrize("scale", [None, pytest.param(0.3, marks=pytest.mark.slow)])
def test_attention_over_windows_is_written(mask: str, scale: float | None) -> None:
    """NesT: (photos, heads, windows, places, channels), which torch's exporter refuses."""
    torch.manual_seed(0)
    allowed = torch.rand(6, 6) > 0.3
    allowed.fill_diagonal_(True)
    masks = {"none": None, "bool": allowed, "float": torch.randn(6, 6)}

    class Windows(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            query, key, value = image.reshape(-1, 3, 2, 4, 6, 8).unbind(1)
            attended = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=masks[mask], scale=scale
            )
            return attended.flatten(1)

    image = torch.randn(2, 3, 16, 24)
    program = trace(Windows(), image, batch="dynamic")
    model = convert_program(program, output_names=("embedding",), opset=18)
    for photos in (image, torch.randn(3, 3, 16, 24)):
        (found,) = run(model, {"image": photos.numpy()})
        np.testing.assert_allclose(found, Windows()(photos).numpy(), rtol=1e-5, atol=1e-6)
    # The program's own batch is still free: computing the shapes of new nodes may fix it.
    *_, placeholder = program.graph.find_nodes(op="placeholder")
    assert placeholder.meta["val"].shape[0].node.expr.is_symbol


def test_the_short_road_through_the_exporter_gives_what_the_long_one_gives(
    network: StudentNetwork, monkeypatch: pytest.MonkeyPatch, pixels: npt.NDArray[np.uint8]
) -> None:
    program = build_program(network, tiny_preprocess())
    before = str(program.graph)
    short = convert_program(program, output_names=("embedding", "logits"), opset=18)
    assert str(program.graph) == before
    monkeypatch.setattr(onnx_target, "_decomposed", lambda program: program)
    long = convert_program(program, output_names=("embedding", "logits"), opset=18)
    assert [node.op_type for node in short.graph.node] == [n.op_type for n in long.graph.node]
    images = {"image": pixels[:4].astype(np.float32)}
    for one, other in zip(*(run(model, images) for model in (short, long)), strict=True):
        np.testing.assert_array_equal(one, other)


def run(model: onnx.ModelProto, images: dict[str, npt.NDArray[np.float32]]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return list(session.run(None, images))


def test_a_pooling_beside_batch_norms_that_stay_is_one_operator(
    pixels: npt.NDArray[np.uint8],
) -> None:
    # torch took the whole program apart for the batch norms, and the pooling became a view of
    # strides: a table of indexes, computed for every photo, and no pooling in integers.
    network = tiny_student("densenet121", trained=False, block_config=(1, 1), growth_rate=8)
    program = build_program(network, tiny_preprocess())
    model = convert_program(program, output_names=("embedding", "logits"), opset=18)
    kinds = {node.op_type for node in model.graph.node}
    assert {"BatchNormalization", "GlobalAveragePool"} <= kinds
    assert not {"Range", "Gather", "Shape"} & kinds
    truth = reference_outputs(network, tiny_preprocess(), pixels[:2])
    found = run(model, {"image": pixels[:2].astype(np.float32)})
    for value, wanted in zip(found, (truth["embedding"], truth["logits"]), strict=True):
        assert relative_error(value, wanted) < 1e-5


class MeanOfOtherAxes(nn.Module):
    """A mean over axes 2 and 3 of five dimensions, and over the last two of three."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 24
        self.layer = nn.Conv2d(3, 24, 3, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        values = torch.relu(self.layer(images))
        five: Tensor = values.unflatten(1, (6, 4)).transpose(2, 4).mean((2, 3), keepdim=True)
        three = values.flatten(2).mean((-2, -1), keepdim=True)
        return five.flatten(1) + three.flatten(1)


def test_a_mean_over_other_axes_than_height_and_width_is_no_global_pooling(
    pixels: npt.NDArray[np.uint8],
) -> None:
    torch.manual_seed(0)
    network = StudentNetwork(MeanOfOtherAxes(), num_classes=None).eval()
    program = build_program(network, tiny_preprocess())
    model = convert_program(program, output_names=("embedding",), opset=18)
    assert "GlobalAveragePool" not in {node.op_type for node in model.graph.node}
    (found,) = run(model, {"image": pixels[:2].astype(np.float32)})
    wanted = reference_outputs(network, tiny_preprocess(), pixels[:2])["embedding"]
    assert relative_error(found, wanted) < 1e-5
    graph = float_graph(program).graph
    means = [node for node in graph.nodes if node.target is torch.ops.aten.mean.dim]
    assert len(means) == 2
    assert [operator_of(node) for node in means] == [None, None]
