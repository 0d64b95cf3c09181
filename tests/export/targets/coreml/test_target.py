"""Packages that the target writes: what they compute, hold, and refuse."""

import copy
import dataclasses
import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from support.coreml import Packages, difference, spec_of, write, write_program
from support.export import CLASSES, tiny_preprocess, tiny_student
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional

from edgeseed.core.agreement import top1_agreement
from edgeseed.core.errors import (
    MissingDependencyError,
    UsageError,
    WorkError,
)
from edgeseed.core.network import StudentNetwork, build_student
from edgeseed.core.photos import open_photos
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.reading import read_record
from edgeseed.core.records import QuantizationRecord
from edgeseed.core.student import Architecture
from edgeseed.export import export
from edgeseed.export.program import build_program
from edgeseed.export.proof.reference import Outputs, reference_outputs
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos, synthetic_photo
from edgeseed.export.target import Precision
from edgeseed.export.targets.coreml import target
from edgeseed.export.targets.coreml.model import CoreMLModel
from edgeseed.export.targets.coreml.tools import load_coremltools, quiet

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("coremltools") is None, reason="coremltools is not installed"
)
Pixels = npt.NDArray[np.uint8]


@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        ("fp32", 1e-5),
        ("fp16", 2e-3),
        pytest.param("linear8", 3e-2, marks=pytest.mark.slow),
        pytest.param("palette6", 0.15, marks=pytest.mark.slow),
        ("int8", 0.15),
    ],
)
def test_the_package_computes_what_the_student_computes(
    packages: Packages, reference: Outputs, pixels: Pixels, kind: str, limit: float
) -> None:
    assert difference(CoreMLModel(packages[kind]).infer(pixels), reference) <= limit


def size(package: Path) -> int:
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file())


@pytest.mark.slow
def test_fewer_bits_make_smaller_packages(packages: Packages) -> None:
    kinds = ("fp32", "fp16", "linear8", "palette6")
    sizes = {kind: size(packages[kind]) for kind in kinds}
    assert sizes["fp32"] > 1.7 * sizes["fp16"]
    assert sizes["fp16"] > 1.4 * sizes["linear8"]
    assert sizes["linear8"] > sizes["palette6"]


# A third way to store weights, made as palette6 is.
@pytest.mark.slow
def test_four_bits_make_the_smallest_package(packages: Packages) -> None:
    sizes = {kind: size(packages[kind]) for kind in ("linear8", "palette6", "palette4")}
    assert sizes["linear8"] > sizes["palette6"] > sizes["palette4"]


def test_core_mls_own_tools_open_the_package(packages: Packages) -> None:
    with quiet():
        model = load_coremltools("a test").models.MLModel(
            str(packages["fp16"]), skip_model_load=True
        )
    specification = model.get_spec()
    assert specification.specificationVersion == 8  # iOS 17
    (image,) = specification.description.input
    kind = image.type.imageType
    assert (image.name, kind.height, kind.width) == ("image", 32, 32)
    assert kind.ColorSpace.Name(kind.colorSpace) == "RGB"
    outputs = [each.name for each in specification.description.output]
    assert outputs == ["embedding", "logits", "classLabel", "classLabel_probs"]
    assert specification.description.predictedFeatureName == "classLabel"


def test_opening_a_package_with_core_mls_own_tools_changes_no_byte(
    packages: Packages, tmp_path: Path
) -> None:
    """coremltools writes Manifest.json anew whenever it opens a package, its keys in their order.

    With ours in another order, a bundle that somebody had looked into failed `verify`.
    """
    copy = Path(shutil.copytree(packages["fp16"], tmp_path / "copy.mlpackage"))
    with quiet():
        load_coremltools("a test").models.MLModel(str(copy), skip_model_load=True)
    for path in packages["fp16"].rglob("*.*"):
        if path.is_file():
            assert (copy / path.relative_to(packages["fp16"])).read_bytes() == path.read_bytes()


def test_the_package_says_how_it_is_called_and_nothing_of_who_made_it(
    packages: Packages,
) -> None:
    metadata = CoreMLModel(packages["fp16"]).interpreter.program.metadata
    assert json.loads(metadata["edgeseed.preprocess"]) == tiny_preprocess().to_dict()
    assert json.loads(metadata["edgeseed.labels"]) == list(CLASSES)
    assert "edgeseed.weights" not in metadata  # nothing could be compared with it
    content = b"".join(path.read_bytes() for path in packages["fp16"].rglob("*") if path.is_file())
    assert b"/work" not in content
    assert b"site-packages" not in content
    assert b"conversion_date" not in content


# tests/export/test_target_contract.py asks it of the bundle.
@pytest.mark.slow
def test_the_same_student_gives_the_same_bytes(
    network: StudentNetwork, packages: Packages, tmp_path: Path
) -> None:
    again = write(network, tmp_path / "again", "fp16")
    files = sorted(path.relative_to(again) for path in again.rglob("*") if path.is_file())
    assert len(files) == 3
    for name in files:
        assert (again / name).read_bytes() == (packages["fp16"] / name).read_bytes()


def test_the_probabilities_are_the_softmax_of_the_logits(
    packages: Packages, reference: Outputs, pixels: Pixels
) -> None:
    interpreter = CoreMLModel(packages["fp32"]).interpreter
    outputs = interpreter.run_photos(pixels)
    wanted = torch.from_numpy(reference["logits"]).softmax(-1).numpy()
    np.testing.assert_allclose(outputs["classLabel_probs"], wanted, atol=1e-5)
    assert outputs["classLabel"].tolist() == reference["logits"].argmax(1).tolist()
    assert interpreter.program.labels == CLASSES


def test_the_classifier_is_written_as_coremltools_writes_it() -> None:
    """It cannot itself: ClassifierConfig and named outputs together are an IndexError in 9.0."""
    coremltools = load_coremltools("a test")
    from coremltools.converters.mil import Builder as mb  # noqa: N813 - the name of its own documents

    def specification(**settings: Any) -> Any:
        def build(x: Any) -> Any:
            return mb.softmax(x=x, name="probabilities")

        with quiet():
            program = mb.program(
                input_specs=[mb.TensorSpec(shape=(1, 3))], opset_version=coremltools.target.iOS17
            )(build)
            return coremltools.convert(
                program,
                minimum_deployment_target=coremltools.target.iOS17,
                compute_precision=coremltools.precision.FLOAT32,
                skip_model_load=True,
                **settings,
            ).get_spec()

    theirs = specification(classifier_config=coremltools.ClassifierConfig(["a", "b", "c"]))
    ours = specification()
    target.make_classifier(coremltools, ours, ("a", "b", "c"))
    last = [
        each.mlProgram.functions["main"].block_specializations["CoreML7"].operations[-1]
        for each in (ours, theirs)
    ]
    last[0].attributes["name"].CopyFrom(last[1].attributes["name"])
    assert last[0] == last[1]
    assert [each.name for each in ours.description.output] == [
        each.name for each in theirs.description.output
    ]
    assert [each.type for each in ours.description.output] == [
        each.type for each in theirs.description.output
    ]
    for field in ("predictedFeatureName", "predictedProbabilitiesName"):
        assert getattr(ours.description, field) == getattr(theirs.description, field)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kwargs"),
    # A transformer of its own: its operators are tested one by one in interpreter/operations/.
    [
        ("test_efficientnet", {}),
        pytest.param("test_vit", {"img_size": 32}, marks=pytest.mark.slow),
    ],
)
def test_a_student_without_a_head_is_no_classifier(
    name: str, kwargs: dict[str, Any], tmp_path: Path, pixels: Pixels
) -> None:
    network = tiny_student(name, head=False, **kwargs)
    package = write(network, tmp_path / name, "fp32", classes=None)
    model = CoreMLModel(package)
    assert model.interpreter.program.outputs == ("embedding",)
    wanted = reference_outputs(network, tiny_preprocess(), pixels[:4])
    assert difference(model.infer(pixels[:4]), wanted) <= 1e-5


@pytest.mark.slow
def test_chosen_operations_stay_in_float32(network: StudentNetwork, tmp_path: Path) -> None:
    package = write(network, tmp_path / "mixed", "fp16", float32="conv, softmax")
    program = CoreMLModel(package).interpreter.program
    types = {
        kind: {
            result.type.dtype
            for each in program.operations
            for result in each.results
            if each.type == kind and result.type is not None
        }
        for kind in ("conv", "softmax", "silu")
    }
    assert types == {"conv": {"float32"}, "softmax": {"float32"}, "silu": {"float16"}}


def test_an_unknown_way_to_store_weights_names_the_known(
    network: StudentNetwork, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="weights is 'zip'; known: linear8, palette8"):
        write(network, tmp_path / "zip", "w8", weights="zip")


def test_where_torch_export_does_not_convert_a_trace_does(
    network: StudentNetwork, pixels: Pixels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    reference: Outputs,
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise NotImplementedError("no such operator")

    monkeypatch.setattr(target, "_exported", fail)
    package = write(network, tmp_path / "traced", "fp32")
    assert difference(CoreMLModel(package).infer(pixels), reference) <= 1e-5
    monkeypatch.setattr(target, "_traced", fail)
    told = r"^Core ML cannot express .*: coremltools fails on it \(no such operator\); export it to"
    with pytest.raises(WorkError, match=told):
        write(network, tmp_path / "neither", "fp32")


class WidePools(nn.Module):
    """The largest of values that are two apart, which Core ML has not."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 4
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features = functional.relu(self.layer(images))
        return functional.max_pool2d(features, 3, dilation=2).mean((2, 3))


@pytest.mark.parametrize("precision", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
def test_what_core_ml_lacks_is_named_in_one_line(
    precision: Precision, tmp_path: Path, pixels: Pixels
) -> None:
    # int8 said "node 1059 (quantized_decomposed::quantize_per_tensor) got 6 input(s)", of a trace.
    network = StudentNetwork(WidePools(), num_classes=len(CLASSES)).eval()
    told = (
        "^Core ML cannot express this network: coremltools does not convert its max_pool2d "
        r"\(@max_pool does not support dilation > 1\); export it to another target, such as onnx$"
    )
    calibration = pixels if precision == "int8" else None
    with pytest.raises(WorkError, match=told):
        write(network, tmp_path / precision, precision, calibration=calibration)


class WrittenInOthers(nn.Module):
    """Operators that coremltools lacks, as CrossViT's bicubic resizing."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 4
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1) + 1)

    def forward(self, images: Tensor) -> Tensor:
        smaller = functional.interpolate(images, size=(20, 20), mode="bicubic")
        features = functional.relu(self.layer(smaller))
        features = torch.addcmul(features, features, self.scale, value=0.5)
        features = torch.addcdiv(features, features, self.scale, value=0.5)
        return features.mean((2, 3))


@pytest.mark.parametrize(
    ("precision", "limit"),
    [("fp32", 1e-5), pytest.param("int8", 0.05, marks=pytest.mark.slow)],
)
def test_operators_that_core_ml_lacks_are_written_in_others(
    precision: Precision, limit: float, tmp_path: Path, pixels: Pixels
) -> None:
    torch.manual_seed(0)
    network = StudentNetwork(WrittenInOthers(), num_classes=len(CLASSES)).eval()
    calibration = pixels if precision == "int8" else None
    model = CoreMLModel(write(network, tmp_path / "p", precision, calibration=calibration))
    wanted = reference_outputs(network, tiny_preprocess(), pixels)
    assert difference(model.infer(pixels), wanted) <= limit
    assert model.lint() == ()


class Positions(nn.Module):
    """Patches whose positions are added with channels last, as in SAM 2's Hiera."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 8
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        size = tiny_preprocess().image_size // 4
        self.positions = nn.Parameter(torch.randn(1, size, size, 8))
        self.layer = nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).permute(0, 2, 3, 1) + self.positions
        features: Tensor = self.layer(tokens)
        return features.mean((1, 2))


@pytest.mark.slow
def test_positions_behind_a_transpose_are_added_in_int8(tmp_path: Path, pixels: Pixels) -> None:
    """coremltools read the integers' values: "'NoneType' object has no attribute 'dtype'"."""
    torch.manual_seed(0)
    network = StudentNetwork(Positions(), num_classes=len(CLASSES)).eval()
    model = CoreMLModel(write(network, tmp_path / "p", "int8", calibration=pixels))
    wanted = reference_outputs(network, tiny_preprocess(), pixels)
    assert difference(model.infer(pixels), wanted) <= 0.05
    assert model.lint() == ()


@pytest.mark.slow
def test_a_full_disk_is_no_refusal_of_the_network(
    network: StudentNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(*_args: object, **_options: object) -> None:
        raise RuntimeError("filesystem error: cannot create directory: No space left on device")

    monkeypatch.setattr(load_coremltools("a test"), "convert", convert)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    told = rf"^disk full while converting to Core ML; temporary files are in {tmp_path}: .* TMPDIR"
    with pytest.raises(WorkError, match=told):
        write(network, tmp_path / "p", "fp32")


# Eight-bit weights are made of a package in float16.
@pytest.mark.slow
@pytest.mark.parametrize("precision", [pytest.param("fp16", marks=pytest.mark.slow), "w8"])
def test_nothing_stays_in_the_temporary_folder(
    network: StudentNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    write(network, tmp_path / precision, precision)
    assert list(temporary.iterdir()) == []


def test_without_coremltools_the_message_says_what_to_install(
    network: StudentNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingDependencyError, match="--target coreml needs coremltools"):
        write(network, tmp_path / "none", "fp16")


def test_batch_norm_and_activation_in_one_module_keep_their_running_statistics(
    network: StudentNetwork, packages: Packages
) -> None:
    """timm's BatchNormAct2d asks `self.training` as it runs.

    A tool that traces in training mode bakes the batch's statistics in: reduce_mean, sub, sqrt and
    real_div for each layer, and outputs that are wrong by 500 %.
    """
    fused = [each for each in network.modules() if isinstance(each, BatchNormAct2d)]
    assert len(fused) > 10
    for kind in ("fp16", "int8"):
        program = CoreMLModel(packages[kind]).interpreter.program
        types = [each.type for each in program.operations]
        assert not {"sqrt", "rsqrt", "real_div"} & set(types)
        assert types.count("batch_norm") <= 1  # coremltools' form of the photo's own normalisation
        assert types.count("reduce_mean") <= 3  # the squeezes and the last pool
        assert types.count("conv") == 17


class Padded(nn.Module):
    """Pads in all the ways: zeros for one layer, for two, for one that pads itself; and ones."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 8
        widths = [(3, 8), (8, 8), (8, 8), (8, 8), (8, 8)]
        self.layers = nn.ModuleList(
            nn.Conv2d(*each, 3, stride=2 if index < 2 else 1, padding=int(index == 1))
            for index, each in enumerate(widths)
        )

    def forward(self, images: Tensor) -> Tensor:
        first, second, left, right, last = self.layers
        features = functional.relu(first(functional.pad(images, (0, 1, 0, 1))))
        features = functional.relu(second(functional.pad(features, (0, 2, 1, 0))))
        padded = functional.pad(features, (0, 1, 2, 0))
        features = functional.relu(left(padded) + right(padded))
        return functional.relu(last(functional.pad(features, (1, 1, 1, 1), value=1.0))).mean((2, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    # In integers, what is padded for two layers is stored once more.
    ("precision", "pads"),
    [("fp32", 1), ("int8", 2)],
)
def test_padding_becomes_the_layers_own(
    tmp_path: Path, pixels: Pixels, precision: Precision, pads: int
) -> None:
    """Between bytes and a convolution it would keep the convolution in float."""
    torch.manual_seed(0)
    network = StudentNetwork(Padded(), num_classes=len(CLASSES)).eval()
    calibration = pixels if precision == "int8" else None
    package = write(network, tmp_path / "padded", precision, calibration=calibration)
    integer = {f"layer {index}": "conv" for index in range(5)} | {"linear": "linear"}
    record = QuantizationRecord(scheme="coreml", integer_operators=integer)
    model = CoreMLModel(package, quantization=record if precision == "int8" else None)
    types = [each.type for each in model.interpreter.program.operations]
    assert types.count("pad") == pads
    limit = 1e-5 if precision == "fp32" else 0.05
    wanted = reference_outputs(network, tiny_preprocess(), pixels)
    assert difference(model.infer(pixels), wanted) <= limit
    assert model.lint() == ()


class SumOfStored(nn.Module):
    """A sum of two tensors that layers read as well, which is stored itself, as in HGNetV2."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 8
        self.layers = nn.ModuleList(nn.Conv2d(each, 8, 3, padding=1) for each in (3, 8, 8, 8))

    def forward(self, images: Tensor) -> Tensor:
        first, second, third, last = self.layers
        left = functional.relu(first(images))
        right = functional.relu(second(left))
        return functional.relu(last(left + right) + third(right)).mean((2, 3))


# Traces a network of its own. Above, each layer of a package in integers has the record's scales.
@pytest.mark.slow
def test_scales_of_a_sum_are_those_of_its_tensors(tmp_path: Path, pixels: Pixels) -> None:
    """coremltools divides them by one of them: "a scale is wrong: 1.48 where ... records 1"."""
    torch.manual_seed(0)
    network = StudentNetwork(SumOfStored(), num_classes=len(CLASSES)).eval()
    program = build_program(network, tiny_preprocess())
    config = QuantizeConfig(calibrator="minmax", max_float_layers=0)
    made = quantize(program, SCHEMES.load("coreml"), Photos(pixels=pixels), batch=1, config=config)
    package = write_program(
        spec_of(network, tiny_preprocess(), CLASSES), tmp_path / "sum", "int8", made.program
    )
    record = read_record(QuantizationRecord, made.record, what="the record")
    assert CoreMLModel(package, quantization=record).lint() == ()
    # Those of another calibration are found still.
    ranges = {name: (1.1 * low, 1.1 * high) for name, (low, high) in record.ranges.items()}
    other = dataclasses.replace(record, ranges=ranges)
    assert [each.where for each in CoreMLModel(package, quantization=other).lint()] == ["integers"]


# Traces a network of its own. test_model.py finds weights beyond float16 in a package.
@pytest.mark.slow
def test_a_layer_whose_weights_float16_cannot_hold_stays_in_float32(
    network: StudentNetwork, tmp_path: Path, pixels: Pixels
) -> None:
    changed = copy.deepcopy(network)
    assert changed.head is not None
    with torch.no_grad():
        changed.head.bias[0] = 1e6
    model = CoreMLModel(write(changed, tmp_path / "large", "fp16"))
    wanted = reference_outputs(changed, tiny_preprocess(), pixels[:4])
    assert difference(model.infer(pixels[:4]), wanted) <= 2e-3
    assert model.lint() == ()


def test_a_batch_of_images_is_refused(student: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="coreml takes photos 1 at a time"):
        export(student, target="coreml", precision="fp16", batch=4, out=tmp_path / "four")


@pytest.mark.slow
def test_an_operation_that_the_program_lacks_cannot_be_kept_in_float32(
    network: StudentNetwork, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"'con'; did you mean 'conv'\? known: .*silu"):
        write(network, tmp_path / "con", "fp16", float32="con")


@pytest.mark.slow
def test_an_option_without_effect_is_told(
    network: StudentNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(network, tmp_path / "fp32", "fp32", weights="palette4", float32="conv")
    said = " ".join(capsys.readouterr().err.split())
    assert "weights=palette4 has no effect on fp32, only on w8" in said
    assert "float32 has no effect on fp32" in said


def test_on_windows_the_message_says_where_it_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeseed.export.targets.coreml.tools.sys.platform", "win32")
    with pytest.raises(MissingDependencyError, match=r"does not exist for Windows; .*Linux"):
        load_coremltools("--target coreml")


def digits(preprocess: Preprocess) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Photos of handwritten digits, which scikit-learn ships, shuffled."""
    photos = open_photos("digits")
    assert photos.labels is not None
    order = np.random.default_rng(0).permutation(len(photos))
    return np.stack([preprocess.pixels(photos.image(int(i))) for i in order]), photos.labels[order]


def trained_on_digits(pixels: Pixels, labels: npt.NDArray[np.int64]) -> StudentNetwork:
    torch.manual_seed(0)
    network = build_student(Architecture(name="test_efficientnet", kwargs={}), num_classes=10)
    images = torch.from_numpy(tiny_preprocess().normalize(pixels))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    network.train()
    for step in range(90):
        chosen = slice(128 * (step % 8), 128 * (step % 8) + 128)
        loss = torch.nn.functional.cross_entropy(
            network(images[chosen]).logits, torch.from_numpy(labels[chosen])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@pytest.mark.slow
def test_w8a8_decides_as_float_does_on_real_photos(tmp_path: Path) -> None:
    pixels, labels = digits(tiny_preprocess())
    network = trained_on_digits(pixels[:1024], labels[:1024])
    package = write(
        network, tmp_path / "digits", "int8", classes=tuple("0123456789"),
        calibration=pixels[:128], calibrator="auto",
    )  # fmt: skip
    held_out = pixels[1024:1424]
    wanted = reference_outputs(network, tiny_preprocess(), held_out)["logits"]
    found = CoreMLModel(package).infer(held_out)["logits"]
    assert np.mean(wanted.argmax(1) == labels[1024:1424]) >= 0.9
    assert top1_agreement(found, wanted) >= 0.98


FAMILIES = (
    ("mobilenetv3_large_100", 128), ("efficientnet_b0", 128), ("resnet18", 128),
    ("convnext_atto", 128), ("vit_tiny_patch16_224", 224), ("repvgg_a0", 128),
    ("mobilenetv4_conv_small", 128), ("fastvit_t8", 128), ("levit_128s", 224),
    ("mobilevit_xxs", 128), ("regnety_002", 128), ("ghostnet_100", 128),
    ("swin_tiny_patch4_window7_224", 224),
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_families_of_architectures(name: str, size: int, tmp_path: Path) -> None:
    """fp32 to 1e-5, fp16 to 2e-3 (of the graph) of the student.

    The weights are timm's initial ones. A network in training amplifies a rounding of its weights
    far more, in torch just as in Core ML, which says nothing of the conversion.
    """
    torch.manual_seed(0)
    network = build_student(Architecture(name=name, kwargs={}), num_classes=10).eval()
    preprocess = Preprocess(image_size=size, resize=size, interpolation="bicubic")
    pixels = np.stack([preprocess.pixels(synthetic_photo(size, seed=seed)) for seed in range(8)])
    wanted = reference_outputs(network, preprocess, pixels)
    classes = tuple(f"class {index}" for index in range(10))
    fp32, fp16 = (
        write(network, tmp_path / level, level, preprocess=preprocess, classes=classes)
        for level in ("fp32", "fp16")
    )
    assert difference(CoreMLModel(fp32).infer(pixels), wanted) <= 1e-5
    assert difference(CoreMLModel(fp16, arithmetic="float32").infer(pixels), wanted) <= 2e-3
    assert difference(CoreMLModel(fp16).infer(pixels), wanted) <= 1e-2


def test_timm_still_makes_every_family() -> None:
    assert all(timm.is_model(name) for name, _ in FAMILIES)
