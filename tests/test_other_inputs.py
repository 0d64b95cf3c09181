"""Inputs of one and of four channels, and inputs that are not square, through every stage."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.export import tinted_photo
from support.memo import remember_conformance_set
from support.shared import make_once
from support.students import save_untrained_student
from support.warm_up import warm_up_shortly

from edgeseed.convert import convert
from edgeseed.core.bundle import read_bundle
from edgeseed.core.errors import ConfigError, EdgeseedError, UsageError
from edgeseed.core.network import load_student, save_student
from edgeseed.core.photos import open_photos
from edgeseed.core.preprocess import Preprocess, normalization
from edgeseed.core.student import StudentSpec, read_spec
from edgeseed.distill import create_student, distill, evaluate, finetune, pretrain
from edgeseed.export import embed, export, gallery, verify
from edgeseed.export.apps.run import verify_module
from edgeseed.runtime import latency, profile

KINDS = ("blue", "green", "red")


@dataclass(frozen=True)
class Form:
    """An input, and how it is asked for."""

    settings: tuple[str, ...]
    shape: tuple[int, int, int]
    data: str = "photos"


FORMS = {
    "grey": Form(("student.channels=1",), (1, 32, 32)),
    "wide": Form(("student.width=48",), (3, 32, 48)),
    "high and grey": Form(("student.channels=1", "student.width=24"), (1, 32, 24)),
    "four": Form(("student.channels=4",), (4, 32, 32), "four"),
    "four and wide": Form(("student.channels=4", "student.width=48"), (4, 32, 48), "four"),
}


@pytest.fixture(autouse=True, scope="module")
def one_conformance_set(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        remember_conformance_set(monkeypatch, tmp_path_factory)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of three kinds, the same with a fourth channel, and a teacher."""
    root = tmp_path_factory.mktemp("inputs")
    for number, kind in enumerate(KINDS):
        for folder in ("photos", "four"):
            (root / folder / kind).mkdir(parents=True)
        for seed in range(28):
            photo = tinted_photo(kind, 100 * number + seed).resize((60, 40))
            # Brighter by kind, so that grey tells them apart as well.
            photo = Image.fromarray((np.asarray(photo) * (0.4 + 0.3 * number)).astype(np.uint8))
            photo.save(root / f"photos/{kind}/{seed}.png")
            fourth = np.random.default_rng(seed).integers(0, 40, (40, 60)) + 90 * number
            bands = (*photo.split(), Image.fromarray(fourth.astype(np.uint8)))
            Image.merge("RGBA", bands).save(root / f"four/{kind}/{seed}.png")
    save_untrained_student(root / "teacher.safetensors", "test_resnet", size=32)
    return root


def shape_of(path: Path | str) -> tuple[int, int, int]:
    return read_spec(path).preprocess.shape


# Neither three channels nor a square: in the quick suite it stands for the others.
QUICK = ("high and grey",)


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in FORMS],
)
def classifier(
    request: pytest.FixtureRequest, world: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """A student that was distilled, fine-tuned and evaluated: its form and its file."""
    name, form = request.param, FORMS[request.param]

    def make(out: Path) -> None:
        shutil.copy(train_classifier(world, form, out.with_suffix(".runs")), out)

    file = f"classifier-{name.replace(' ', '-')}.safetensors"
    return name, make_once(tmp_path_factory, file, make)


def train_classifier(world: Path, form: Form, out: Path) -> Path:
    data = world / form.data
    distilled = distill(
        method="regress", teacher=str(world / "teacher.safetensors"), student="test_efficientnet",
        data=data, out=out / "distilled", image_size=32, epochs=2, batch_size=28, devices="cpu",
        settings=form.settings,
    )  # fmt: skip
    assert shape_of(distilled.student) == form.shape
    tuned = finetune(
        distilled.student, data=data, out=out / "tuned", epochs=30, lr=0.02, devices="cpu",
        settings={"recipe.batch_size": 22},
    )  # fmt: skip
    assert shape_of(tuned.student) == form.shape
    assert tuned.metric.top1_percent > 60
    return Path(tuned.student)


def export_words(world: Path, form: Form) -> dict[str, Any]:
    return {
        "calibration": world / form.data, "min_agreement": 0.5, "max_drop": 30.0,
        "speed": False,
        "quantization": {"max_float_layers": 0, "calibrator": "minmax"},
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "precision"),
    [(target, precision)
     for target in ("onnx", "litert", "tensorrt", "coreml")
     for precision in ("fp32", "fp16", "int8")],
)  # fmt: skip
def test_a_student_goes_to_every_target_and_is_proven(
    classifier: tuple[str, Path], world: Path, tmp_path: Path, target: str, precision: str
) -> None:
    if target == "litert":
        pytest.importorskip("ai_edge_litert", reason="pip install 'edgeseed[litert]'")
    name, student = classifier
    form = FORMS[name]
    options = {"target": target, "precision": precision, **export_words(world, form)}
    if precision != "int8":
        del options["quantization"], options["min_agreement"], options["max_drop"]
    if target in ("coreml", "litert") and form.shape[0] == 4:
        with pytest.raises(UsageError, match=r"takes photos of 1 or 3 channels, and this student "):
            export(student, out=tmp_path / "bundle", **options)
        assert list(tmp_path.iterdir()) == []
        return
    export(student, out=tmp_path / "bundle", **options)
    manifest = read_bundle(tmp_path / "bundle").manifest
    channels, *box = form.shape
    shape = (*box, channels) if target == "litert" else form.shape
    assert manifest.inputs[0].shape[1:] == shape
    assert verify(tmp_path / "bundle").passed
    if precision != "int8":  # with which a student of seconds changes its mind on a few photos
        assert verify(tmp_path / "bundle", against=student).passed
        assert verify(tmp_path / "bundle", data=world / form.data).passed


@pytest.mark.slow
def test_a_student_is_measured_embedded_and_taken_elsewhere(
    classifier: tuple[str, Path], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, student = classifier
    form = FORMS[name]
    metrics = {
        metric.name: metric
        for metric in evaluate(student, data=world / form.data, protocol="knn").metrics
    }
    assert next(iter(metrics.values())).top1_percent > 60
    export(student, calibration=world / form.data, out=tmp_path / "bundle", speed=False)
    warm_up_shortly(monkeypatch)
    short = latency.LatencyProtocol("instant", min_runs=8, min_seconds=0.05, max_seconds=5)
    monkeypatch.setitem(latency.PROTOCOLS, "instant", short)
    result = profile(
        tmp_path / "bundle", data=world / form.data, protocol="instant", out=tmp_path / "r.json"
    )
    assert result.accuracy is not None
    assert result.accuracy.agreement is not None
    assert result.accuracy.agreement.value == 1.0
    made = gallery(student, data=world / form.data, out=tmp_path / "gallery.bin", per_class=4)
    assert made.num_classes == 3
    for platform in ("android", "web"):
        if form.shape[0] == 4:
            with pytest.raises(UsageError, match="takes photos of four channels, and cameras and"):
                embed(tmp_path / "bundle", platform=platform, out=tmp_path / platform)
            continue
        embed(tmp_path / "bundle", platform=platform, out=tmp_path / platform)
        assert verify_module(tmp_path / platform, bundle=tmp_path / "bundle")
    for kind, out in {"timm": "timm.safetensors", "hub": "hub"}.items():
        convert(student, to=kind, out=tmp_path / out)


# EsViT sees small crops as well, and takes six times as long.
@pytest.mark.slow
@pytest.mark.parametrize("method", ["simclr", pytest.param("esvit", marks=pytest.mark.slow)])
def test_a_network_learns_alone_from_views_of_its_shape(
    world: Path, tmp_path: Path, method: str
) -> None:
    small = ["num_prototypes=64"] if method == "esvit" else []
    result = pretrain(
        method=method, model="test_vit" if method == "esvit" else "test_efficientnet",
        data=world / "photos", out=tmp_path / "run", image_size=32, epochs=1, batch_size=28,
        devices="cpu", settings=["student.width=48", "student.channels=1", *small],
    )  # fmt: skip
    assert shape_of(result.student) == (1, 32, 48)
    # A student goes on from its file in its own form.
    again = pretrain(
        method=method, model=str(result.student), data=world / "photos", out=tmp_path / "again",
        image_size=32, epochs=1, batch_size=28, devices="cpu", settings=small,
    )  # fmt: skip
    assert shape_of(again.student) == (1, 32, 48)


@pytest.mark.slow
def test_a_teacher_of_another_form_teaches_by_the_views_of_the_student(
    classifier: tuple[str, Path], world: Path, tmp_path: Path
) -> None:
    name, teacher = classifier
    form = FORMS[name]
    result = distill(
        method="regress", teacher=str(teacher), student="test_resnet", data=world / form.data,
        out=tmp_path / "run", image_size=32, epochs=1, batch_size=28, devices="cpu",
    )  # fmt: skip
    assert shape_of(result.student) == (3, 32, 32)


def test_a_fine_tuned_network_from_scratch_has_the_form_that_is_asked_for(
    world: Path, tmp_path: Path
) -> None:
    result = finetune(
        "test_efficientnet", data=world / "photos", out=tmp_path / "run", image_size=32, epochs=1,
        devices="cpu", settings=["student.channels=1", "student.width=40"],
    )  # fmt: skip
    assert shape_of(result.student) == (1, 32, 40)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["student.channels=2"], "channels"),
        (["student.width=4"], "width=4 must be from 8"),
        (["student.channels=4"], "no fourth channel"),
    ],
)
def test_a_form_that_cannot_be_is_refused_in_one_line(
    world: Path, tmp_path: Path, settings: list[str], message: str
) -> None:
    with pytest.raises(EdgeseedError, match=message) as caught:
        distill(
            method="regress", teacher=str(world / "teacher.safetensors"),
            student="test_efficientnet", data=world / "photos", out=tmp_path / "run",
            image_size=32, epochs=1, devices="cpu", settings=settings,
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_weights_of_others_keep_their_form(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"keeps its form: leave out .*width and channels"):
        pretrain(
            method="simclr", model=str(world / "teacher.safetensors"), data=world / "photos",
            out=tmp_path / "run", epochs=1, devices="cpu", settings=["student.channels=1"],
        )  # fmt: skip


def test_a_fourth_channel_is_no_transparency(world: Path) -> None:
    photos = open_photos(world / "four")
    raw = np.asarray(Image.open(world / "four/blue/0.png"))
    assert np.array_equal(np.asarray(photos.image(0, channels=4)), raw)
    preprocess = Preprocess(image_size=16, resize=18, **normalization(4))
    found = preprocess.pixels(photos.image(0, channels=4))
    colours = Preprocess(image_size=16, resize=18)
    assert found.shape == (4, 16, 16)
    assert np.array_equal(found[:3], colours.pixels(Image.fromarray(raw[..., :3])))


def test_a_student_of_one_channel_computes_what_timm_does(world: Path) -> None:
    network, architecture = create_student("test_resnet", seed=0, image_size=32, channels=1)
    assert architecture.kwargs == {"in_chans": 1}
    with torch.no_grad():
        assert network.eval()(torch.zeros(2, 1, 32, 32)).embedding.shape[0] == 2
    save_student(
        world / "one.safetensors",
        network,
        StudentSpec(
            architecture=architecture,
            preprocess=Preprocess(image_size=32, resize=32, **normalization(1)),
            embedding_dim=network.embedding_dim,
        ),
    )
    _, spec = load_student(world / "one.safetensors")
    assert spec.preprocess.to_dict()["color"] == "grey"
    assert "width" not in spec.preprocess.to_dict()
