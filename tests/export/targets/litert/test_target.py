"""Files that LiteRT itself computes, of networks that use every part of the lowering."""

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.export import SIZE, tiny_preprocess, tiny_student
from support.litert import kinds, write
from torch import Tensor, nn

from edgeseed.core.agreement import relative_error
from edgeseed.core.bundle import read_bundle, seal_bundle
from edgeseed.core.errors import ArtifactError, MissingDependencyError, UsageError, WorkError
from edgeseed.core.network import StudentNetwork
from edgeseed.export import export, verify
from edgeseed.export.program import trace
from edgeseed.export.proof.reference import reference_outputs
from edgeseed.export.targets.litert.flatbuffer import File
from edgeseed.export.targets.litert.lowering import ConvGeometry, Lowering
from edgeseed.export.targets.litert.model import LiteRTModel

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install edgeseed[litert]")


# Between them they use every part of the lowering, and tests/export/targets/litert/test_lowering.py
# has each part alone: in the quick suite are a convolutional network, a residual one and a
# transformer.
NETWORKS = [
    "test_efficientnet", "test_resnet", "test_vit",
    *(pytest.param(name, marks=pytest.mark.slow) for name in (
        "test_convnext", "test_mambaout", "test_nfnet", "test_byobnet", "test_efficientnet_evos",
        "test_efficientnet_ln",
    )),
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
def made(made_litert: Path) -> Path:
    return made_litert


@pytest.fixture(scope="module")
def of_kind(
    once: Callable[..., Path], student: Path, photos: Path, litert_of: Callable[[str], Path]
) -> Callable[[str, str], Path]:
    """The bundle of a type of input and a precision."""

    def make(kind: str, precision: str) -> Path:
        if kind == "uint8":  # without asking
            return litert_of(precision)
        integers = {"max_float_layers": 0, "calibrator": "minmax"} if precision == "int8" else {}
        return once(
            f"litert-{kind}-{precision}",
            lambda out: export(
                student, target="litert", precision=precision, calibration=photos, out=out,
                speed=False, options={"input": kind}, quantization=integers,
                min_agreement=0.9 if precision == "int8" else None,
            ),
        )  # fmt: skip

    return make


# How a photo is read does not depend on the precision, but for integers.
QUICK = (("uint8", "fp32"), ("uint8", "int8"), ("float32", "fp32"))
INPUTS = [
    pytest.param(pair, id="-".join(pair), marks=[] if pair in QUICK else [pytest.mark.slow])
    for pair in itertools.product(("uint8", "float32"), ("fp32", "fp16", "int8"))
]


@pytest.fixture(scope="module", params=INPUTS)
def of_an_input(request: pytest.FixtureRequest, of_kind: Callable[[str, str], Path]) -> Path:
    """A bundle of each type of input."""
    out = of_kind(*request.param)
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
    kind: str, of_kind: Callable[[str, str], Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(of_kind(kind, "fp32"), tmp_path / "bundle"))
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
