from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import WorkError
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.reading import read_record
from edgeseed.runtime.accuracy import (
    Accuracy,
    EvaluationPhotos,
    Share,
    float_outputs,
    gather_photos,
    score,
)

Floats = NDArray[np.float32]


def photos(n: int, labels: list[int] | None = None) -> EvaluationPhotos:
    return EvaluationPhotos(
        pixels=np.zeros((n, 3, 2, 2), np.uint8),
        labels=None if labels is None else np.array(labels, np.int64),
        source="here",
        fingerprint="f" * 64,
    )


def outputs(seed: int, n: int = 50, classes: int | None = 4) -> dict[str, Floats]:
    rng = np.random.default_rng(seed)
    made = {"embedding": rng.normal(size=(n, 8)).astype(np.float32)}
    if classes is not None:
        made["logits"] = rng.normal(size=(n, classes)).astype(np.float32)
    return made


def test_a_share_has_wilsons_interval() -> None:
    # Wilson's interval of 45 of 50, as in Newcombe 1998's worked form: 0.786 to 0.957.
    share = Share.of(np.arange(50) < 45)

    assert share.value == 0.9
    assert share.low == pytest.approx(0.7864, abs=1e-4)
    assert share.high == pytest.approx(0.9565, abs=1e-4)


def test_a_share_of_all_is_still_not_certain() -> None:
    share = Share.of(np.ones(20, bool))

    assert (share.value, share.high) == (1, 1)
    assert share.low < 0.9


def test_equal_outputs_agree_everywhere() -> None:
    found = score(outputs(0), photos(50), outputs(0))

    assert found.agreement is not None
    assert found.agreement.value == 1
    assert found.cosine == pytest.approx(1)
    assert found.agreement_of == "top1"


def test_agreement_counts_photos_with_the_same_top_class() -> None:
    device, student = outputs(0), outputs(0)
    device["logits"][:10] = np.roll(device["logits"][:10], 1, axis=1)

    found = score(device, photos(50), student)

    assert found.agreement is not None
    assert found.agreement.value == 0.8


def test_without_a_head_agreement_is_finding_ones_own_photo() -> None:
    device, student = outputs(0, classes=None), outputs(0, classes=None)
    device["embedding"] = device["embedding"] + 0.01
    device["embedding"][[3, 4]] = device["embedding"][[4, 3]]

    found = score(device, photos(50), student)

    assert found.agreement is not None
    assert found.agreement_of == "self-retrieval"
    assert found.agreement.value == 0.96
    assert "no top-1: the model has no head" in found.note


def test_a_photo_that_is_there_twice_agrees_with_its_twin() -> None:
    student = outputs(0, classes=None)
    student["embedding"][1] = student["embedding"][0]

    found = score(student, photos(50), student)

    assert found.agreement is not None
    assert found.agreement.value == 1


def test_top1_is_of_the_labels() -> None:
    device = outputs(0)
    labels = device["logits"].argmax(axis=1)
    wrong = np.where(np.arange(50) < 5, (labels + 1) % 4, labels)

    found = score(device, photos(50, wrong.tolist()), device)

    assert found.top1 is not None
    assert found.top1.value == 0.9
    assert found.float_top1 == found.top1
    assert found.note == ""


def test_what_is_missing_is_said() -> None:
    found = score(outputs(0), photos(50), None)

    assert (found.top1, found.agreement, found.cosine) == (None, None, None)
    assert "no top-1: the photos have no labels" in found.note
    assert "no agreement: the bundle has no reference/student.safetensors" in found.note


def test_outputs_that_are_no_numbers_are_an_error() -> None:
    device = outputs(0)
    device["embedding"][7, 3] = np.nan

    with pytest.raises(WorkError, match="embedding has NaN"):
        score(device, photos(50), None)


def test_accuracy_survives_json() -> None:
    found = score(outputs(0), photos(50, [0] * 50), outputs(1))

    assert read_record(Accuracy, found.to_dict(), what="it") == found


def test_the_bundles_own_photos_are_the_default(bundle: Bundle) -> None:
    found = gather_photos(bundle, None, seed=0)

    assert found is not None
    assert found.pixels.shape == (12, 3, 16, 16)
    assert found.labels is not None
    assert found.source == "the bundle's held-out photos"


def test_without_a_head_the_held_out_labels_say_nothing(make_bundle: Any) -> None:
    found = gather_photos(make_bundle(classes=None), None, seed=0)

    assert found is not None
    assert found.labels is None


def tree(root: Path, classes: tuple[str, ...]) -> Path:
    for shade, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for index in range(3):
            image = Image.new("RGB", (20, 30), (40 * shade, 10 * index, 0))
            image.save(root / name / f"{index}.png")
    return root


def test_labels_are_matched_by_class_name_and_not_by_order(bundle: Bundle, tmp_path: Path) -> None:
    # The bundle's classes are cat, dog, owl; the folder has two of them.
    found = gather_photos(bundle, tree(tmp_path / "photos", ("dog", "owl")), seed=0)

    assert found is not None
    assert found.labels is not None
    assert found.labels.tolist() == [1, 1, 1, 2, 2, 2]
    assert found.pixels.shape == (6, 3, 16, 16)
    assert found.fingerprint is not None


def test_labels_of_other_classes_are_not_used_and_that_is_said(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = gather_photos(bundle, tree(tmp_path / "photos", ("cat", "zebra")), seed=0)

    assert found is not None
    assert found.labels is None
    assert "'zebra' is none of the model's" in " ".join(capsys.readouterr().err.split())


def test_a_large_set_is_drawn_from_with_the_seed(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeseed.runtime.accuracy.MAX_PHOTOS", 4)
    root = tree(tmp_path / "photos", ("cat", "dog", "owl"))

    drawn = [gather_photos(bundle, root, seed=seed) for seed in (0, 0, 1)]

    first, again, other = (found.pixels.tobytes() for found in drawn if found is not None)
    assert first == again
    assert first != other


def test_the_float_student_in_the_bundle_is_asked_on_the_host(
    make_bundle: Any, tmp_path: Path
) -> None:
    import torch

    from edgeseed.core.bundle import read_bundle, seal_bundle
    from edgeseed.core.network import build_student, save_student
    from edgeseed.core.student import Architecture, StudentSpec

    bundle = make_bundle()
    assert float_outputs(bundle, np.zeros((1, 3, 32, 32), np.uint8)) is None
    network = build_student(Architecture(name="test_efficientnet"), num_classes=3).eval()
    preprocess = Preprocess(image_size=32, resize=32)
    spec = StudentSpec(
        architecture=Architecture(name="test_efficientnet"),
        preprocess=preprocess,
        embedding_dim=network.embedding_dim,
        classes=("cat", "dog", "owl"),
    )
    save_student(bundle.path / "reference" / "student.safetensors", network, spec)
    seal_bundle(bundle.path, bundle.manifest)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 3, 32, 32), dtype=np.uint8)

    found = float_outputs(read_bundle(bundle.path), pixels)

    assert found is not None
    with torch.inference_mode():
        expected = network(torch.from_numpy(preprocess.normalize(pixels[64:])))
    np.testing.assert_allclose(found["embedding"][64:], expected.embedding, rtol=1e-4, atol=1e-5)
    assert found["logits"].shape == (70, 3)
