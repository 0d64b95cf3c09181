"""What every target keeps, at every precision; and one in a folder that nothing knows by name."""

import dataclasses
import importlib.util
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.export import save_tiny_student, tiny_student
from torch import nn

from edgeseed.core.bundle import read_bundle, seal_bundle
from edgeseed.core.errors import (
    ArtifactError,
    EdgeseedError,
    GateError,
    MissingDependencyError,
    UsageError,
)
from edgeseed.core.network import StudentNetwork, load_student
from edgeseed.export import export, targets, verify
from edgeseed.export.bundling.builder import baseline_precision
from edgeseed.export.call import Batch
from edgeseed.export.program import build_program, output_names
from edgeseed.export.target import Target, WriteRequest
from edgeseed.export.targets import TARGETS

TOY = Path(__file__).parent.parent / "support/targets"
SETTINGS: dict[str, Any] = {"max_float_layers": 0, "calibrator": "minmax"}


@pytest.fixture(autouse=True, scope="module")
def toy() -> Iterator[None]:
    """The folder of a target is all that there is to add."""
    targets.__path__.append(str(TOY))
    yield
    targets.__path__.remove(str(TOY))


def _variants(quick: Collection[tuple[str, str]] = ()) -> list[Any]:
    """Every target, precision and scheme; those that take time among the slow tests.

    Those are integers, for their search, and Core ML but for its own precision, for coremltools:
    tests/export/targets/coreml/test_target.py has its float32 and its eight-bit weights.

    Args:
        quick: If given, all others are slow tests as well.
    """
    variants: list[Any] = [("toy", "fp32", None), ("toy", "w8", None)]
    for name in TARGETS.names():
        target: Target = TARGETS.load(name)
        for precision in target.precisions:
            schemes = target.schemes.get(precision, (None,))
            variants += [(name, precision, scheme) for scheme in schemes]
    return [
        pytest.param(
            *variant, id="-".join(filter(None, variant)),
            marks=[pytest.mark.slow]
            if variant[2]
            or variant[:2] in (("coreml", "fp32"), ("coreml", "w8"))
            or (quick and variant[:2] not in quick)
            else [],
        )
        for variant in variants
    ]  # fmt: skip


BundleOf = Callable[..., Path]
# Bundles that other files of tests look at as well.
SHARED = {
    ("onnx", "fp32"): "made_fp32",
    ("onnx", "fp16"): "made_fp16",
    ("coreml", "fp16"): "made_coreml",
    ("tensorrt", "fp16"): "made_tensorrt",
}


@pytest.fixture(scope="module")
def bundle_of(
    request: pytest.FixtureRequest, once: Callable[..., Path], student: Path, photos: Path
) -> BundleOf:
    """The bundle of a target, precision and scheme, made once."""

    def make(target: str, precision: str, scheme: str | None = None) -> Path:
        if (target, precision) in SHARED:
            return Path(request.getfixturevalue(SHARED[target, precision]))
        if target == "litert" and scheme is None:
            pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert")
            return Path(request.getfixturevalue("litert_of")(precision))
        for module in TARGETS.load(target).modules:
            if importlib.util.find_spec(module) is None:
                pytest.skip(f"needs {module}")
        return once(
            f"contract-{target}-{precision}-{scheme}",
            lambda out: export(
                student, target=target, precision=precision, scheme=scheme, calibration=photos,
                out=out, quantization=SETTINGS if scheme else {},
                min_agreement=0.9 if precision in ("w8", "int8") else None, speed=False,
            ),
        )  # fmt: skip

    return make


# Core ML computes these in float16. It was the ONNX file that has small weights in float.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", pytest.param("litert", marks=pytest.mark.slow)])
def test_weights_in_bytes_are_simulated_as_the_file_has_them(
    name: str, photos: Path, tmp_path: Path
) -> None:
    # ONNX files leave small weights in float, and the simulation rounded them: a sound
    # MobileNetV3-small was 0.75 of the rounding error away from it, and refused.
    pytest.importorskip("ai_edge_litert") if name == "litert" else None
    network = tiny_student("mobilenetv3_small_050", trained=False)
    layers = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert min(weight.numel() for weight in layers) < 512
    file = save_tiny_student(tmp_path / "s.safetensors", network, "mobilenetv3_small_050")

    export(
        file, target=name, precision="w8", calibration=photos, out=tmp_path / "made",
        min_agreement=0.5, speed=False,
    )  # fmt: skip

    gates = {gate.name: gate for gate in read_bundle(tmp_path / "made").manifest.gates}
    assert gates["rounding"].value < 0.02


# Files are written anew by the same lines for all precisions of a target.
ONE_EACH = (("toy", "w8"), ("onnx", "fp32"), ("coreml", "fp16"), ("litert", "fp32"),
            ("tensorrt", "fp16"))  # fmt: skip
of_every_variant = pytest.mark.parametrize(("name", "precision", "scheme"), _variants())
of_every_target = pytest.mark.parametrize(("name", "precision", "scheme"), _variants(ONE_EACH))


class TestTarget:
    @of_every_variant
    def test_it_writes_opens_again_and_is_proven(
        self, name: str, precision: str, scheme: str | None, bundle_of: BundleOf, pixels: Any,
    ) -> None:  # fmt: skip
        made = bundle_of(name, precision, scheme)
        bundle = read_bundle(made)
        target: Target = TARGETS.load(name)
        assert (bundle.manifest.target, bundle.manifest.precision) == (name, precision)
        sizes = bundle.manifest.inputs[0].shape
        assert (sizes[1] if target.layout == "NCHW" else sizes[3]) == 3
        assert bundle.manifest.inputs[0].dtype == target.input_type_of(target.options)
        outputs = target.open(made, bundle.manifest).infer(pixels[:3])
        assert {output: values.shape for output, values in outputs.items()} == {
            "embedding": (3, bundle.manifest.embedding_dim), "logits": (3, 4)
        }  # fmt: skip
        assert verify(made).passed

    @pytest.mark.slow
    @of_every_target
    def test_another_networks_files_in_it_are_caught(
        self, name: str, precision: str, scheme: str | None, bundle_of: BundleOf, tmp_path: Path,
    ) -> None:  # fmt: skip
        made = bundle_of(name, precision, scheme)
        bundle = Path(shutil.copytree(made, tmp_path / "bundle"))
        other = tiny_student(trained=False)
        with torch.no_grad():
            assert other.head is not None
            other.head.weight.mul_(-1)
        rewrite(bundle, other)
        with pytest.raises((GateError, ArtifactError)):
            verify(bundle)

    @of_every_target
    @pytest.mark.usefixtures("convert_anew")
    def test_the_same_program_gives_the_same_bytes(
        self, name: str, precision: str, scheme: str | None, bundle_of: BundleOf,
        student: Path, photos: Path, tmp_path: Path,
    ) -> None:  # fmt: skip
        made = bundle_of(name, precision, scheme)
        if scheme is not None:
            again = tmp_path / "again"
            export(
                student, target=name, precision=precision, scheme=scheme, calibration=photos,
                out=again, min_agreement=0.9, speed=False, quantization=SETTINGS,
            )  # fmt: skip
            assert read_bundle(again).digest == read_bundle(made).digest
            return
        copy = Path(shutil.copytree(made, tmp_path / "copy"))
        network, _ = load_student(student)
        rewrite(copy, network)
        assert read_bundle(copy).digest == read_bundle(made).digest


OUTPUTS = {
    "embedding": "float32", "logits": "float32", "probabilities": "float32",
    "top3_probabilities": "float32", "top3_indices": "int32",
}  # fmt: skip


def _pairs() -> list[Any]:
    """Every target and precision, once; integers among the slow tests.

    And fp16: the outputs are added in float32, behind whatever computes the logits.
    """
    pairs = [("toy", "fp32"), ("toy", "w8")]
    for name in TARGETS.names():
        pairs += [(name, precision) for precision in TARGETS.load(name).precisions]
    slow = pytest.mark.slow
    return [
        pytest.param(*pair, id="-".join(pair), marks=[slow] if pair[1] in ("int8", "fp16") else [])
        for pair in pairs
    ]


@pytest.mark.parametrize(("name", "precision"), _pairs())
def test_outputs_are_added_and_proven_or_refused_in_one_line(
    name: str, precision: str, added_of: BundleOf, pixels: Any, student: Path, tmp_path: Path
) -> None:
    target: Target = TARGETS.load(name)
    if not target.adds_outputs:
        with pytest.raises(UsageError, match=rf"target {name} adds no outputs; use --target"):
            export(
                student, target=name, precision=precision, calibration=tmp_path,
                out=tmp_path / "out", add_outputs=["probabilities"],
            )  # fmt: skip
        return
    made = added_of(name, precision)
    bundle = read_bundle(made)
    assert {each.name: each.dtype for each in bundle.manifest.outputs} == OUTPUTS
    found = target.open(made, bundle.manifest).answer(pixels[:5])
    assert {each: values.dtype.name for each, values in found.items()} == OUTPUTS
    shares = torch.from_numpy(found["logits"]).softmax(dim=1)
    best = shares.topk(3, dim=1)
    np.testing.assert_allclose(found["probabilities"], shares, atol=1e-5)
    np.testing.assert_allclose(found["top3_probabilities"], best.values, atol=1e-5)
    assert found["top3_indices"].tolist() == best.indices.tolist()
    result = verify(made)
    assert result.passed
    assert "added_outputs" in {gate.name for gate in result.gates}
    golden = np.load(made / "golden/model.npz")
    assert {each: golden[each].dtype.name for each in golden} == OUTPUTS


def rewrite(bundle: Path, network: StudentNetwork) -> None:
    """Writes a network's float files into a bundle, as its target would."""
    manifest = read_bundle(bundle, check=False).manifest
    _, spec = load_student(bundle / "reference/student.safetensors")
    target: Target = TARGETS.load(manifest.target)
    batch: Batch = target.fixed_batch or "dynamic"
    program = build_program(network, spec.preprocess, batch=batch)
    is_float = not target.schemes.get(manifest.precision)  # type: ignore[call-overload]
    request = WriteRequest(
        program=program,
        output_names=output_names(program),
        spec=spec,
        precision=manifest.precision if is_float else baseline_precision(target),  # type: ignore[arg-type]
        batch=batch,
        options=manifest.provenance.export.options,
    )
    model = bundle / manifest.model
    shutil.rmtree(model) if model.is_dir() else model.unlink()
    target.write(request, bundle)
    seal_bundle(bundle, manifest)


def _options() -> list[tuple[str, str]]:
    """Every option of every target but those whose values are names within the network."""
    return [
        (name, option)
        for name in TARGETS.names()
        for option in TARGETS.load(name).options
        if option != "float32"
    ]


@pytest.mark.parametrize(("target", "option"), _options())
def test_an_options_wrong_value_is_refused_before_a_photo_is_read(
    student: Path, tmp_path: Path, target: str, option: str
) -> None:
    with pytest.raises(EdgeseedError, match=rf"{option}\b.*nonsense"):
        export(
            student, target=target, precision="int8", out=tmp_path / "out",
            calibration=tmp_path / "none", options={option: "nonsense"},
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["int8", "auto"])
@pytest.mark.parametrize("target", ["coreml", "litert"])
def test_a_missing_package_is_told_before_a_photo_is_read(
    student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, precision: str
) -> None:
    monkeypatch.setitem(sys.modules, TARGETS.load(target).modules[0], None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'edgeseed\[{target}\]'"):
        export(
            student, target=["onnx", target], precision=precision, out=tmp_path / "out",
            calibration=tmp_path / "none",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_a_target_in_a_folder_is_listed_and_refuses_what_it_lacks(student: Path) -> None:
    assert "toy" in TARGETS.names()
    assert TARGETS.summary("toy").startswith("A target in one folder")
    with pytest.raises(Exception, match="precision of target toy 'int8'"):
        export(student, target="toy", precision="int8", out="nowhere")


def test_a_bundle_of_an_unknown_layout_is_read_all_the_same(
    bundle_of: BundleOf,
) -> None:
    made = bundle_of("toy", "fp32")
    (image,) = read_bundle(made).manifest.inputs
    assert image.shape == ("batch", 32, 32, 3)
    assert (image.dtype, np.dtype(image.dtype).itemsize) == ("uint8", 1)
    assert dataclasses.asdict(image)["semantics"] == "RGB pixels 0..255"
