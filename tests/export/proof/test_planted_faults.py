"""Mistakes that have ruined deployed models, made on purpose, the digests put right again."""

import copy
import dataclasses
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
import torch
from support.export import CLASSES, tiny_preprocess

from edgeseed.core.agreement import relative_error
from edgeseed.core.bundle import Manifest, read_bundle, seal_bundle
from edgeseed.core.errors import ArtifactError, GateError, WorkError
from edgeseed.core.network import StudentNetwork, load_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.reading import read_record
from edgeseed.core.records import QuantizationRecord
from edgeseed.export import verify
from edgeseed.export.call import Batch
from edgeseed.export.program import (
    DeployableStudent,
    build_program,
    example_input,
    output_names,
    trace,
)
from edgeseed.export.proof.diagnosis import likely_cause
from edgeseed.export.proof.golden import golden_inputs, read_golden
from edgeseed.export.proof.reference import (
    Outputs,
    comparable_graph,
    layer_names,
    layer_outputs,
)
from edgeseed.export.proof.verify import read_proof
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos
from edgeseed.export.target import Finding, Model, Precision, WriteRequest
from edgeseed.export.targets import TARGETS
from edgeseed.export.targets.onnx.target import convert_program

Constants = dict[str, np.ndarray]


def reseal(
    bundle: Path, change: Callable[[Manifest], Manifest] = lambda manifest: manifest
) -> None:
    """Digests that fit again, as if the exporter itself had made the mistake."""
    seal_bundle(bundle, change(read_bundle(bundle, check=False).manifest))


def edit_model(bundle: Path, edit: Callable[[onnx.GraphProto, Constants], None]) -> None:
    model = onnx.load(bundle / "model.onnx")
    constants = {
        item.name: onnx.numpy_helper.to_array(item).copy() for item in model.graph.initializer
    }
    edit(model.graph, constants)
    del model.graph.initializer[:]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)


def replace_model(
    bundle: Path, change: Callable[[torch.nn.Module], None], preprocess: Preprocess | None = None
) -> None:
    """Exports the student again, with a mistake."""
    network, spec = load_student(bundle / "reference/student.safetensors")
    change(network)
    program = build_program(network, preprocess or spec.preprocess)
    model = convert_program(program, output_names=("embedding", "logits"), opset=18)
    (bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(bundle)


def nothing(network: torch.nn.Module) -> None:
    pass


def named(constants: Constants, *parts: str) -> str:
    return next(name for name in constants if all(part in name for part in parts))


def swap_channels(graph: onnx.GraphProto, constants: Constants) -> None:
    for name in (named(constants, "offset"), named(constants, "factor")):
        constants[name] = constants[name][:, ::-1].copy()
    stem = next(node for node in graph.node if node.op_type == "Conv").input[1]
    constants[stem] = constants[stem][:, ::-1].copy()


def drop_bias(graph: onnx.GraphProto, constants: Constants) -> None:
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    constants[convolutions[3].input[2]][:] = 0


def double_a_weight(graph: onnx.GraphProto, constants: Constants) -> None:
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    constants[convolutions[3].input[1]] *= 2
    constants[convolutions[3].input[2]] *= 2


def shuffle_head(graph: onnx.GraphProto, constants: Constants) -> None:
    head = next(node for node in graph.node if node.op_type == "Gemm")
    order = [1, 2, 3, 0]
    for name in head.input[1:]:
        constants[name] = constants[name][order]


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (swap_channels, "BGR in place of RGB"),
        (drop_bias, "conv2d_3: each channel is off by a constant, so a bias was dropped"),
        (double_a_weight, "conv2d_3: it is 2 times too large, so a scale is wrong"),
        (shuffle_head, "the head or the labels were shuffled"),
    ],
)
def test_a_fault_in_the_float_model_is_caught_and_named(
    fp32_bundle: Path, edit: Callable[[onnx.GraphProto, Constants], None], cause: str
) -> None:
    edit_model(fp32_bundle, edit)
    with pytest.raises(GateError, match="parity") as caught:
        verify(fp32_bundle)
    assert cause in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        # Each traces and converts the student anew; these two change the same constants.
        pytest.param(
            {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, "mean and std are 0.5",
            marks=pytest.mark.slow,
        ),
        ({"mean": (0.0, 0.0, 0.0)}, "mean is not subtracted"),
        pytest.param({"std": (1.0, 1.0, 1.0)}, "std is not divided by", marks=pytest.mark.slow),
        pytest.param(
            {"mean": (0.406, 0.456, 0.485), "std": (0.225, 0.224, 0.229)}, "in the order BGR",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"mean": (0.001902, 0.001788, 0.001592), "std": (0.000898, 0.000878, 0.000882)},
            "no division by 255", marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_wrong_normalisation_is_caught_and_named(
    fp32_bundle: Path, changes: dict[str, Any], cause: str
) -> None:
    own = read_bundle(fp32_bundle).manifest.preprocess
    replace_model(fp32_bundle, nothing, dataclasses.replace(own, **changes))
    with pytest.raises(GateError, match="parity") as caught:
        verify(fp32_bundle)
    assert cause in str(caught.value)


def forget_statistics(network: torch.nn.Module) -> None:
    """Without running statistics a batch norm uses the batch's, also in eval mode."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = module.running_var = None


@pytest.mark.slow
def test_batch_norm_in_training_mode_is_refused_by_the_export(network: StudentNetwork) -> None:
    network = copy.deepcopy(network)
    forget_statistics(network)
    with pytest.raises(WorkError, match=r"training mode.*call .eval"):
        build_program(network, Preprocess(image_size=32, resize=32))


@pytest.mark.slow
def test_batch_norm_in_training_mode_is_caught_and_named(fp32_bundle: Path) -> None:
    student, spec = load_student(fp32_bundle / "reference/student.safetensors")
    forget_statistics(student)
    example = example_input(spec.preprocess.image_size, batch="dynamic")
    program = trace(DeployableStudent(student, spec.preprocess), example, batch="dynamic")
    model = convert_program(program, output_names=("embedding", "logits"), opset=18)
    (fp32_bundle / "model.onnx").write_bytes(model.SerializeToString())
    reseal(fp32_bundle)
    with pytest.raises(GateError, match="parity") as caught:
        verify(fp32_bundle)
    assert "training mode" in str(caught.value)


def test_a_doubled_scale_in_an_int8_model_is_caught_and_named(int8_bundle: Path) -> None:
    def edit(graph: onnx.GraphProto, constants: Constants) -> None:
        readers = {node.output[0]: node for node in graph.node}
        convolution = [node for node in graph.node if node.op_type == "Conv"][3]
        for name in convolution.input[1:]:
            scale = readers[name].input[1]
            constants[scale] = constants[scale] * np.float32(2)

    edit_model(int8_bundle, edit)
    with pytest.raises(GateError) as caught:
        verify(int8_bundle)
    message = str(caught.value)
    assert re.search(r"conv2d_3: it is (1.9\d*|2|2.0\d*) times too large, so a scale", message), (
        message
    )


def other_weights(index: int) -> Callable[[StudentNetwork], None]:
    def change(network: StudentNetwork) -> None:
        layers = [
            part
            for part in network.modules()
            if isinstance(part, torch.nn.Conv2d | torch.nn.Linear)
        ]
        generator = torch.Generator().manual_seed(0)
        weight = layers[index].weight
        with torch.no_grad():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * weight.std())

    return change


@pytest.mark.slow
@pytest.mark.parametrize(
    ("index", "name"), [(3, "conv2d_3"), pytest.param(-1, "linear", marks=pytest.mark.slow)]
)
def test_other_weights_in_an_int8_model_are_caught_and_named(
    int8_bundle: Path, index: int, name: str
) -> None:
    remake(int8_bundle, other_weights(index))
    with pytest.raises(GateError, match=f"{name}: its weights are not the student's"):
        verify(int8_bundle)


class _NoisyModel(Model):
    """The student with noise on the output of its last convolution, as rounding would leave it."""

    runner = "a test"

    def __init__(self, graph: torch.fx.GraphModule, share: float) -> None:
        self.graph = graph
        self.share = share

    def infer(self, pixels: Any) -> Outputs:
        values = self.layers(pixels, ("flatten", "linear"))
        return {"embedding": values["flatten"], "logits": values["linear"]}

    def layers(self, pixels: Any, names: Sequence[str]) -> Outputs:
        last = [name for name in layer_names(self.graph) if name.startswith("conv")][-1]
        values: Outputs = {}

        class Run(torch.fx.Interpreter):
            def run_node(inner, n: torch.fx.Node) -> Any:  # noqa: N805  # self is the model
                value = super().run_node(n)
                if n.name == last:
                    generator = torch.Generator().manual_seed(0)
                    noise = torch.randn(value.shape, generator=generator)
                    value = value + self.share * value.std() * noise
                if n.name in names:
                    values[n.name] = value.numpy()
                return value

        with torch.inference_mode():
            Run(self.graph).run(torch.from_numpy(np.asarray(pixels)).float())
        return values

    def lint(self) -> tuple[Finding, ...]:
        return ()


@pytest.mark.slow
def test_noise_that_a_head_enlarges_is_called_no_mistake(
    network: StudentNetwork, pixels: Any
) -> None:
    # An int8 model of a fresh linear probe was said to have other weights in its last layer: its
    # classes differ along directions in which embeddings hardly do, and rounding does.
    network, preprocess = copy.deepcopy(network), tiny_preprocess()
    assert network.head is not None
    with torch.no_grad():
        embedding = network(torch.from_numpy(preprocess.normalize(pixels))).embedding
        _, _, directions = torch.linalg.svd(embedding - embedding.mean(0))
        network.head.weight.copy_(100 * directions[39 - len(CLASSES) : 39])
        network.head.bias.copy_(-embedding.mean(0) @ network.head.weight.T)
    graph = comparable_graph(network, preprocess, None)
    model = _NoisyModel(graph, share=0.02)
    names = ("conv2d_16", "linear")
    truth, found = layer_outputs(graph, pixels[:8], names), model.layers(pixels[:8], names)
    errors = [relative_error(found[name], truth[name]) for name in names]
    assert errors[1] > 5 * errors[0], errors
    assert likely_cause(model, network, preprocess, pixels, tolerance=0.02) == ""


def test_scales_of_another_calibration_than_the_manifests_are_caught(int8_bundle: Path) -> None:
    """Ranges from dark photos: every stored tensor saturates on bright ones."""

    def edit(graph: onnx.GraphProto, constants: Constants) -> None:
        names = {node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"}
        for name in names:
            if constants[name] < 0.9:
                constants[name] = constants[name] * np.float32(0.15)

    edit_model(int8_bundle, edit)
    with pytest.raises(GateError, match=r"top1_agreement|embedding_cosine") as caught:
        verify(int8_bundle)
    message = str(caught.value)
    assert re.search(r"stale calibration: \d+ of \d+ scales are not the manifest's", message), (
        message
    )
    assert "calibration photos" in message


def test_one_scale_that_is_off_by_two_is_named_with_the_right_one(int8_bundle: Path) -> None:
    def edit(graph: onnx.GraphProto, constants: Constants) -> None:
        names = [node.input[1] for node in graph.node if node.op_type == "QuantizeLinear"]
        constants[names[4]] = constants[names[4]] * np.float32(2)

    edit_model(int8_bundle, edit)
    with pytest.raises(GateError, match=r"a scale is wrong: \S+ where the manifest records"):
        verify(int8_bundle)


def remake(
    bundle: Path,
    change: Callable[[StudentNetwork], None] = lambda network: None,
    *,
    changes: Mapping[str, Any] | None = None,
    contrast: float = 1.0,
) -> None:
    """Exports the student again as the bundle's target and precision ask, with a mistake.

    Args:
        bundle: The bundle.
        change: The mistake in the network.
        changes: The mistake in the preprocessing.
        contrast: Of the photos that calibrate.
    """
    manifest = read_bundle(bundle, check=False).manifest
    network, spec = load_student(bundle / "reference/student.safetensors")
    change(network)
    target = TARGETS.load(manifest.target)
    batch: Batch = target.fixed_batch or "dynamic"
    preprocess = dataclasses.replace(spec.preprocess, **(changes or {}))
    program = build_program(
        network, preprocess, batch="dynamic" if manifest.quantization else batch
    )
    names, record = output_names(program), None
    if manifest.quantization is not None:
        photos = (124 + contrast * (read_proof(bundle).pixels - 124.0)).astype(np.uint8)
        result = quantize(
            program,
            SCHEMES.load(manifest.quantization.scheme),
            Photos(pixels=photos),
            batch=batch,
            config=QuantizeConfig(calibrator="minmax", max_float_layers=0),
        )
        program, record = result.program, read_record(QuantizationRecord, result.record, what="it")
    request = WriteRequest(
        program=program,
        output_names=names,
        spec=spec,
        precision=cast(Precision, manifest.precision),
        batch=batch,
        options=manifest.provenance.export.options,
    )
    model = bundle / manifest.model
    shutil.rmtree(model) if model.is_dir() else model.unlink()
    target.write(request, bundle)
    reseal(bundle, lambda manifest: dataclasses.replace(manifest, quantization=record))


def norm_of(network: StudentNetwork, index: int) -> Any:
    """The batch norm behind a convolution."""
    return [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)][index]


@torch.no_grad()
def read_bgr(network: StudentNetwork) -> None:
    stem: Any = next(part for part in network.modules() if isinstance(part, torch.nn.Conv2d))
    stem.weight.copy_(stem.weight.flip(1))


@torch.no_grad()
def double_a_layer(network: StudentNetwork) -> None:
    norm = norm_of(network, 3)
    norm.weight *= 2
    norm.bias *= 2


@torch.no_grad()
def forget_a_bias(network: StudentNetwork) -> None:
    """The bias that is left when the batch norm is folded becomes zero."""
    norm = norm_of(network, 3)
    norm.bias.copy_(norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt())


@torch.no_grad()
def shuffle_classes(network: StudentNetwork) -> None:
    assert network.head is not None
    for tensor in (network.head.weight, network.head.bias):
        tensor.copy_(tensor.roll(1, 0))


SLOW = pytest.mark.slow
_BGR = {"mean": (0.406, 0.456, 0.485), "std": (0.225, 0.224, 0.229)}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "wrong mean": ({"changes": {"mean": (0.0, 0.0, 0.0)}}, "mean is not subtracted"),
    "BGR": ({"change": read_bgr, "changes": _BGR}, "BGR in place of RGB"),
    "a scale off by 2": (
        {"change": double_a_layer},
        r"conv2d_3: it is (1\.9\d*|2|2\.0\d*) times too large, so a scale is wrong",
    ),
    "a dropped bias": ({"change": forget_a_bias}, "conv2d_3: .* so a bias was dropped or changed"),
    "labels shuffled": ({"change": shuffle_classes}, "the head or the labels were shuffled"),
}
STALE: tuple[dict[str, Any], str] = ({"contrast": 0.05}, "stale calibration: .* other photos")


@pytest.mark.parametrize(
    ("mistake", "cause"),
    [
        # Each exports another int8 model. In the quick suite are other weights and edited scales,
        # above, and each of these faults in a float model, or in integers of LiteRT.
        *(pytest.param(*fault, id=name, marks=SLOW) for name, fault in FAULTS.items()),
        pytest.param(*STALE, id="stale", marks=SLOW),
    ],
)
def test_a_fault_in_an_int8_onnx_model_is_caught_and_named(
    int8_bundle: Path, mistake: dict[str, Any], cause: str
) -> None:
    remake(int8_bundle, **mistake)
    with pytest.raises(GateError, match=cause):
        verify(int8_bundle)


@pytest.mark.parametrize(
    ("mistake", "cause"),
    [
        # The diagnosis is the one that ONNX gets. In the quick suite are wrong integers, in
        # test_integer_faults.py, and these faults in float16, in targets/coreml/test_model.py.
        *(pytest.param(*fault, id=name, marks=SLOW) for name, fault in FAULTS.items()),
        pytest.param(*STALE, id="stale", marks=SLOW),
    ],
)
def test_a_fault_in_an_int8_core_ml_model_is_caught_and_named(
    made_int8_coreml: Path, tmp_path: Path, mistake: dict[str, Any], cause: str
) -> None:
    bundle = Path(shutil.copytree(made_int8_coreml, tmp_path / "coreml"))
    remake(bundle, **mistake)
    with pytest.raises(GateError, match=cause):
        verify(bundle)


def test_a_truncated_core_ml_weight_file_is_caught(made_int8_coreml: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(made_int8_coreml, tmp_path / "coreml"))
    weights = bundle / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match=r"weight\.bin was changed"):
        verify(bundle)
    reseal(bundle)
    with pytest.raises(ArtifactError, match=r"weight\.bin.*(cut off|truncated|ends)"):
        verify(bundle)


def test_a_core_ml_package_with_a_part_missing_is_caught(
    made_int8_coreml: Path, tmp_path: Path
) -> None:
    for number, part in enumerate(
        ("Manifest.json", "Data/com.apple.CoreML/model.mlmodel",
         "Data/com.apple.CoreML/weights/weight.bin")
    ):  # fmt: skip
        bundle = Path(shutil.copytree(made_int8_coreml, tmp_path / str(number)))
        (bundle / "model.mlpackage" / part).unlink()
        with pytest.raises(ArtifactError, match="is missing; copy the bundle again"):
            verify(bundle)
        reseal(bundle)
        with pytest.raises(ArtifactError, match=Path(part).name):
            verify(bundle)


def test_another_resize_mode_in_the_golden_inputs_is_caught(fp32_bundle: Path) -> None:
    own = read_bundle(fp32_bundle).manifest.preprocess
    golden = read_golden(fp32_bundle)
    other = golden_inputs(golden.photos, dataclasses.replace(own, interpolation="nearest"))
    np.save(fp32_bundle / "golden/inputs.npy", other)
    reseal(fp32_bundle)
    with pytest.raises(GateError, match=r"golden.*resize mode"):
        verify(fp32_bundle)


def test_another_resize_mode_in_the_manifest_is_caught(fp32_bundle: Path) -> None:
    def change(manifest: Manifest) -> Manifest:
        other = dataclasses.replace(manifest.preprocess, interpolation="bilinear")
        return dataclasses.replace(manifest, preprocess=other)

    reseal(fp32_bundle, change)
    with pytest.raises(
        GateError, match=r"preprocess.interpolation is bilinear in the manifest, bicubic"
    ):
        verify(fp32_bundle)


def test_shuffled_labels_are_caught(fp32_bundle: Path) -> None:
    (fp32_bundle / "labels.txt").write_text("green\nblue\nplain\nred\n")
    reseal(fp32_bundle)
    with pytest.raises(GateError, match=r"labels.txt is not the student's"):
        verify(fp32_bundle)


@pytest.mark.parametrize("limit", [0.5, 0.96])
def test_an_edited_gate_is_caught(int8_bundle: Path, limit: float) -> None:
    def change(manifest: Manifest) -> Manifest:
        better = tuple(dataclasses.replace(gate, limit=limit) for gate in manifest.gates)
        return dataclasses.replace(manifest, gates=better)

    reseal(int8_bundle, change)
    with pytest.raises(GateError, match=rf"recorded.*limit {limit} recorded, 0.95 is in force"):
        verify(int8_bundle)


def test_one_changed_byte_is_caught_by_its_digest(fp32_bundle: Path) -> None:
    content = bytearray((fp32_bundle / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (fp32_bundle / "model.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model.onnx was changed"):
        verify(fp32_bundle)


def test_a_truncated_model_with_a_fitting_digest_is_caught(fp32_bundle: Path) -> None:
    content = (fp32_bundle / "model.onnx").read_bytes()
    (fp32_bundle / "model.onnx").write_bytes(content[: len(content) // 2])
    reseal(fp32_bundle)
    with pytest.raises(ArtifactError, match="truncated"):
        verify(fp32_bundle)


def test_another_student_in_the_bundle_is_caught(fp32_bundle: Path) -> None:
    path = fp32_bundle / "reference/student.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)
    reseal(fp32_bundle)
    with pytest.raises(GateError, match="is not the student that was exported"):
        verify(fp32_bundle)


def test_a_bundle_of_a_newer_edgeseed_is_refused(fp32_bundle: Path) -> None:
    path = fp32_bundle / "manifest.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "schema_version": 99}))
    with pytest.raises(ArtifactError, match="schema version 99"):
        verify(fp32_bundle)
