"""The photos of an export: for calibration, for the proof, and as golden photos.

A photo that has set a scale proves nothing, so the sets are disjoint. Of a seeded shuffle, the
first part is held out for the proof and the next calibrates. The others are the reserve, read when
it is needed: to measure agreement while int8 is chosen, and for recovery.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseed.core.console import progress
from edgeseed.core.errors import DataError
from edgeseed.core.photos import PhotoSet, open_photos
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.records import PhotosRecord

MAX_PROOF = 256
MAX_CALIBRATION = 512
# With fewer photos than this, neither the ranges nor the share of agreement mean anything.
MIN_PHOTOS = 16
# A hundred are left as proof: with fewer, one photo that differs is more than a point.
LEAST_TO_DIVIDE = 150
NUM_GOLDEN = 4
SYNTHETIC = "synthetic colour fields"
"""The source where no photos were given."""
_NUM_SYNTHETIC = 32
_MAX_GOLDEN_SIDE = 640


@dataclasses.dataclass(frozen=True, kw_only=True)
class Photos:
    """Photos as the preprocessing leaves them."""

    pixels: npt.NDArray[np.uint8]
    """(N, 3, H, W) RGB; may lie in a file rather than in memory."""
    labels: npt.NDArray[np.int64] | None = None
    """(N,) indices into the student's classes."""
    sides: npt.NDArray[np.int64] | None = None
    """(N,) pixels of each photo's shorter side before the preprocessing, where that is known."""

    def __len__(self) -> int:
        return len(self.pixels)

    def batches(self, size: int) -> Iterator[npt.NDArray[np.uint8]]:
        """The photos in order, `size` at a time."""
        for start in range(0, len(self.pixels), size):
            yield np.asarray(self.pixels[start : start + size])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
    """The photos of one export."""

    golden: tuple[Image.Image, ...]
    """Photos before the preprocessing, at most 640 pixels on the longer side."""
    proof: Photos
    calibration: Photos | None
    reserve: "Reserve | None"
    """Further photos, for int8 to be counted by and to learn on."""
    description: PhotosRecord
    """For the manifest: source, fingerprint, counts, seed."""
    source: PhotoSet | None = None
    """Where they are from; None for coloured fields."""

    @property
    def synthetic(self) -> bool:
        """Whether no photos were given."""
        return self.description.source == SYNTHETIC

    @property
    def deciding(self) -> Photos:
        """Those that the most rests on: the calibration photos, without any the proof."""
        return self.calibration or self.proof

    def described(self, **more: Any) -> "Samples":
        """The same with more to say of them."""
        return dataclasses.replace(self, description=dataclasses.replace(self.description, **more))


class Reserve:
    """The photos of a source that nothing was drawn for, read when somebody asks for them.

    What is taken is gone: one export makes one integer model.

    Args:
        photos: The source.
        indices: Which of them, in the order in which they are given away.
        preprocess: The student's.
        scratch: An existing folder for their pixels.
    """

    def __init__(
        self,
        photos: PhotoSet,
        indices: npt.NDArray[np.int64],
        preprocess: Preprocess,
        scratch: Path,
    ) -> None:
        self._photos, self._left = photos, indices
        self._preprocess, self._scratch = preprocess, scratch
        self._taken = 0

    def __len__(self) -> int:
        return len(self._left)

    def take(self, count: int) -> Photos:
        """The next ones, at most so many, without labels. No photo is given twice.

        Raises:
            DataError: If more than a tenth of them cannot be decoded.
        """
        taken, self._left = np.split(self._left, [count])
        # What was taken before still lies in its file.
        self._taken += 1
        path = self._scratch / f"reserve-{self._taken}.npy"
        return _preprocess(self._photos, taken, self._preprocess, None, path)


def draw_samples(
    source: str | Path | None,
    preprocess: Preprocess,
    *,
    classes: tuple[str, ...] | None,
    scratch: Path,
    calibrate: bool,
    correcting: int = 0,
    max_calibration: int = MAX_CALIBRATION,
    seed: int,
) -> Samples:
    """Opens, splits and preprocesses the photos.

    Args:
        source: As `core.photos.open_photos` takes it; None makes coloured fields, which are enough
            to compare two float models.
        preprocess: The student's.
        classes: The student's class names; labels are used when all their names are among these.
        scratch: An existing folder for the pixels, so that memory does not grow with their number.
        calibrate: Whether a calibration set is needed besides the proof.
        correcting: Without `calibrate`, how many photos beside the proof are of use. At most a
            third is taken, of `LEAST_TO_DIVIDE` photos or more: the proof needs the others.
        max_calibration: Most photos to calibrate with.
        seed: Of the shuffle.

    Raises:
        DataError: If there are too few photos, or they cannot be read.
    """
    if source is None:
        fields = [
            synthetic_photo(preprocess.size, seed=seed + i, channels=preprocess.channels)
            for i in range(_NUM_SYNTHETIC)
        ]
        pixels = np.stack([preprocess.pixels(field) for field in fields])
        return Samples(
            golden=tuple(fields[:NUM_GOLDEN]),
            proof=Photos(pixels=pixels),
            calibration=None,
            reserve=None,
            description=PhotosRecord(source=SYNTHETIC, seed=seed, proof=len(pixels)),
        )
    photos = open_photos(source, min_count=MIN_PHOTOS if calibrate else NUM_GOLDEN)
    order = np.random.default_rng(seed).permutation(len(photos))
    beside = 0
    if calibrate:
        beside = len(photos) - len(photos) // 2
    elif len(photos) >= LEAST_TO_DIVIDE:
        beside = max_calibration = min(correcting, len(photos) // 3)
    num_proof = min(MAX_PROOF, len(photos) - beside)
    proof = _preprocess(photos, order[:num_proof], preprocess, classes, scratch / "proof.npy")
    calibration = reserve = None
    if beside:
        chosen, rest = np.split(order[num_proof:], [max_calibration])
        calibration = _preprocess(photos, chosen, preprocess, classes, scratch / "calibration.npy")
        reserve = Reserve(photos, rest, preprocess, scratch)
    return Samples(
        golden=tuple(
            _shrink(photos.image(int(i), channels=preprocess.channels)) for i in order[:NUM_GOLDEN]
        ),
        proof=proof,
        calibration=calibration,
        reserve=reserve,
        description=PhotosRecord(
            source=Path(photos.name).name,
            fingerprint=photos.fingerprint,
            seed=seed,
            available=len(photos),
            proof=len(proof),
            calibration=0 if calibration is None else len(calibration),
            disjoint=True,
        ),
        source=photos,
    )


def preprocess_photos(
    photos: PhotoSet, preprocess: Preprocess, *, classes: tuple[str, ...] | None, scratch: Path
) -> Photos:
    """All photos of a set, in its order."""
    return _preprocess(photos, np.arange(len(photos)), preprocess, classes, scratch / "data.npy")


def synthetic_photo(size: int | tuple[int, int], *, seed: int, channels: int = 3) -> Image.Image:
    """Smooth coloured fields with a little noise: the spectrum of a photo, and no one's photo.

    Args:
        size: Height and width, in pixels, or the side of a square.
        seed: Of the fields.
        channels: With 4, one more field is the fourth channel.
    """
    random = np.random.default_rng(seed)
    height, width = (size, size) if isinstance(size, int) else size
    bands = max(3, channels)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    field = np.zeros((height, width, bands))
    for frequency in (0.7, 1.5, 3.0, 6.0, 12.0):
        angle, phase = random.uniform(0, 2 * np.pi, (2, bands))
        wave = np.cos(
            2
            * np.pi
            * frequency
            * (rows[..., None] * np.cos(angle) + columns[..., None] * np.sin(angle))
            + phase
        )
        field += wave / frequency
    field += random.normal(0, 0.1, field.shape)
    low, high = field.min(), field.max()
    return Image.fromarray(np.rint((field - low) * (255 / (high - low))).astype(np.uint8))


def _preprocess(
    photos: PhotoSet,
    indices: npt.NDArray[np.int64],
    preprocess: Preprocess,
    classes: tuple[str, ...] | None,
    path: Path,
) -> Photos:
    pixels = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.uint8, shape=(len(indices), *preprocess.shape)
    )
    kept: list[int] = []
    sides: list[int] = []
    with progress("reading photos", len(indices)) as bar:
        for index in indices:
            try:
                photo = photos.image(int(index), channels=preprocess.channels)
                pixels[len(kept)] = preprocess.pixels(photo)
                kept.append(int(index))
                sides.append(min(photo.size))
            except DataError:
                # Its header looked whole when the set was opened; one broken body is no reason to
                # end.
                pass
            bar.advance()
    if len(kept) < 0.9 * len(indices):
        raise DataError(
            f"{photos.name}: {len(indices) - len(kept)} of {len(indices)} photos "
            "cannot be decoded; remove or replace them"
        )
    pixels.flush()
    return Photos(
        pixels=pixels[: len(kept)],
        labels=_labels(photos, np.array(kept), classes),
        sides=np.array(sides),
    )


def _labels(
    photos: PhotoSet, indices: npt.NDArray[np.int64], classes: tuple[str, ...] | None
) -> npt.NDArray[np.int64] | None:
    """The photos' labels as the student numbers its classes, if it knows them all."""
    if photos.labels is None or photos.classes is None or classes is None:
        return None
    if not set(photos.classes) <= set(classes):
        return None
    number = np.array([classes.index(name) for name in photos.classes], dtype=np.int64)
    return number[photos.labels[indices]]


def _shrink(photo: Image.Image) -> Image.Image:
    if photo.mode == "RGBA":
        # Each for itself: Pillow would weigh colours by alpha, and this is no alpha.
        *colours, fourth = photo.split()
        return Image.merge("RGBA", (*_shrink(Image.merge("RGB", colours)).split(), _shrink(fourth)))
    photo = photo.copy()
    photo.thumbnail((_MAX_GOLDEN_SIDE, _MAX_GOLDEN_SIDE), Image.Resampling.LANCZOS)
    return photo
