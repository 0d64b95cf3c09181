"""`PhotoSet`: photos by index, with labels where there are any, wherever they lie."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseed.core.errors import DataError
from edgeseed.core.names import check_class_names
from edgeseed.core.photos.accounting import Skipped
from edgeseed.core.photos.decoding import Draft
from edgeseed.core.photos.overlap import Mark, hash_photos


class PhotoSource(Protocol):
    """Where a set's photos lie: anything that gives the i-th as an image and survives pickling."""

    def image(self, index: int, channels: int = 3) -> Image.Image:
        """The photo, upright, 8-bit RGB, or RGBA for 4 channels; see `decode`."""
        ...

    def draft(self, index: int, side: int, channels: int = 3) -> Draft:
        """As `image`, but a JPEG may come smaller."""
        ...

    def mark(self, index: int) -> Mark:
        """What tells copies of the photo."""
        ...


@dataclasses.dataclass(frozen=True)
class PhotoSet:
    """Photos by index, with labels where there are any. Picklable, for loader workers."""

    name: str
    source: PhotoSource
    indices: npt.NDArray[np.int64]
    """Which of the source's photos are in the set, in order."""
    fingerprint: str
    """Digest of what the set holds: equal sets have equal fingerprints on every machine."""
    labels: npt.NDArray[np.int64] | None = None
    """(N,) class indices."""
    classes: tuple[str, ...] | None = None
    skipped: tuple[Skipped, ...] = ()
    """What looks like photos and is not used."""
    num_sidecars: int = 0
    """Files that lie beside photos by custom, such as .json and .txt, and are passed over."""
    whole: str = ""
    """Fingerprint of the set that this is a part of; none where it is all of it."""
    open_test: "Callable[[], PhotoSet] | None" = None
    """Opens the set's own test split, where it has one."""

    def __post_init__(self) -> None:
        if self.classes is not None:
            check_class_names(self.classes, source=self.name)

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int, *, channels: int = 3) -> Image.Image:
        """The photo at `index`, upright, 8-bit RGB; RGBA where a network has 4 `channels`.

        Raises:
            DataError: If the file went away, is broken or has no fourth channel; it is named.
        """
        return self.source.image(int(self.indices[index]), channels)

    def draft(self, index: int, side: int, *, channels: int = 3) -> Draft:
        """As `image`, for views that are random anyway: a JPEG may come smaller, and sooner.

        The decoder leaves out the fine frequencies, which is not bit for bit what a resize of the
        whole photo gives; so it is for training alone, never for evaluation, calibration or export.

        Args:
            index: Which photo.
            side: In pixels; neither width nor height will be less, unless they are anyway.
            channels: As for `image`.

        Raises:
            DataError: If the file went away or is broken; the message names it.
        """
        return self.source.draft(int(self.indices[index]), side, channels)

    def mark(self, index: int) -> Mark:
        """What tells copies of the photo at `index`, without decoding it.

        Raises:
            DataError: If the file went away.
        """
        return self.source.mark(int(self.indices[index]))

    def subset(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> "PhotoSet":
        """The photos at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        digest = hashlib.sha256(self.fingerprint.encode() + chosen.tobytes()).hexdigest()
        return dataclasses.replace(
            self,
            indices=self.indices[chosen],
            fingerprint=digest,
            whole=self.whole or self.fingerprint,
            labels=None if self.labels is None else self.labels[chosen],
            open_test=None,
        )

    @property
    def description(self) -> dict[str, Any]:
        """What a student file says of its training photos: set, whole set, some hashes.

        Without hashes where a file went away: work that is done is not lost for it.
        """
        part = {"part_of": {"fingerprint": self.whole}} if self.whole else {}
        try:
            # The key is of files of version 1.
            hashes = {"sketch": self.photo_hashes}
        except DataError:
            hashes = {}
        return {
            "name": self.name, "fingerprint": self.fingerprint, "num_photos": len(self), **part,
            **hashes,
        }  # fmt: skip

    @functools.cached_property
    def photo_hashes(self) -> str:
        """Hashes of some of its photos, to find copies by: see `overlap.hash_photos`.

        Raises:
            DataError: If a file went away.
        """
        return hash_photos(self)

    def test(self) -> "PhotoSet | None":
        """A named set's own test split, or None."""
        return None if self.open_test is None else self.open_test()


def fingerprint_of(lines: Iterable[str]) -> str:
    """Digest of a set: one line a photo, in order, with its name and size."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class _Arrays:
    """Photos in memory: (N, H, W) grey or (N, H, W, 3) RGB, uint8."""

    pixels: npt.NDArray[np.uint8]

    def image(self, index: int, channels: int = 3) -> Image.Image:
        if channels == 4:
            raise DataError(
                "these photos are grey or RGB, and the network has four channels: give photos of "
                "four, or a network of three (--set student.channels=3)"
            )
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def draft(self, index: int, side: int, channels: int = 3) -> Draft:
        del side
        image = self.image(index, channels)
        return Draft(image, image.size)

    def mark(self, index: int) -> Mark:
        pixels = self.pixels[index]
        return Mark(pixels.nbytes, pixels.tobytes)


def photos_from_arrays(
    pixels: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64] | None,
    *,
    name: str,
    classes: tuple[str, ...] | None = None,
    open_test: Callable[[], PhotoSet] | None = None,
) -> PhotoSet:
    """A set of photos that are in memory already.

    Args:
        pixels: (N, H, W) grey or (N, H, W, 3) RGB.
        labels: (N,) class indices, or None.
        name: What the set is called.
        classes: Class names.
        open_test: Opens its test split, if it has one.
    """
    digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes())
    if labels is not None:
        digest.update(labels.tobytes())
    return PhotoSet(
        name=name,
        source=_Arrays(pixels),
        indices=np.arange(len(pixels), dtype=np.int64),
        fingerprint=digest.hexdigest(),
        labels=labels,
        classes=classes,
        open_test=open_test,
    )
