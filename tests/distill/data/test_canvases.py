"""Photos on their way: order, canvases, workers, broken files, sets that are too small."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgeseed.core.errors import DataError
from edgeseed.core.photos import PhotoSet, open_photos
from edgeseed.distill.data.canvases import (
    CanvasBatch,
    MemoryCanvases,
    PhotoOrder,
    StreamedCanvases,
    canvas_side,
    fit_batch_size,
    make_canvas,
    native_side,
    open_canvases,
)
from edgeseed.distill.data.views import ViewPlan, center_crop, weak_crop

MakePhotos = Callable[..., Path]
CPU = torch.device("cpu")


def test_every_pass_shows_each_photo_at_most_once_and_drops_what_fills_no_batch() -> None:
    order = PhotoOrder(23, batch_size=5, seed=0)
    assert order.steps_per_epoch == 4
    passes = [np.concatenate([order.batch(4 * e + s) for s in range(4)]) for e in range(12)]
    assert all(len(set(one.tolist())) == 20 for one in passes)
    # Other photos are left out each time: none for good.
    assert len(set(np.concatenate(passes[:12]).tolist())) == 23
    assert not np.array_equal(passes[0], passes[1])


def test_order_is_a_function_of_seed_and_step() -> None:
    one, other = PhotoOrder(50, batch_size=8, seed=3), PhotoOrder(50, batch_size=8, seed=3)
    forwards = [one.batch(step) for step in range(20)]
    backwards = [other.batch(step) for step in reversed(range(20))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not np.array_equal(PhotoOrder(50, batch_size=8, seed=4).batch(0), forwards[0])


def test_replayed_passes_come_in_the_same_order() -> None:
    order = PhotoOrder(20, batch_size=4, seed=0, replay=2)
    assert [order.period(5 * epoch) for epoch in range(5)] == [0, 1, 0, 1, 0]
    assert np.array_equal(order.batch(3), order.batch(13))
    assert not np.array_equal(order.batch(3), order.batch(8))


def test_wanted_batch_beyond_the_set_is_an_error_that_names_one_that_fits() -> None:
    with pytest.raises(DataError, match="a batch of 64 needs at least 64 photos, and there are 40"):
        fit_batch_size(64, usual=256, num_samples=40, num_devices=1)
    with pytest.raises(DataError, match="--batch-size 32"):
        fit_batch_size(64, usual=256, num_samples=40, num_devices=1)


def test_usual_batch_is_halved_to_a_small_set_and_it_is_said(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert fit_batch_size(None, usual=256, num_samples=100, num_devices=1) == 64
    assert "batch of 64 photos instead of 256" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 0])
def test_a_single_photo_is_too_few(count: int) -> None:
    with pytest.raises(DataError, match="too few to train on"):
        fit_batch_size(None, usual=256, num_samples=count, num_devices=1)


def test_batch_that_does_not_divide_over_the_devices_is_an_error() -> None:
    with pytest.raises(DataError, match=r"does not divide over 3 devices.*--batch-size 63"):
        fit_batch_size(64, usual=256, num_samples=1000, num_devices=3)


def test_canvas_is_the_whole_photo_stretched() -> None:
    photo = Image.fromarray(np.dstack([np.tile(np.arange(60, dtype=np.uint8), (30, 1))] * 3))
    canvas = make_canvas(photo, 30)
    assert canvas.shape == (3, 30, 30)
    assert canvas[0, 0, 0] <= 2
    assert canvas[0, 0, -1] >= 57


def test_canvas_side_follows_the_views_but_not_beyond_the_photos(make_photos: MakePhotos) -> None:
    photos = open_photos(make_photos(4, size=(36, 32)))
    # Nine of ten crops have at least 0.28 of the area: 16 pixels of a view are 16 of a side of 30.
    assert canvas_side(photos, ViewPlan(crops=(weak_crop(16), weak_crop(8)))) == 30
    assert canvas_side(photos, ViewPlan(crops=(center_crop(16),))) == 20
    assert canvas_side(photos, ViewPlan(crops=(weak_crop(16, min_scale=0.9),))) == 20
    assert canvas_side(photos, ViewPlan(crops=(weak_crop(224),))) == 36
    assert native_side(photos) == 32


def all_batches(photos: PhotoSet, *, workers: int | None, side: int = 20) -> list[CanvasBatch]:
    source = (
        MemoryCanvases.decode(photos, side=side, device=CPU)
        if workers is None
        else StreamedCanvases(photos, side=side, device=CPU, workers=workers)
    )
    order = PhotoOrder(len(source.photos), batch_size=4, seed=0)
    return list(source.batches(order, start=0, stop=5))


# From Python 3.12 on a warning at every fork of a process with threads; torch's loader forks.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 2])
def test_photos_are_the_same_from_memory_and_from_workers(
    make_photos: MakePhotos, workers: int
) -> None:
    photos = open_photos(make_photos(10))
    for kept, streamed in zip(
        all_batches(photos, workers=None), all_batches(photos, workers=workers), strict=True
    ):
        assert torch.equal(kept.canvases, streamed.canvases)
        assert np.array_equal(kept.shapes, streamed.shapes)
        assert np.array_equal(kept.indices, streamed.indices)
        assert kept.shapes.tolist() == [[36, 32]] * 4


def spoil(root: Path, count: int) -> None:
    """Cuts files off after they were looked through: only decoding finds it."""
    for path in sorted(root.rglob("*.png"))[:count]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_broken_photos_are_left_out_and_named(
    make_photos: MakePhotos, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_photos(30, classes=2)
    photos = open_photos(root)
    spoil(root, 2)
    source = MemoryCanvases.decode(photos, side=20, device=CPU)
    assert len(source.photos) == 28
    assert source.photos.labels is not None
    assert len(source.photos.labels) == 28
    message = capsys.readouterr().err
    assert "2 photos skipped" in message
    assert "000.png" in message


def test_more_than_a_tenth_broken_is_an_error(make_photos: MakePhotos) -> None:
    root = make_photos(20)
    photos = open_photos(root)
    spoil(root, 3)
    with pytest.raises(DataError, match="3 of 20 photos cannot be read, more than 10%"):
        MemoryCanvases.decode(photos, side=20, device=CPU)


def test_worker_takes_the_next_photo_for_a_broken_one_and_names_it(
    make_photos: MakePhotos, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_photos(20)
    photos = open_photos(root)
    spoil(root, 1)
    batches = all_batches(photos, workers=0)
    seen = np.concatenate([batch.indices for batch in batches])
    assert 0 not in seen
    assert np.count_nonzero(seen == 1) == 2
    message = capsys.readouterr().err
    assert "1 photo skipped" in message
    assert "000.png" in message


def test_workers_stop_once_more_than_a_tenth_is_broken(make_photos: MakePhotos) -> None:
    # Streaming is the mode of every large set, and went on with any number of broken photos.
    root = make_photos(20)
    photos = open_photos(root)
    for index in (2, 9, 15):
        path = sorted(root.rglob("*.png"))[index]
        path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="3 of the first 20 photos cannot be read, more than 10%"):
        all_batches(photos, workers=0)


def test_photos_are_kept_in_memory_where_they_fit(make_photos: MakePhotos) -> None:
    photos = open_photos(make_photos(4))
    options: dict[str, Any] = {"side": 20, "device": CPU, "workers": 0}
    assert isinstance(open_canvases(photos, cache="auto", **options), MemoryCanvases)
    assert isinstance(open_canvases(photos, cache="off", **options), StreamedCanvases)


def test_photos_that_do_not_fit_are_streamed(
    make_photos: MakePhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = open_photos(make_photos(4))
    monkeypatch.setattr("edgeseed.distill.data.canvases.memory_gib", lambda: 1e-6)
    options: dict[str, Any] = {"side": 20, "device": CPU, "workers": 0}
    assert isinstance(open_canvases(photos, cache="auto", **options), StreamedCanvases)
    assert isinstance(open_canvases(photos, cache="memory", **options), MemoryCanvases)


def test_canvases_of_large_jpegs_are_drafted_and_keep_proportions_and_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Decoding 12 megapixels for a view of 224 took four times as long as was needed.
    y, x = np.mgrid[:600, :1200]
    pixels = np.stack([x // 5, y // 3, (x + y) % 200], axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", quality=95)
    photos = open_photos(tmp_path)
    sides: list[int] = []
    draft = photos.source.draft

    def note(_: object, index: int, side: int, channels: int) -> Any:
        sides.append(side)
        return draft(index, side, channels)

    monkeypatch.setattr(type(photos.source), "draft", note)
    source = MemoryCanvases.decode(photos, side=40, device=CPU)
    assert sides == [80]
    assert source._shapes.tolist() == [[1200, 600]]
    whole = make_canvas(photos.image(0), 40).astype(int)
    assert np.abs(source._canvases[0].numpy().astype(int) - whole).mean() < 2
