"""Photos in tar shards, as WebDataset writes them: in a folder, or over http, s3 and the like.

A shard is a plain tar; the files of one sample follow each other and share their name up to the
first dot: `000017.jpg`, `000017.cls`. A photo is read from its place in the tar, in any order, so
that shards behave as a folder does: the same split, the same passes, the same resume. Where
canvases fit in memory (the usual case), every photo is read once.

Places are found by one pass over the tars' headers as the set is opened. Photos are not looked at
then: one that is broken is skipped in training, and an error in evaluation.
"""

import dataclasses
import itertools
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from edgeseed.core.console import progress, warn
from edgeseed.core.errors import DataError, MissingDependencyError
from edgeseed.core.files import readable_size
from edgeseed.core.optional import require
from edgeseed.core.photos.accounting import SIDECARS, Skipped, judge_skipped
from edgeseed.core.photos.decoding import Draft, decode, decode_draft
from edgeseed.core.photos.overlap import Mark, sample_file
from edgeseed.core.photos.photo_set import PhotoSet, fingerprint_of

SUFFIX = ".tar"
IMAGE_SUFFIXES = frozenset(["jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif", "ppm"])
_LABEL = "cls"
_CLASSES_FILE = "classes.txt"
_LISTED = 3
_SIDECAR_KINDS = tuple(suffix.removeprefix(".") for suffix in SIDECARS)
_MAX_LABEL_BYTES = 1024
MAX_PHOTO_BYTES = 2**29
"""Half a gigabyte: a tar may claim any size, and a photo is read whole."""


def are_shards(source: str) -> bool:
    """Whether a set's name means tar shards: a tar, a pattern of tars, or a folder of nothing else.

    Args:
        source: As `open_photos` takes it.
    """
    folder = Path(source)
    if not folder.is_dir():
        return source.endswith(SUFFIX)
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    others = [path for path in paths if path.suffix.lower() not in SIDECARS]
    return bool(others) and all(path.suffix == SUFFIX and path.is_file() for path in others)


def open_shards(source: str, *, labels: bool | None) -> PhotoSet:
    """Opens tar shards.

    Args:
        source: `FOLDER`, `FILE.tar`, or a pattern such as `https://host/train-{000..127}.tar`.
        labels: As `open_photos` takes it. A label is a number or a name in the sample's `.cls`;
            names of numbers may stand in `classes.txt` beside the shards, one a line.

    Raises:
        DataError: If a shard does not exist or is cut off, there is no photo, or labels lack.
    """
    urls = _expand(source)
    shards = []
    with progress("indexing", len(urls), "shards") as bar:
        for url in urls:
            shards.append(_index(url))
            bar.advance()
    samples = [sample for shard in shards for sample in shard.photos]
    skipped = tuple(item for shard in shards for item in shard.skipped)
    if not samples and not skipped:
        raise DataError(
            f"{source} holds no photo; samples are named like 000017.jpg, with suffixes "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    judge_skipped(source, num_used=len(samples), skipped=skipped)
    numbers = np.repeat(np.arange(len(urls)), [len(shard.photos) for shard in shards])
    labelled = None if labels is False else _read_labels(source, urls, samples, wanted=bool(labels))
    photos = Shards(urls, numbers, samples)
    return PhotoSet(
        name=source,
        source=photos,
        indices=np.arange(len(samples), dtype=np.int64),
        fingerprint=fingerprint_of(
            f"{photos.name(index)} {sample.size}" for index, sample in enumerate(samples)
        ),
        labels=None if labelled is None else labelled.targets,
        classes=None if labelled is None else labelled.classes,
        skipped=skipped,
        num_sidecars=sum(shard.num_sidecars for shard in shards),
    )


# --------------------------------------------------------------------------- which shards

_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def _expand(source: str) -> list[str]:
    folder = Path(source)
    if folder.is_dir():
        return [str(path) for path in sorted(folder.glob(f"*{SUFFIX}"))]
    urls = ["".join(parts) for parts in itertools.product(*_choices(source))]
    missing = [url for url in urls if not _is_remote(url) and not Path(url).is_file()]
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise DataError(
            f"{source}: {len(missing)} of {len(urls)} shards do not exist: "
            f"{', '.join(missing[:_LISTED])}{more}"
        )
    return urls


def _choices(source: str) -> Iterator[list[str]]:
    """The parts of a pattern: `a-{0..2}.tar` gives ["a-"], ["0", "1", "2"], [".tar"]."""
    for number, part in enumerate(re.split(r"\{([^{}]*)\}", source)):
        is_inside, span = number % 2 == 1, _RANGE.fullmatch(part)
        if is_inside and span is not None:
            width = len(span[1])
            yield [f"{value:0{width}}" for value in range(int(span[1]), int(span[2]) + 1)]
        else:
            yield part.split(",") if is_inside else [part]


def _is_remote(url: str) -> bool:
    return "://" in url


# --------------------------------------------------------------------------- what is in them


@dataclass(frozen=True, slots=True)
class _ShardPhoto:
    """One photo in a shard: its member's name, its place, and its label if it has one."""

    member: str
    offset: int
    size: int
    label: str | None


@dataclass(frozen=True, slots=True)
class _Shard:
    """What one tar holds: every member is a photo, a sidecar or skipped."""

    photos: list[_ShardPhoto]
    skipped: list[Skipped]
    num_sidecars: int


def _index(url: str) -> _Shard:
    try:
        with _open(url) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members, skipped = _read_members(tar, url)
            _check_end(file, cast(Any, tar).offset)
    except (tarfile.TarError, EOFError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{url} is not a whole, plain tar ({error}); copy it again, or unpack it if it is "
            "compressed: photos are so already"
        ) from error
    except OSError as error:
        raise DataError(f"{url} cannot be read ({' '.join(str(error).split())[:160]})") from error
    # Not only neighbours: tars that were made by other tools may hold all labels first.
    samples: dict[str, list[_ShardPhoto]] = {}
    for part in members.values():
        samples.setdefault(_key_and_kind(part.member)[0], []).append(part)
    photos: list[_ShardPhoto] = []
    num_sidecars = 0
    for parts in samples.values():
        chosen = _photos(parts)
        photos += chosen
        used = {photo.member for photo in chosen}
        for part in parts:
            if part.member in used:
                continue
            # A mask, a caption or features beside a photo belong to its sample.
            if chosen or _suffix(part.member) in (_LABEL, *_SIDECAR_KINDS):
                num_sidecars += 1
            else:
                skipped.append(Skipped(f"{_file_name(url)}/{part.member}", "no image"))
    return _Shard(photos, skipped, num_sidecars)


def _read_members(tar: tarfile.TarFile, url: str) -> tuple[dict[str, _ShardPhoto], list[Skipped]]:
    """Files of a tar by name, and what cannot be read from its place."""
    members: dict[str, _ShardPhoto] = {}
    skipped = []
    for member in tar:
        path = f"{_file_name(url)}/{member.name}"
        if member.isdir() or _is_hidden(member.name):
            continue
        if not member.isreg() or member.issparse():
            skipped.append(Skipped(path, "a link, a sparse file or a device: pack plain files"))
        elif _suffix(member.name) in IMAGE_SUFFIXES and member.size > MAX_PHOTO_BYTES:
            skipped.append(Skipped(path, f"{readable_size(member.size)}, too large for a photo"))
        else:
            if member.name in members:  # as in tar itself, the last one counts
                skipped.append(Skipped(path, "another file of this name comes later in the tar"))
            members[member.name] = _ShardPhoto(
                member.name, member.offset_data, member.size, _label(tar, member, path)
            )
    return members, skipped


def _check_end(file: IO[bytes], end: int) -> None:
    """A tar that was cut between two members looks whole, but for the block of zeros at its end."""
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end is missing")


def _label(tar: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> str | None:
    if _suffix(member.name) != _LABEL:
        return None
    if member.size > _MAX_LABEL_BYTES:
        raise DataError(
            f"{path} holds {readable_size(member.size)}; a label is one number or one name"
        )
    content = cast(IO[bytes], tar.extractfile(member)).read()
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text; a label is one number or one name") from error


def _key_and_kind(member: str) -> tuple[str, str]:
    """A sample's key ends at the first dot of the name; dots of folders do not count."""
    folder, slash, name = member.rpartition("/")
    key, _, kind = name.partition(".")
    return folder + slash + key, kind.lower()


def _suffix(member: str) -> str:
    return member.rpartition(".")[2].lower()


def _is_hidden(member: str) -> bool:
    return any(part[0] == "." for part in member.split("/") if part not in ("", ".", ".."))


def _file_name(url: str) -> str:
    return url.rpartition("/")[2]


def _photos(sample: list[_ShardPhoto]) -> list[_ShardPhoto]:
    """The photos among files whose names are equal up to the first dot.

    `000017.jpg` is the photo, and `000017.mask.png` belongs to it. Where no name ends at the second
    dot, as in `2024.05.01.jpg` and `2024.05.02.jpg`, each is a photo of its own.
    """
    images = [part for part in sample if _suffix(part.member) in IMAGE_SUFFIXES]
    plain = [part for part in images if _key_and_kind(part.member)[1] in IMAGE_SUFFIXES]
    labels = {
        part.member.rpartition(".")[0]: part.label for part in sample if part.label is not None
    }
    if plain:
        of_sample = next(iter(labels.values()), None)
        return [dataclasses.replace(plain[0], label=of_sample)]
    shared = labels.get(_key_and_kind(sample[0].member)[0])
    return [
        dataclasses.replace(part, label=labels.get(part.member.rpartition(".")[0], shared))
        for part in images
    ]


@dataclass(frozen=True, slots=True)
class _ShardLabels:
    targets: npt.NDArray[np.int64]
    classes: tuple[str, ...]


def _read_labels(
    source: str, urls: list[str], samples: list[_ShardPhoto], *, wanted: bool
) -> _ShardLabels | None:
    """Class indices from labels that are numbers with any gaps, or names.

    Raises:
        DataError: If labels are demanded and lack, or some are numbers and some are names.
    """
    lacking = [sample.member for sample in samples if sample.label is None]
    if lacking:
        problem = (
            f"{len(lacking)} of {len(samples)} photos have no .cls beside them, such as "
            f"{lacking[0]}"
        )
        if wanted:
            raise DataError(f"{source}: labels were asked for, but {problem}")
        if len(lacking) < len(samples):
            warn(f"{source}: {problem}: no labels are taken")
        return None
    texts = [cast(str, sample.label) for sample in samples]
    numbers = [text.isascii() and text.isdecimal() for text in texts]
    if not any(numbers):
        names = sorted(set(texts))
        targets = {name: index for index, name in enumerate(names)}
        return _ShardLabels(np.array([targets[text] for text in texts], np.int64), tuple(names))
    if not all(numbers):
        at = numbers.index(False)
        raise DataError(
            f"{source}: the label of {samples[at].member} is {texts[at][:40]!r}, and others are "
            "numbers; labels are either all numbers from 0 or all names"
        )
    ids = [int(text) for text in texts]
    names_in_file = _classes_file(urls)
    if names_in_file is not None:
        path, known = names_in_file
        if max(ids) >= len(known):
            raise DataError(
                f"{source}: {path} names {len(known)} classes, and labels count up to {max(ids)}"
            )
        return _ShardLabels(np.array(ids, np.int64), known)
    # Only ids that occur are classes: product numbers would make heads of millions of outputs.
    occurring = sorted(set(ids))
    index_of = {label: index for index, label in enumerate(occurring)}
    return _ShardLabels(
        np.array([index_of[label] for label in ids], np.int64), tuple(map(str, occurring))
    )


def _classes_file(urls: list[str]) -> tuple[Path, tuple[str, ...]] | None:
    """Names of numbered classes, from `classes.txt` beside the shards."""
    path = Path(urls[0]).parent / _CLASSES_FILE
    if _is_remote(urls[0]) or not path.is_file():
        return None
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list of class names ({error})") from error
    return path, tuple(line.strip() for line in lines if line.strip())


# --------------------------------------------------------------------------- reading


class Shards:
    """Photos by their place in a tar. Survives pickling: nothing is kept open."""

    def __init__(
        self, urls: list[str], numbers: npt.NDArray[np.int64], samples: Iterable[_ShardPhoto]
    ) -> None:
        self._urls = urls
        self._numbers = numbers
        samples = list(samples)
        self._members = np.array([sample.member for sample in samples])
        self._places = np.array([(s.offset, s.size) for s in samples], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def name(self, index: int) -> str:
        """Shard and member, as label lists and messages have it."""
        shard = self._urls[int(self._numbers[index])].rpartition("/")[2]
        return f"{shard}/{self._members[index]}"

    def image(self, index: int, channels: int = 3) -> Image.Image:
        """The photo at `index`, upright, 8-bit RGB."""
        return decode(self._read(index), name=self.name(index), channels=channels)

    def draft(self, index: int, side: int, channels: int = 3) -> Draft:
        """As `image`, but a JPEG may come smaller."""
        return decode_draft(self._read(index), side=side, name=self.name(index), channels=channels)

    def mark(self, index: int) -> Mark:
        """Its bytes; of a shard that lies elsewhere, its name, for each read is a request."""
        url = self._urls[int(self._numbers[index])]
        offset, size = (int(value) for value in self._places[index])
        if _is_remote(url):
            return Mark(size, self.name(index).encode)
        return Mark(size, lambda: sample_file(Path(url), start=offset, size=size))

    def _read(self, index: int) -> bytes:
        url = self._urls[int(self._numbers[index])]
        offset, size = (int(value) for value in self._places[index])
        try:
            content = _read_part(url, offset, size)
        except OSError as error:
            raise DataError(
                f"{self.name(index)}: {url} cannot be read ({' '.join(str(error).split())[:160]})"
            ) from error
        if len(content) != size:
            raise DataError(
                f"{self.name(index)}: {len(content)} bytes came instead of {size}; {url} changed, "
                "or its server does not give parts of files"
            )
        return content


def _read_part(url: str, offset: int, size: int) -> bytes:
    if _is_remote(url):
        files, path = _file_system(url)
        return cast(bytes, files.cat_file(path, start=offset, end=offset + size))
    with Path(url).open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _open(url: str) -> IO[bytes]:
    if _is_remote(url):
        files, path = _file_system(url)
        return cast(IO[bytes], files.open(path, "rb"))
    return Path(url).open("rb")


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL; fsspec keeps one a process, and makes a new one after a fork."""
    fsspec: Any = require("fsspec", extra="remote", why=f"reading {url}")
    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingDependencyError(
            f"reading {url} needs a package that is not installed ({error}); install it: "
            "pip install 'edgeseed[remote]'"
        ) from error
    except ValueError as error:
        raise DataError(f"{url}: {error}; give a local path, http(s):// or s3://") from error
    return files, cast(str, path)
