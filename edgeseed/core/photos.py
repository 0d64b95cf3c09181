"""Photos, wherever they come from: folders of any nesting, tar shards, and a few named sets.

The only place that decodes images. What phones and scanners make is turned into upright 8-bit
sRGB: EXIF rotation, ICC profiles, CMYK, grey, 16 bits, alpha and animation are handled; what cannot
be read is skipped, counted and listed, and is an error once it is more than a tenth.
"""

import dataclasses
import functools
import gzip
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from edgeseed.core.color import to_srgb
from edgeseed.core.console import progress, warn
from edgeseed.core.errors import DataError
from edgeseed.core.registry import unknown_name

MAX_BROKEN_SHARE = 0.10
_LISTED = 5
# Files that lie beside photos by custom; they are passed over without being counted as broken.
SIDECARS = frozenset(
    [
        ".csv",
        ".db",
        ".html",
        ".ini",
        ".json",
        ".jsonl",
        ".lock",
        ".log",
        ".md",
        ".parquet",
        ".py",
        ".toml",
        ".tsv",
        ".txt",
        ".xml",
        ".xmp",
        ".yaml",
        ".yml",
    ]
)
_SIGNATURES = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*",
    b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"qoif", b"\0\0\0\x0cjP",
)  # fmt: skip
_TAIL_BYTES = 64
_COMPARED = 2000
_SMALL_BYTES, _SAMPLE_BYTES = 2**15, 2**12
# Of a sketch: photos, and hexadecimal digits of a photo's size and content. Student files hold it.
_SKETCHED, _SIZE_DIGITS, _CONTENT_DIGITS = 512, 4, 12
_KEY_DIGITS = _SIZE_DIGITS + _CONTENT_DIGITS
_ORIENTATION = 0x112
_TURNED = range(5, 9)
"""EXIF orientations that swap width and height."""


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """A file that is not used, and why."""

    path: str
    reason: str


class Draft(NamedTuple):
    """A photo to be made small: see `PhotoSet.draft`."""

    image: Image.Image
    """Upright, 8-bit RGB; perhaps a half, a quarter or an eighth of its size."""
    size: tuple[int, int]
    """Width and height of the whole photo, in pixels."""


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """What tells copies of a photo without decoding it.

    Attributes:
        num_bytes: As it is stored.
        sample: Reads some of its bytes: only photos of one size are looked at so closely.
    """

    num_bytes: int
    sample: Callable[[], bytes]


class _Source(Protocol):
    """Where a set's photos lie: anything that gives the i-th as an image and survives pickling."""

    def image(self, index: int) -> Image.Image: ...

    def draft(self, index: int, side: int) -> Draft: ...

    def mark(self, index: int) -> "Mark": ...


@dataclasses.dataclass(frozen=True)
class PhotoSet:
    """Photos by index, with labels where there are any. Picklable, for loader workers."""

    name: str
    source: _Source
    indices: npt.NDArray[np.int64]
    """Which of the source's photos are in the set, in order."""
    fingerprint: str
    """Digest of what the set holds: equal sets have equal fingerprints on every machine."""
    labels: npt.NDArray[np.int64] | None = None
    """(N,) class indices."""
    classes: tuple[str, ...] | None = None
    skipped: tuple[Skipped, ...] = ()
    whole: str = ""
    """Fingerprint of the set that this is a part of; none where it is all of it."""
    test_name: str | None = None
    """The name under which `open_photos` gives this set's own test split."""

    def __len__(self) -> int:
        return len(self.indices)

    def image(self, index: int) -> Image.Image:
        """The photo at `index`, upright, 8-bit RGB.

        Raises:
            DataError: If the file went away or is broken; the message names it.
        """
        return self.source.image(int(self.indices[index]))

    def draft(self, index: int, side: int) -> Draft:
        """As `image`, for views that are random anyway: a JPEG may come smaller, and sooner.

        The decoder leaves out the fine frequencies, which is not bit for bit what a resize of the
        whole photo gives; so it is for training alone, never for evaluation, calibration or export.

        Args:
            index: Which photo.
            side: In pixels; neither width nor height will be less, unless they are anyway.

        Raises:
            DataError: If the file went away or is broken; the message names it.
        """
        return self.source.draft(int(self.indices[index]), side)

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
            test_name=None,
        )

    @property
    def description(self) -> dict[str, Any]:
        """For what was learnt from it: which set, which it is a part of, and its sketch.

        Without the sketch where a file went away: work that is done is not lost for it.
        """
        part = {"part_of": {"fingerprint": self.whole}} if self.whole else {}
        try:
            sketch = {"sketch": self.sketch}
        except DataError:
            sketch = {}
        return {
            "name": self.name, "fingerprint": self.fingerprint, "num_photos": len(self), **part,
            **sketch,
        }  # fmt: skip

    @functools.cached_property
    def sketch(self) -> str:
        """Digests of up to 512 of its photos, by which `sketched_photos` knows copies of them.

        Those whose digests come first, in order, so that two sets choose the same of the photos
        that both hold (a bottom-k sketch: Broder, 1997, "On the resemblance and containment of
        documents"). The digest of a photo's size comes before that of its content, which is only
        read where the size is among the first: photos of one size, as raw formats have, are in it
        together or not at all. Of shards that lie elsewhere, names stand for contents.

        Raises:
            DataError: If a file went away.
        """
        marks = (self.source.mark(int(index)) for index in self.indices)
        starts = sorted(_size_key(mark) for mark in marks)[:_SKETCHED]
        last = starts[-1] + "f" * _CONTENT_DIGITS if starts else ""
        return "".join(_keys_up_to(self, last)[:_SKETCHED])

    def test(self) -> "PhotoSet | None":
        """A named set's own test split, or None."""
        return None if self.test_name is None else open_photos(self.test_name)


@dataclasses.dataclass(frozen=True, slots=True)
class Shared:
    """How many photos of a set are in another set as well, of how many that were compared."""

    count: int
    num_compared: int


def shared_photos(photos: PhotoSet, others: PhotoSet) -> Shared:
    """Counts the photos that `others` holds too, by any name: same size, and same bytes in places.

    Of a large set, two thousand are compared, evenly spread.

    Raises:
        DataError: If a file went away.
    """
    chosen = np.linspace(0, len(photos) - 1, min(len(photos), _COMPARED)).astype(np.int64)
    marks = [photos.source.mark(int(index)) for index in photos.indices[chosen]]
    sizes = {mark.num_bytes for mark in marks}
    candidates = (others.source.mark(int(index)) for index in others.indices)
    known = {_digest(mark) for mark in candidates if mark.num_bytes in sizes}
    return Shared(sum(_digest(mark) in known for mark in marks), len(marks))


def sketched_photos(photos: PhotoSet, sketches: Collection[str]) -> Shared:
    """Counts the photos that other sets hold too, of those that must be in their sketches then.

    The fewer photos beside those of the other sets, the fewer can be compared: 512 for each set of
    the same size.

    Args:
        photos: The set.
        sketches: `PhotoSet.sketch` of the others, which need not be at hand.

    Raises:
        DataError: If a file went away.
    """
    known: set[str] = set()
    lasts = []
    for sketch in sketches:
        keys = [sketch[at : at + _KEY_DIGITS] for at in range(0, len(sketch), _KEY_DIGITS)]
        known.update(keys)
        # All photos of a small set are in its sketch: any may be looked for.
        lasts.append(keys[-1] if len(keys) == _SKETCHED else "f" * _KEY_DIGITS)
    if not lasts:
        return Shared(0, 0)
    if min(lasts) == "f" * _KEY_DIGITS:
        chosen = np.linspace(0, len(photos) - 1, min(len(photos), _COMPARED)).astype(np.int64)
        photos = photos.subset(chosen)
    found = _keys_up_to(photos, min(lasts))
    return Shared(sum(key in known for key in found), len(found))


def _keys_up_to(photos: PhotoSet, last: str) -> list[str]:
    """The keys that are not after `last`, in order."""
    marks = (photos.source.mark(int(index)) for index in photos.indices)
    early = [mark for mark in marks if _size_key(mark) <= last[:_SIZE_DIGITS]]
    keys = (_size_key(mark) + _digest(mark).hex()[:_CONTENT_DIGITS] for mark in early)
    return sorted(key for key in keys if key <= last)


def _size_key(mark: Mark) -> str:
    return hashlib.sha256(str(mark.num_bytes).encode()).hexdigest()[:_SIZE_DIGITS]


def _digest(mark: Mark) -> bytes:
    return hashlib.sha256(f"{mark.num_bytes} ".encode() + mark.sample()).digest()


# --------------------------------------------------------------------------- decoding


def decode(source: str | Path | bytes, *, name: str | None = None) -> Image.Image:
    """Reads one photo as upright 8-bit sRGB.

    The first frame of an animation; alpha over white; 16 bits scaled to 8; EXIF rotation and ICC
    profile applied (docs/preprocessing.md).

    Args:
        source: A file, or the bytes of one.
        name: What it is called in messages; by default its path.

    Raises:
        DataError: If it is no image, truncated, or too large to be a photo.
    """
    return _decode(source, side=None, name=name).image


def decode_draft(source: str | Path | bytes, *, side: int, name: str | None = None) -> Draft:
    """As `decode`, but a JPEG may come smaller; see `PhotoSet.draft`."""
    return _decode(source, side=side, name=name)


def _decode(source: str | Path | bytes, *, side: int | None, name: str | None) -> Draft:
    try:
        with warnings.catch_warnings():
            # Large panoramas are fine; what is beyond twice that is refused by Pillow as an error.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                image.seek(0)
                whole = image.size
                if side is not None:
                    image.draft(None, (side, side))
                image.load()
                is_turned = image.getexif().get(_ORIENTATION) in _TURNED
                size = (whole[1], whole[0]) if is_turned else whole
                return Draft(_to_rgb(ImageOps.exif_transpose(image)), size)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        name = name or ("the image" if isinstance(source, bytes) else str(source))
        raise DataError(f"{name} cannot be read as an image: {_reason(error)}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    rgb = _flatten(to_srgb(image))
    # The pixels are sRGB now; a PNG written of them must not say otherwise.
    rgb.info.pop("icc_profile", None)
    return rgb


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _high_range_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _high_range_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F":
        full = 1.0 if values.max(initial=0.0) <= 1.0 else 255.0
    else:
        # Mode "I" also holds 8-bit values in some files; "I;16" never does.
        full = 255.0 if image.mode == "I" and values.max(initial=0.0) <= 255 else 65535.0
    scaled = np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8)
    return Image.fromarray(scaled).convert("RGB")


def _reason(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image in a format that Pillow knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


# --------------------------------------------------------------------------- folders


class _Files:
    """Files under one folder; the names are one object, which loader workers share."""

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        encoded = [os.fsencode(name) for name in names]
        self.root = root
        self._joined = b"".join(encoded)
        self._ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def name(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return os.fsdecode(self._joined[start : int(self._ends[index])])

    def image(self, index: int) -> Image.Image:
        return decode(self.root / self.name(index))

    def draft(self, index: int, side: int) -> Draft:
        return decode_draft(self.root / self.name(index), side=side)

    def mark(self, index: int) -> Mark:
        path = self.root / self.name(index)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"{path} cannot be read: {_reason(error)}") from error
        return Mark(size, lambda: sample_file(path, start=0, size=size))


def sample_file(path: Path, *, start: int, size: int) -> bytes:
    """Some bytes of the photo that lies at `start` of a file: all of a small one.

    Raises:
        DataError: If the file went away.
    """
    places = (0.25, 0.5, 0.75) if size > _SMALL_BYTES else (0.0,)
    length = _SAMPLE_BYTES if size > _SMALL_BYTES else size
    try:
        with path.open("rb") as file:
            parts = []
            for place in places:
                file.seek(start + int(place * size))
                parts.append(file.read(length))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {_reason(error)}") from error
    return b"".join(parts)


def _walk(root: Path) -> Iterator[str]:
    """Relative paths of all visible files below `root`, sorted; follows links, but no loops."""
    seen: set[tuple[int, int]] = set()
    found: list[str] = []
    for folder, folders, files in os.walk(root, followlinks=True):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(folder, root)
        found += [
            name if relative == "." else f"{relative}{os.sep}{name}"
            for name in files
            if not name.startswith(".")
        ]
    return iter(sorted(found))


def _check_file(path: Path) -> str | None:
    """Why a file is no usable photo, or None. Decodes only what looks suspicious."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read()
    except OSError as error:
        return error.strerror or "cannot be opened"
    if not head:
        return "empty file"
    if head[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "HEIC, which Pillow does not read: convert it to JPEG"
    looks_whole = (head.startswith(b"\xff\xd8\xff") and b"\xff\xd9" in tail) or (
        head.startswith(b"\x89PNG") and b"IEND" in tail
    )
    if looks_whole:
        return None
    known = head.startswith(_SIGNATURES) or head[8:12] == b"WEBP" or head[4:8] == b"ftyp"
    try:
        decode(path)
    except DataError as error:
        return str(error).rpartition(": ")[2] if known else "not an image"
    return None


def _open_folder(root: Path, *, labels: bool | None) -> PhotoSet:
    names = list(_walk(root))
    with (
        ThreadPoolExecutor() as pool,
        progress(f"checking {root.name}", len(names), "files") as bar,
    ):
        reasons = []
        for reason in pool.map(_check_file, (root / name for name in names)):
            reasons.append(reason)
            bar.advance()
    good = [name for name, reason in zip(names, reasons, strict=True) if reason is None]
    skipped = [Skipped(n, r) for n, r in zip(names, reasons, strict=True) if r is not None]
    broken = [item for item in skipped if Path(item.path).suffix.lower() not in SIDECARS]
    _judge(root, num_good=len(good), broken=broken)
    sizes = [(root / name).stat().st_size for name in good]
    classes, targets = _class_folders(root, good, labels=labels)
    return PhotoSet(
        name=str(root),
        source=_Files(root, good),
        indices=np.arange(len(good), dtype=np.int64),
        fingerprint=fingerprint_of(
            Path(name).as_posix() + f" {size}" for name, size in zip(good, sizes, strict=True)
        ),
        labels=targets,
        classes=classes,
        skipped=tuple(skipped),
    )


def _judge(root: Path, *, num_good: int, broken: list[Skipped]) -> None:
    listing = "; ".join(f"{item.path}: {item.reason}" for item in broken[:_LISTED])
    listing += f"; and {len(broken) - _LISTED} more" if len(broken) > _LISTED else ""
    if num_good == 0:
        found = f"only files that are not images ({listing})" if broken else "no image at all"
        raise DataError(
            f"{root} holds {found}; give a folder with photos (JPEG, PNG, WebP, TIFF, BMP, GIF)"
        )
    total = num_good + len(broken)
    if len(broken) > MAX_BROKEN_SHARE * total:
        raise DataError(
            f"{root}: {len(broken)} of {total} files cannot be read as photos, more than "
            f"{MAX_BROKEN_SHARE:.0%} ({listing}); remove or replace them"
        )
    if broken:
        warn(f"{root}: {len(broken)} of {total} files skipped ({listing})")


def _class_folders(
    root: Path, names: list[str], *, labels: bool | None
) -> tuple[tuple[str, ...] | None, npt.NDArray[np.int64] | None]:
    """Labels from the first folder level, as in ImageFolder: `root/CLASS/.../photo.jpg`."""
    if labels is False:
        return None, None
    tops = [name.split(os.sep, 1)[0] if os.sep in name else None for name in names]
    classes = tuple(sorted({top for top in tops if top is not None}))
    if None in tops or len(classes) < 2:
        if labels:
            found = (
                "photos that lie in no class folder"
                if None in tops
                else f"one class folder, {', '.join(classes)}"
            )
            raise DataError(
                f"{root}: labels were asked for, but it holds {found}; lay it out as "
                f"{root}/CLASS/photo.jpg"
            )
        return None, None
    number = {name: index for index, name in enumerate(classes)}
    return classes, np.array([number[top] for top in tops if top is not None], dtype=np.int64)


def fingerprint_of(lines: Iterable[str]) -> str:
    """Digest of a set: one line a photo, in order, with its name and size."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()


# --------------------------------------------------------------------------- named sets


@dataclasses.dataclass(frozen=True)
class _Arrays:
    """Photos in memory: (N, H, W) grey or (N, H, W, 3) RGB, uint8."""

    pixels: npt.NDArray[np.uint8]

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def draft(self, index: int, side: int) -> Draft:
        del side
        image = self.image(index)
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
    test_name: str | None = None,
) -> PhotoSet:
    """A set of photos that are in memory already.

    Args:
        pixels: (N, H, W) grey or (N, H, W, 3) RGB.
        labels: (N,) class indices, or None.
        name: What the set is called.
        classes: Class names.
        test_name: The name of its test split, if it has one.
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
        test_name=test_name,
    )


def _open_digits(split: str, folder: str | None) -> PhotoSet:
    """The 1,797 scans of handwritten digits, 8x8 grey, that scikit-learn ships (UCI, CC BY 4.0).

    The first three quarters are the train split. The scans are in the order of collection, so the
    last quarter is mostly by other writers.
    """
    if folder is not None:
        raise DataError("digits ships with scikit-learn and takes no folder; write just: digits")
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    pixels = np.rint(digits.images * (255.0 / 16.0)).astype(np.uint8)
    border = len(pixels) * 3 // 4
    part = slice(0, border) if split == "train" else slice(border, None)
    return photos_from_arrays(
        pixels[part],
        digits.target[part].astype(np.int64),
        name="digits" if split == "train" else "digits:test",
        classes=tuple(str(digit) for digit in range(10)),
        test_name="digits:test" if split == "train" else None,
    )


_FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
_FASHION_FOLDER = "/usr/share/datasets/fashion-mnist"


def _open_fashion_mnist(split: str, folder: str | None) -> PhotoSet:
    """Fashion-MNIST from its IDX files, plain or gzipped: 60,000 + 10,000 grey photos of 28x28."""
    root = Path(folder or _FASHION_FOLDER)
    stem = "train" if split == "train" else "t10k"
    pixels = _read_idx(root, f"{stem}-images-idx3-ubyte")
    labels = _read_idx(root, f"{stem}-labels-idx1-ubyte").astype(np.int64)
    if pixels.ndim != 3 or labels.shape != pixels.shape[:1]:
        raise DataError(
            f"{root}: images of shape {pixels.shape} and labels of shape {labels.shape} do not "
            "belong together"
        )
    origin = "" if folder is None else f"={folder}"
    return photos_from_arrays(
        pixels,
        labels,
        name=f"fashion-mnist{origin}" + ("" if split == "train" else ":test"),
        classes=_FASHION_CLASSES,
        test_name=f"fashion-mnist{origin}:test" if split == "train" else None,
    )


def _read_idx(root: Path, name: str) -> npt.NDArray[np.uint8]:
    """Reads an IDX file of bytes: magic, sizes, data (LeCun's MNIST page)."""
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            break
    else:
        raise DataError(
            f"fashion-mnist: {root / name}[.gz] does not exist; on Debian `apt install "
            "dataset-fashion-mnist` "
            "puts it there, elsewhere give its folder: fashion-mnist=FOLDER"
        )
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dimensions = data[3] if data[:3] == b"\0\0\x08" else 0
        shape = tuple(int(size) for size in np.frombuffer(data, ">u4", dimensions, offset=4))
        return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError) as error:
        raise DataError(f"{path} is not a whole IDX file ({error}); fetch it again") from error


_NAMED = {"digits": _open_digits, "fashion-mnist": _open_fashion_mnist}


def open_photos(source: str | Path, *, labels: bool | None = None, min_count: int = 1) -> PhotoSet:
    """Opens a set of photos.

    Args:
        source: A folder of any nesting (class folders are labels); tar shards, as a folder of
            them or a pattern (`train-{000..127}.tar`, also `https://` and `s3://`); `digits` or
            `fashion-mnist[=FOLDER]`, whose test split is `NAME:test`.
        labels: True demands labels, False ignores class folders, None takes them if they are there.
        min_count: The least number of photos that makes sense for the caller.

    Raises:
        DataError: If it does not exist, holds no photo or too few, has more than a tenth broken
            files, or lacks the labels that were asked for.
        UnknownNameError: If it is neither a folder nor a known name.
    """
    photos = _open(str(source), labels=labels)
    if len(photos) < min_count:
        raise DataError(
            f"{source} holds {len(photos)} photos, at least {min_count} are needed; add more"
        )
    return photos


def _open(source: str, *, labels: bool | None) -> PhotoSet:
    name, is_test, _ = source.partition(":test") if source.endswith(":test") else (source, "", "")
    name, _, folder = name.partition("=")
    if name in _NAMED and not Path(source).is_dir():
        photos = _NAMED[name]("test" if is_test else "train", folder or None)
        return (
            photos
            if labels is not False
            else dataclasses.replace(photos, labels=None, classes=None)
        )
    from edgeseed.core import shards

    if shards.are_shards(source):
        return shards.open_shards(source, labels=labels)
    path = Path(source)
    if path.is_dir():
        return _open_folder(path, labels=labels)
    if path.exists():
        raise DataError(f"{source} is a file; give the folder that holds the photos")
    if os.sep in source or "." in source:
        raise DataError(
            f"{source} does not exist; give a folder of photos, or one of: {', '.join(_NAMED)}"
        )
    raise unknown_name("data set or folder", source, _NAMED)
