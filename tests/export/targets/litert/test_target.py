"""Files that LiteRT itself computes, of networks that use every part of the lowering."""

import dataclasses
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.export import CLASSES, SIZE, lively, tinted_photo, tiny_preprocess, tiny_student
from torch import Tensor, fx, nn

from edgeseed.core.agreement import relative_error
from edgeseed.core.bundle import read_bundle, seal_bundle
from edgeseed.core.errors import ArtifactError, MissingDependencyError, UsageError, WorkError
from edgeseed.core.network import StudentNetwork, build_student
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.export import export, verify
from edgeseed.export.program import build_program, output_names, trace
from edgeseed.export.proof.reference import reference_outputs
from edgeseed.export.proof.rounding import simulate_integers
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos
from edgeseed.export.target import Precision, WriteRequest
from edgeseed.export.targets import TARGETS
from edgeseed.export.targets.litert.flatbuffer import File
from edgeseed.export.targets.litert.integers import multipliable
from edgeseed.export.targets.litert.lowering import ConvGeometry, Lowering, factor_of
from edgeseed.export.targets.litert.model import LiteRTModel

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install edgeseed[litert]")


def spec_of(network: StudentNetwork, name: str) -> StudentSpec:
    return StudentSpec(
        architecture=Architecture(name=name),
        preprocess=tiny_preprocess(),
        embedding_dim=network.embedding_dim,
        classes=CLASSES,
    )


def quantized(network: StudentNetwork, pixels: Any) -> Any:
    config = QuantizeConfig(calibrator="minmax", max_float_layers=0, bias_correction=False)
    program = build_program(network, tiny_preprocess())
    scheme = SCHEMES.load("litert")
    return quantize(program, scheme, Photos(pixels=pixels), batch=1, config=config).program


def write_program(program: Any, spec: StudentSpec, folder: Path, precision: Precision) -> Path:
    folder.mkdir(exist_ok=True)
    request = WriteRequest(
        program=program, output_names=output_names(program), spec=spec, precision=precision,
        batch=1, options={},
    )  # fmt: skip
    return Path(folder / TARGETS.load("litert").write(request, folder).model)


def write(network: StudentNetwork, folder: Path, *, name: str = "test_efficientnet") -> Path:
    """A float file."""
    program = build_program(network, tiny_preprocess(), batch=1)
    return write_program(program, spec_of(network, name), folder, "fp32")


def kinds(path: Path) -> Counter[str]:
    return Counter(each.kind for each in File(path.read_bytes()).operators)


NETWORKS = [
    "test_efficientnet", "test_resnet", "test_vit", "test_convnext", "test_mambaout",
    "test_nfnet", "test_byobnet", "test_efficientnet_evos", "test_efficientnet_ln",
]  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_float_file_computes_what_the_student_does(
    name: str, tmp_path: Path, pixels: Any
) -> None:
    kwargs: dict[str, Any] = {"img_size": SIZE} if "vit" in name else {}
    network = tiny_student(name, trained=False, **kwargs)
    path = write(network, tmp_path, name=name)
    found = LiteRTModel(path, precision="fp32", quantization=None).infer(pixels[:4])
    wanted = reference_outputs(network, tiny_preprocess(), pixels[:4])
    for output, values in wanted.items():
        assert relative_error(found[output], values) < 1e-4, output


def test_a_convolutional_network_moves_no_tensor(network: StudentNetwork, tmp_path: Path) -> None:
    assert not kinds(write(network, tmp_path))["TRANSPOSE"]


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "same"),
    [
        (32, 3, 1, 1, True),
        # TensorFlow pads the far side alone here, PyTorch the near one.
        (32, 3, 2, 1, False),
        (33, 3, 2, 1, True),
        (32, 5, 2, 2, False),
        (32, 1, 1, 0, True),
    ],
)
def test_same_padding_is_used_where_it_is_the_same(
    size: int, kernel: int, stride: int, padding: int, same: bool
) -> None:
    geometry = ConvGeometry(
        kernel=(kernel, kernel), stride=(stride, stride), padding=(padding, padding)
    )
    result = (size + 2 * padding - kernel) // stride + 1
    assert geometry.is_same((size, size), (result, result)) is same


class _Strange(nn.Module):
    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (torch.ops.aten.special_entr.default(image.mean((2, 3))),)


def test_an_operator_that_litert_lacks_is_named() -> None:
    program = trace(_Strange(), torch.zeros(1, 3, 8, 8), batch=1)
    graph: Any = program.module(check_guards=False)
    with pytest.raises(WorkError, match=r"LiteRT cannot express .*aten\.special_entr\.default"):
        Lowering(graph).run(["embedding"])


@pytest.fixture(scope="module")
def swish() -> StudentNetwork:
    return tiny_student("mobilenetv3_small_050", trained=False)


@pytest.fixture(scope="module")
def swish_program(swish: StudentNetwork) -> Any:
    shown = [tiny_preprocess().pixels(tinted_photo(kind, 7)) for kind in CLASSES for _ in "ab"]
    return quantized(swish, np.stack(shown))


@pytest.fixture(scope="module")
def swish_file(swish: StudentNetwork, swish_program: Any, workplace: Path) -> Path:
    folder = workplace / "litert-swish"
    return write_program(swish_program, spec_of(swish, "mobilenetv3_small_050"), folder, "int8")


def test_hard_swish_is_a_sum_and_a_product_of_bytes(swish_file: Path) -> None:
    file = File(swish_file.read_bytes())
    # One is left, behind the layer that makes the embedding, which is float.
    assert kinds(swish_file)["HARD_SWISH"] == 1
    assert all(
        file.dtype(each.outputs[0]) == "int8"
        for each in file.operators
        if each.kind in ("CONV_2D", "DEPTHWISE_CONV_2D")
    )


def test_a_factor_stands_in_the_name_and_in_the_scale(swish_file: Path) -> None:
    file = File(swish_file.read_bytes())
    factors = {factor_of(file.name(at)) for at in file.activations()}
    assert 1.0 in factors
    assert any(abs(each - 6) < 1e-3 for each in factors)


def test_int8_computes_what_was_simulated(
    swish_program: Any, swish_file: Path, pixels: Any
) -> None:
    found = LiteRTModel(swish_file, precision="int8", quantization=None).infer(pixels[:8])
    wanted = simulate_integers(swish_program, pixels[:8], batch=1).outputs
    for output, values in wanted.items():
        norms = np.linalg.norm(found[output]) * np.linalg.norm(values)
        assert np.sum(found[output] * values) / norms > 0.99, output


def test_stored_scales_without_their_factors_are_the_programs(
    swish_program: Any, swish_file: Path
) -> None:
    # A padded tensor lost the factor from its name, and seemed to have a wrong scale.
    known = [
        float(node.args[1])
        for node in swish_program.graph.nodes
        if node.target is torch.ops.quantized_decomposed.quantize_per_tensor.default
    ]
    file = File(swish_file.read_bytes())
    for at in file.activations():
        scales = file.scales(at)
        assert scales is not None
        scale = float(scales.scale[0]) / factor_of(file.name(at))
        assert min(abs(scale / each - 1) for each in known) < 1e-5, file.name(at)


def test_the_activation_behind_a_layer_that_gives_float_is_computed(
    tmp_path: Path, pixels: Any
) -> None:
    # It was counted as part of the layer, which did not compute it.
    torch.manual_seed(0)
    variant = {"activation": "relu6", "drop_se": True}
    architecture = Architecture(name="mobilenetv3_small_050", variant=variant)
    network = lively(build_student(architecture, num_classes=len(CLASSES)), pixels)
    program = quantized(network, pixels[:8])
    path = write_program(program, spec_of(network, architecture.name), tmp_path, "int8")
    found = LiteRTModel(path, precision="int8", quantization=None).infer(pixels[:4])["embedding"]
    assert found.min() >= 0
    assert found.max() <= 6


def test_a_layer_of_zeros_runs(tmp_path: Path, pixels: Any) -> None:
    # Its sums were 26,068 steps of its result each: LiteRT refused the file, or ended the process.
    network = tiny_student("test_efficientnet")
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
    with torch.no_grad():
        norms[3].weight.zero_()
        norms[3].bias.zero_()
    program = quantized(network, pixels[:8])
    path = write_program(program, spec_of(network, "test_efficientnet"), tmp_path, "int8")
    found = LiteRTModel(path, precision="int8", quantization=None).infer(pixels[:4])
    wanted = simulate_integers(program, pixels[:4], batch=1).outputs
    for output, values in wanted.items():
        assert relative_error(found[output], values) < 0.05, output


def test_a_layer_whose_sums_are_far_coarser_than_its_result_is_named() -> None:
    node = fx.Graph().placeholder("conv2d_4")
    weights, bias = np.ones((2, 1, 1, 1), np.int8), np.zeros(2, np.int32)
    weights[1] = 0
    assert list(multipliable(node, np.array([255.0, 9e9]), weights, bias)) == [255.0, 1.0]
    with pytest.raises(WorkError, match=r"conv2d_4: .*--keep-float conv2d_4"):
        multipliable(node, np.array([256.0, 1.0]), weights, bias)
    with pytest.raises(WorkError, match="conv2d_4"):
        multipliable(node, np.array([1.0, 256.0]), weights, bias + 1)


def test_a_layer_is_shown_before_its_activation(
    network: StudentNetwork, tmp_path: Path, pixels: Any
) -> None:
    from edgeseed.export.proof.reference import comparable_graph, layer_names, layer_outputs

    graph = comparable_graph(network, tiny_preprocess(), None)
    names = layer_names(graph)
    model = LiteRTModel(write(network, tmp_path), precision="fp32", quantization=None)
    found, wanted = model.layers(pixels[:2], names), layer_outputs(graph, pixels[:2], names)
    assert len(found) >= len(names) - 1  # the last one has the output's name
    for name, values in found.items():
        assert relative_error(values, wanted[name]) < 1e-4, name


@pytest.fixture(scope="module")
def made(workplace: Path, student: Path, photos: Path) -> Path:
    out = workplace / "litert-fp32"
    export(student, target="litert", precision="fp32", calibration=photos, out=out, speed=False)
    return out


INPUTS = [
    (kind, precision) for kind in ("uint8", "float32") for precision in ("fp32", "fp16", "int8")
]


@pytest.fixture(scope="module", params=INPUTS, ids=["-".join(each) for each in INPUTS])
def of_an_input(
    request: pytest.FixtureRequest, workplace: Path, student: Path, photos: Path
) -> Path:
    """A bundle of each type of input."""
    kind, precision = request.param
    out = workplace / f"litert-{kind}-{precision}"
    integers = {"max_float_layers": 0, "calibrator": "minmax"} if precision == "int8" else {}
    export(
        student, target="litert", precision=precision, calibration=photos, out=out, speed=False,
        options={"input": kind}, quantization=integers,
        min_agreement=0.9 if precision == "int8" else None,
    )  # fmt: skip
    assert verify(out).passed
    return out


def test_ten_lines_that_follow_the_manifest_give_verifys_answers(of_an_input: Path) -> None:
    made = of_an_input
    import json

    from ai_edge_litert.interpreter import Interpreter

    manifest = json.loads((made / "manifest.json").read_text())
    (image,) = manifest["inputs"]
    runner = Interpreter(str(made / manifest["model"])).get_signature_runner()
    photos = np.load(made / "golden/inputs.npy")
    golden = np.load(made / "golden/model.npz")
    for number, photo in enumerate(photos):
        shown = photo.transpose(1, 2, 0)[None].astype(image["dtype"])
        assert list(shown.shape) == image["shape"]
        answer = runner(image=shown)
        for name, values in golden.items():
            np.testing.assert_allclose(answer[name][0], values[number], rtol=1e-5, atol=1e-5)


def test_constants_begin_where_kernels_want_them(made: Path) -> None:
    content = (made / "model.tflite").read_bytes()
    file = File(content)
    large = [each for each in file.model.buffers if each.data is not None and len(each.data) > 256]
    assert large
    for buffer in large:
        assert content.find(buffer.data.tobytes()) % 16 == 0


def test_without_its_package_the_command_that_installs_it_is_said(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    with pytest.raises(MissingDependencyError, match=r"edgeseed\[litert\]"):
        verify(made)


def test_a_batch_of_several_photos_is_refused(student: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="takes photos 1 at a time"):
        export(student, target="litert", precision="fp32", batch=4, out=tmp_path / "out")


def test_a_cut_off_file_is_refused(made: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(made, tmp_path / "bundle"))
    content = (bundle / "model.tflite").read_bytes()
    (bundle / "model.tflite").write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match=r"not a (whole )?LiteRT model|is not a model"):
        LiteRTModel(bundle / "model.tflite", precision="fp32", quantization=None)


def test_the_manifest_says_how_the_photo_is_given(made: Path) -> None:
    (image,) = read_bundle(made).manifest.inputs
    assert (image.shape, image.dtype) == ((1, SIZE, SIZE, 3), "uint8")


def test_a_float_input_is_said_everywhere_and_measured_by_the_engine(
    of_an_input: Path,
) -> None:
    from edgeseed.runtime.engines.litert import ENGINE

    manifest = read_bundle(of_an_input).manifest
    kind = manifest.provenance.export.options["input"]
    (image,) = manifest.inputs
    assert (image.dtype, image.semantics) == (kind, "RGB pixels 0..255")
    path = of_an_input / manifest.model
    words = {"uint8": "RGB bytes (height", "float32": "RGB pixels 0..255 as floats (height"}
    assert File(path.read_bytes()).metadata()["edgeseed.input"].startswith(words[kind])
    assert f"{kind}, values 0 to 255" in (of_an_input / "MODEL_CARD.md").read_text()
    engine = ENGINE.open(path, unit="xnnpack", threads=1)
    assert engine.inputs[0].dtype == kind
    engine.close()


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_the_other_type_of_input_in_the_manifest_is_caught(
    kind: str, workplace: Path, tmp_path: Path, student: Path
) -> None:
    bundle = tmp_path / "bundle"
    export(student, target="litert", out=bundle, options={"input": kind})
    manifest = read_bundle(bundle).manifest
    other = {"uint8": "float32", "float32": "uint8"}[kind]
    (image,) = manifest.inputs
    seal_bundle(
        bundle, dataclasses.replace(manifest, inputs=(dataclasses.replace(image, dtype=other),))
    )
    with pytest.raises(ArtifactError, match="the manifest says"):
        verify(bundle)


def test_an_input_of_an_unknown_type_is_refused_before_a_photo_is_read(
    student: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="input is 'int16'; known: uint8"):
        export(
            student, target="litert", out=tmp_path / "out", options={"input": "int16"},
            calibration=tmp_path / "none",
        )  # fmt: skip
