"""Photos on their way to the device: decoded once if they fit into memory, by workers if not.

What travels is a canvas (see `views`): nothing random happens before the views are made, so neither
the number of workers nor where photos are kept changes a result.

Batches are whole: the last photos of a pass that do not fill a batch are left out. Which ones these
are is drawn anew each pass, so none is left out for good.
"""

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from edgeseed.core.console import count_of, note, progress, warn
from edgeseed.core.environment import memory_gib, usable_cores
from edgeseed.core.errors import DataError
from edgeseed.core.photos import MAX_BROKEN_SHARE, PhotoSet
from edgeseed.core.photos.accounting import reasons_in_words
from edgeseed.distill import distributed
from edgeseed.distill.data.views import Crop, ViewPlan, uniforms
from edgeseed.distill.training.device import send

Indices = npt.NDArray[np.int64]
Cache = Literal["auto", "memory", "off"]

_CANVAS_MARGIN = 1.25
"""Least canvas side over view side: photos are stretched to a square, which costs detail."""
_ENLARGED_CROPS = 0.1
"""Share of the crops that are enlarged, for want of pixels on the canvas. With none, views take
twice as long as with a margin of 1.25 alone (224 px from 512 and 280: 1.7 to 2.0), with a tenth 1.4
to 1.6 times, and small crops keep four fifths of the photo's detail, in place of two thirds.
`benchmarks/canvas.py`."""
_PROBED = 16
_MEMORY_SHARE = 0.25
_PREFETCH = 4
_JUDGED_FROM = 100
"""Photos that must have been seen before the share of broken ones among them is judged."""
_DRAFT_MARGIN = 2
"""Least side of a draft over the canvas side: with 1, half the canvas is the JPEG decoder's own
reduction, and differs from a resize by three times as much (0.9 of 255, with 2 by 0.3)."""


@dataclass(frozen=True, slots=True)
class CanvasBatch:
    """Photos of one step on this rank.

    Attributes:
        canvases: (B, C, S, S) uint8, of 3 channels or 4.
        shapes: (B, 2) width and height of each photo, in pixels.
        indices: (B,) which photos these are.
    """

    canvases: Tensor
    shapes: Indices
    indices: Indices


class PhotoOrder:
    """Which photos each step sees: a function of the seed and the step, so it resumes anywhere.

    Args:
        num_samples: Photos of the set.
        batch_size: Photos a step, over all ranks.
        seed: Of the run.
        replay: After how many passes the same order comes again; 0 never.
    """

    def __init__(self, num_samples: int, *, batch_size: int, seed: int, replay: int = 0) -> None:
        assert num_samples >= batch_size
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.steps_per_epoch = num_samples // batch_size
        self._seed = seed
        self._replay = replay
        self._known: tuple[int, Indices] = (-1, np.empty(0, np.int64))

    def period(self, step: int) -> int:
        """Which pass over the photos a step belongs to; with a replay, passes repeat."""
        epoch = step // self.steps_per_epoch
        return epoch % self._replay if self._replay else epoch

    def batch(self, step: int) -> Indices:
        """(batch_size,) photos of one step, of all ranks together."""
        start = step % self.steps_per_epoch * self.batch_size
        return self._permutation(self.period(step))[start : start + self.batch_size]

    def local_batch(self, step: int) -> Indices:
        """This rank's part of `batch`."""
        return np.split(self.batch(step), distributed.world_size())[distributed.rank()]

    def _permutation(self, period: int) -> Indices:
        if self._known[0] != period:
            keys = uniforms(self._seed, period, np.arange(self.num_samples), count=1)[:, 0]
            self._known = (period, np.argsort(keys, kind="stable"))
        return self._known[1]


def fit_batch_size(wanted: int | None, *, usual: int, num_samples: int, num_devices: int) -> int:
    """The global batch: what was asked for, or the usual one, halved until the photos fill it.

    Args:
        wanted: As the user set it; None lets this function choose.
        usual: The recipe's.
        num_samples: Photos of the set.
        num_devices: Ranks that share it.

    Raises:
        DataError: If there are too few photos.
    """
    if wanted is not None and wanted > num_samples:
        raise DataError(
            f"a batch of {wanted} needs at least {wanted} photos, and there are {num_samples}; "
            f"use --batch-size {2 ** (num_samples.bit_length() - 1)} or give more photos"
        )
    size = wanted or usual
    while size > num_samples:
        size //= 2
    smallest = 2 * num_devices
    if size < smallest <= num_samples:
        raise DataError(
            f"a batch of {size} is too small: at least {smallest} photos are needed, two for each "
            f"device; use --batch-size {smallest} or more"
        )
    if size < smallest:
        raise DataError(
            f"{num_samples} photos and a batch of {size} are too few to train on: at least "
            f"{smallest} are needed, a few hundred make sense; give more photos"
        )
    if size % num_devices:
        raise DataError(
            f"a batch of {size} does not divide over {num_devices} devices; "
            f"use --batch-size {size // num_devices * num_devices}"
        )
    if size < usual and wanted is None:
        note(f"batch of {size} photos instead of {usual}: there are {num_samples} photos")
    return size


# --------------------------------------------------------------------------- canvases


def canvas_side(photos: PhotoSet, plan: ViewPlan) -> int:
    """Side of the canvases: enough for all but the smallest crops, no more than the photos have.

    Raises:
        DataError: If none of the photos that are looked at can be read.
    """
    enough = max(round(_enough(crop)) for crop in plan.crops)
    sides = [max(image.size) for image in _probe(photos)]
    return max(8, min(enough, max(sides)))


def _enough(crop: Crop) -> float:
    """Side of a canvas of which a small crop still has as many pixels as its view."""
    least, most = crop.scale
    area = least + _ENLARGED_CROPS * (most - least)
    return max(crop.shape) * max(_CANVAS_MARGIN, 1 / math.sqrt(area))


def native_side(photos: PhotoSet) -> int:
    """The median of the photos' shorter sides, in pixels.

    Raises:
        DataError: If none of the photos that are looked at can be read.
    """
    return int(np.median([min(image.size) for image in _probe(photos)]))


def _probe(photos: PhotoSet) -> list[Image.Image]:
    found = []
    for index in np.linspace(0, len(photos) - 1, min(_PROBED, len(photos))).astype(int):
        try:
            found.append(photos.image(int(index)))
        except DataError:
            continue
    if not found:
        raise DataError(f"{photos.name}: none of the photos that were looked at can be read")
    return found


def make_canvas(photo: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    """Stretches a photo to (3, side, side), or to (4, side, side) with its fourth channel."""
    if photo.mode == "RGBA":
        # Each for itself: Pillow would weigh colours by alpha, and this is no alpha.
        *colours, fourth = photo.split()
        parts = [make_canvas(Image.merge("RGB", colours), side), _stretched(fourth, side)[None]]
        return np.concatenate(parts)
    return _stretched(photo, side).transpose(2, 0, 1)


def _stretched(photo: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    if photo.size != (side, side):
        photo = photo.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(photo, dtype=np.uint8)


class CanvasSource(Protocol):
    """Gives the batches of a range of steps."""

    photos: PhotoSet
    """The photos that can be read; what indices refer to."""

    def batches(self, order: PhotoOrder, *, start: int, stop: int) -> Iterator[CanvasBatch]:
        """This rank's batches of steps `start` to `stop`."""
        ...


def open_canvases(
    photos: PhotoSet,
    *,
    side: int,
    cache: Cache,
    device: torch.device,
    workers: int | None,
    channels: int = 3,
) -> CanvasSource:
    """Keeps all canvases in memory if they fit, else has workers make them.

    Args:
        photos: The photos.
        side: Of the canvases.
        cache: Whether to keep them; `auto` does if they take less than a quarter of the memory.
        device: Where views are made; canvases are kept there if it has room for them.
        workers: Processes that decode; None takes the cores that this rank may use.
        channels: 3, or 4 for photos with a channel beside the colours.

    Raises:
        DataError: If more than a tenth of the photos cannot be read.
    """
    size_bytes = len(photos) * channels * side * side
    budget = (memory_gib() or 4.0) * 2**30 * _MEMORY_SHARE / _local_ranks()
    if cache == "memory" or (cache == "auto" and size_bytes <= budget):
        return MemoryCanvases.decode(photos, side=side, device=device, channels=channels)
    return StreamedCanvases(photos, side=side, device=device, workers=workers, channels=channels)


def _local_ranks() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class MemoryCanvases:
    """All canvases in one tensor: a batch is one gather.

    Args:
        photos: The photos.
        canvases: (N, C, S, S) uint8.
        shapes: (N, 2) width and height of each photo.
    """

    def __init__(self, photos: PhotoSet, canvases: Tensor, shapes: Indices) -> None:
        self.photos = photos
        self._canvases = canvases
        self._shapes = shapes

    @classmethod
    def decode(
        cls, photos: PhotoSet, *, side: int, device: torch.device, channels: int = 3
    ) -> "MemoryCanvases":
        """Decodes all photos once.

        Raises:
            DataError: If more than a tenth of them cannot be read.
        """
        canvases = torch.empty((len(photos), channels, side, side), dtype=torch.uint8)
        shapes = np.ones((len(photos), 2), np.int64)
        target = canvases.numpy()
        reasons: list[str] = []

        def read(index: int) -> bool:
            try:
                photo = photos.draft(index, _DRAFT_MARGIN * side, channels=channels)
            except DataError as error:
                reasons.append(str(error))
                return False
            shapes[index] = photo.size
            target[index] = make_canvas(photo.image, side)
            return True

        with ThreadPoolExecutor(usable_cores()) as pool, progress("reading", len(photos)) as bar:
            good = []
            for readable in pool.map(read, range(len(photos))):
                good.append(readable)
                bar.advance()
        if reasons:
            _judge_broken(photos, reasons)
            kept = np.flatnonzero(good)
            photos, canvases, shapes = photos.subset(kept), canvases[kept], shapes[kept]
        return cls(photos, _near(canvases, device), shapes)

    def batches(self, order: PhotoOrder, *, start: int, stop: int) -> Iterator[CanvasBatch]:
        """This rank's batches of steps `start` to `stop`."""
        for step in range(start, stop):
            indices = order.local_batch(step)
            chosen = send(indices, self._canvases.device)
            yield CanvasBatch(self._canvases[chosen], self._shapes[indices], indices)


def _judge_broken(photos: PhotoSet, reasons: list[str]) -> None:
    listing = reasons_in_words(reasons)
    if len(reasons) > MAX_BROKEN_SHARE * len(photos):
        raise DataError(
            f"{photos.name}: {len(reasons)} of {len(photos)} photos cannot be read, more than "
            f"{MAX_BROKEN_SHARE:.0%}: {listing}"
        )
    warn(f"{photos.name}: {count_of(len(reasons), 'photo')} skipped: {listing}")


def _near(canvases: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if canvases.numel() < free * _MEMORY_SHARE:
            return canvases.to(device)
    return canvases


class StreamedCanvases:
    """Canvases made by worker processes, in the order of the steps.

    A photo that turns out to be broken gives its place to the next one that can be read. Each is
    counted once, named at the end of the run, and an error as soon as more than a tenth of the
    photos that were seen is broken.

    Args:
        photos: The photos.
        side: Of the canvases.
        device: Where they go; memory is pinned for a GPU.
        workers: Processes; None takes the cores that this rank may use.
        channels: 3, or 4 for photos with a channel beside the colours.
    """

    def __init__(
        self,
        photos: PhotoSet,
        *,
        side: int,
        device: torch.device,
        workers: int | None,
        channels: int = 3,
    ) -> None:
        self.photos = photos
        self._side = side
        self._channels = channels
        self._device = device
        self._workers = max(1, usable_cores() // _local_ranks()) if workers is None else workers
        self._broken: dict[int, str] = {}
        self._seen = np.zeros(len(photos), dtype=np.bool_)

    def batches(self, order: PhotoOrder, *, start: int, stop: int) -> Iterator[CanvasBatch]:
        """This rank's batches of steps `start` to `stop`.

        Raises:
            DataError: If more than a tenth of the photos cannot be read.
        """
        loader = DataLoader(
            _Canvases(self.photos, self._side, self._channels),
            batch_sampler=_Steps(order, start, stop),
            num_workers=self._workers,
            prefetch_factor=_PREFETCH if self._workers else None,
            pin_memory=self._device.type == "cuda",
            collate_fn=_collate,
        )
        known = len(self._broken)
        for canvases, shapes, indices, broken in loader:
            self._seen[indices.numpy()] = True
            if broken:
                self._broken |= broken
                self._seen[list(broken)] = True
                self._check_share()
            yield CanvasBatch(canvases, shapes.numpy(), indices.numpy())
        if len(self._broken) > known:
            _judge_broken(self.photos, list(self._broken.values()))

    def _check_share(self) -> None:
        # Of the first few photos, two broken ones say nothing of the rest.
        num_seen = max(int(self._seen.sum()), min(len(self._seen), _JUDGED_FROM))
        if len(self._broken) > MAX_BROKEN_SHARE * num_seen:
            listing = "; ".join(list(self._broken.values())[:3])
            raise DataError(
                f"{self.photos.name}: {len(self._broken)} of the first {num_seen} photos cannot be "
                f"read, more than {MAX_BROKEN_SHARE:.0%}: {listing}; replace or remove them"
            )


class _Steps(Sampler[list[int]]):
    """The photos of each step, for a loader that runs through without a stop between passes."""

    def __init__(self, order: PhotoOrder, start: int, stop: int) -> None:
        self._order, self._start, self._stop = order, start, stop

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self._start, self._stop):
            yield self._order.local_batch(step).tolist()

    def __len__(self) -> int:
        return self._stop - self._start


_Item = tuple[npt.NDArray[np.uint8], tuple[int, int], int, dict[int, str]]


class _Canvases(Dataset[_Item]):
    """Canvas, shape, index, and why photos before it could not be read, by their index."""

    def __init__(self, photos: PhotoSet, side: int, channels: int) -> None:
        self._photos, self._side, self._channels = photos, side, channels

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> _Item:
        count = len(self._photos)
        tries = max(2, int(count * MAX_BROKEN_SHARE))
        broken: dict[int, str] = {}
        for offset in range(tries):
            place = (index + offset) % count
            try:
                photo = self._photos.draft(
                    place, _DRAFT_MARGIN * self._side, channels=self._channels
                )
            except DataError as error:
                broken[place] = str(error)
                continue
            return make_canvas(photo.image, self._side), photo.size, place, broken
        last = next(reversed(broken.values()))
        raise DataError(f"{tries} photos in a row cannot be read; the last one: {last}")


def _collate(items: list[_Item]) -> tuple[Tensor, Tensor, Tensor, dict[int, str]]:
    canvases, shapes, indices, broken = zip(*items, strict=True)
    return (
        torch.from_numpy(np.stack(canvases)),
        torch.tensor(shapes, dtype=torch.int64),
        torch.tensor(indices, dtype=torch.int64),
        {place: reason for one in broken for place, reason in one.items()},
    )
