"""Photos that are fine, and each way in which they may not be, as the float student sees them."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from support.export import tinted_photo, tiny_preprocess, tiny_student

from edgeseed.core.bundle import read_bundle
from edgeseed.core.errors import DataError
from edgeseed.core.network import StudentNetwork
from edgeseed.export import export
from edgeseed.export.photo_statistics import check_photos, doubts, measure_photos, reason_to_refuse
from edgeseed.export.samples import Photos

Pixels = npt.NDArray[np.uint8]


def said(pixels: Pixels, network: StudentNetwork) -> str:
    found = measure_photos(Photos(pixels=pixels), network, tiny_preprocess())
    return " | ".join(doubts(found))


def test_photos_like_the_students_own_raise_no_doubt(
    network: StudentNetwork, pixels: Pixels, capsys: pytest.CaptureFixture[str]
) -> None:
    record = check_photos(Photos(pixels=pixels), network, tiny_preprocess())
    assert record["warnings"] == []
    assert record["distinct"] == record["n"] == len(pixels)
    assert record["shift"] < 0.4
    assert record["shift_of"] == "batch norms"
    assert capsys.readouterr().err == ""


def test_copies_are_counted_even_after_another_compression(
    network: StudentNetwork, pixels: Pixels
) -> None:
    again = np.clip(pixels.astype(np.int16) + 1, 0, 255).astype(np.uint8)
    twice = np.concatenate([pixels, pixels, again])
    found = measure_photos(Photos(pixels=twice), network, tiny_preprocess())
    assert found.distinct == len(pixels)
    assert "differ from one another" in said(twice, network)


def test_all_alike_is_hopeless(network: StudentNetwork, pixels: Pixels) -> None:
    same = np.repeat(pixels[:1], 40, axis=0)
    with pytest.raises(DataError, match=r"only 1 of 40 differ from one another.*at least 16"):
        check_photos(Photos(pixels=same), network, tiny_preprocess())


def test_black_frames_are_hopeless_and_some_are_a_doubt(
    network: StudentNetwork, pixels: Pixels
) -> None:
    black = np.zeros_like(pixels)
    found = measure_photos(Photos(pixels=black), network, tiny_preprocess())
    assert "100% of 40 are all but one colour" in (reason_to_refuse(found) or "")
    some = np.concatenate([pixels, black[:10]])
    assert "20% of 50 are all but one colour" in said(some, network)


def test_one_class_only_is_a_doubt(network: StudentNetwork) -> None:
    red = np.stack([tiny_preprocess().pixels(tinted_photo("red", s)) for s in range(300, 340)])
    assert "sees the same class in" in said(red, network)


def test_alike_to_a_student_without_a_head_is_a_doubt(pixels: Pixels) -> None:
    headless = tiny_student(head=False)
    found = measure_photos(Photos(pixels=np.repeat(pixels[:1], 20, 0)), headless, tiny_preprocess())
    assert found.same_class is None
    assert found.cosine == pytest.approx(1, abs=1e-5)
    assert any("all look alike to the float student" in line for line in doubts(found))
    varied = measure_photos(Photos(pixels=pixels), headless, tiny_preprocess())
    assert varied.cosine < 0.98


@pytest.mark.parametrize(
    ("spoil", "clue"),
    [
        (lambda p: (p * 0.1).astype(np.uint8), "they are very dark"),
        (lambda p: (p * 0.1 + 115).astype(np.uint8), "they have little contrast"),
        (lambda p: np.random.default_rng(0).integers(0, 256, p.shape).astype(np.uint8), ""),
    ],
)
def test_photos_of_another_kind_are_a_doubt_with_a_clue(
    network: StudentNetwork, pixels: Pixels, spoil: object, clue: str
) -> None:
    line = said(spoil(pixels), network)  # type: ignore[operator]  # a lambda of the table
    assert "not like those that the student learnt from" in line
    assert clue in line


def test_photos_that_were_blown_up_are_the_clue(network: StudentNetwork, pixels: Pixels) -> None:
    noise = np.random.default_rng(0).integers(0, 256, pixels.shape).astype(np.uint8)
    photos = Photos(pixels=noise, sides=np.full(len(noise), 9))
    found = measure_photos(photos, network, tiny_preprocess())
    assert "100% are blown up from less than half the size" in doubts(found)[-1]


def test_grey_photos_mute_the_filters_for_colour() -> None:
    """A student whose first filters are half for light and half for colour, of colour photos."""
    student = tiny_student(head=False)
    conv = student.backbone.get_parameter("conv_stem.weight")
    with torch.no_grad():
        centre = conv.new_zeros(conv.shape)
        centre[0::2, :, 1, 1] = 1.0
        centre[1::2, 0, 1, 1], centre[1::2, 1, 1, 1] = 1.0, -0.979  # equal steps of pixel values
        conv.copy_(centre)
    colours = np.stack(
        [tiny_preprocess().pixels(tinted_photo(k, s)) for k in ("red", "blue") for s in range(20)]
    )
    norm = student.backbone.get_submodule("bn1")
    assert isinstance(norm, torch.nn.BatchNorm2d)
    norm.reset_running_stats()
    norm.momentum = None
    norm.train()
    with torch.no_grad():
        student(torch.from_numpy(tiny_preprocess().normalize(colours)))
    norm.eval()
    grey = np.repeat(colours.mean(axis=1, keepdims=True), 3, axis=1).astype(np.uint8)
    found = measure_photos(Photos(pixels=grey), student, tiny_preprocess())
    assert found.muted == 0.5
    assert any("100% of them are grey" in line for line in doubts(found))


def test_the_statistics_are_in_the_manifest_and_bad_photos_stop_before_any_work(
    made_int8: Path, student: Path, tmp_path: Path
) -> None:
    statistics = read_bundle(made_int8).manifest.provenance.photos.statistics
    assert statistics is not None
    assert statistics["warnings"] == []
    assert statistics["n"] == 32
    (tmp_path / "same").mkdir()
    for number in range(40):
        Image.new("RGB", (40, 40), (90, 120, number)).save(tmp_path / "same" / f"{number}.png")
    with pytest.raises(DataError, match="all but one colour"):
        export(student, precision="int8", calibration=tmp_path / "same", out=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
