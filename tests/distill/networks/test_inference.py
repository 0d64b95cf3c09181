"""A network over photos: what is broken is left out, counted and named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.distill import tiny_student

from edgeseed.core.errors import DataError
from edgeseed.core.photos import open_photos
from edgeseed.distill.networks.inference import embed, embed_prepared, prepare

MakePhotos = Callable[..., Path]


def test_a_broken_photo_is_left_out_counted_and_named(
    make_photos: MakePhotos, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_photos(24, classes=2)
    photos = open_photos(root, labels=True)
    broken = root / "class1" / "005.png"
    broken.write_bytes(broken.read_bytes()[:100])
    student = tiny_student()
    found = embed(student.network, photos, preprocess=student.preprocess, batch_size=7)
    assert (len(found.values), len(found.photos), found.num_broken) == (23, 23, 1)
    assert "1 photo left out" in (said := capsys.readouterr().err)
    assert "005.png" in said
    assert found.photos.labels is not None
    assert photos.labels is not None
    assert found.photos.labels.sum() == photos.labels.sum() - 1
    whole = embed(student.network, found.photos, preprocess=student.preprocess)
    torch.testing.assert_close(found.values, whole.values, atol=1e-5, rtol=1e-5)


def test_many_broken_photos_are_an_error_unless_any_will_do(make_photos: MakePhotos) -> None:
    root = make_photos(10)
    photos = open_photos(root)
    for name in ("001.png", "002.png"):
        (root / name).write_bytes(b"gone")
    student = tiny_student()
    with pytest.raises(DataError, match="2 of 10 photos cannot be read, more than 10%"):
        embed(student.network, photos, preprocess=student.preprocess)
    found = embed(student.network, photos, preprocess=student.preprocess, max_broken_share=1.0)
    assert len(found.values) == 8


def test_no_readable_photo_is_an_error_whatever_may_be_broken(make_photos: MakePhotos) -> None:
    root = make_photos(2)
    photos = open_photos(root)
    for path in root.iterdir():
        path.write_bytes(b"gone")
    student = tiny_student()
    with pytest.raises(DataError, match="no photo can be read"):
        embed(student.network, photos, preprocess=student.preprocess, max_broken_share=1.0)


def test_prepared_photos_give_the_same_embeddings(make_photos: MakePhotos) -> None:
    photos = open_photos(make_photos(12))
    student = tiny_student()
    expected = embed(student.network, photos, preprocess=student.preprocess)
    prepared = prepare(photos, student.preprocess)
    got = embed_prepared(student.network, prepared, preprocess=student.preprocess)
    assert torch.equal(got, expected.values)


def test_the_network_is_left_in_the_mode_it_was_in(make_photos: MakePhotos) -> None:
    photos = open_photos(make_photos(4))
    student = tiny_student().train()
    embed(student.network, photos, preprocess=student.preprocess)
    assert student.network.training
