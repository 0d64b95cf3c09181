"""Photos in tar shards, as WebDataset writes them: in a folder, or over http, s3 and the like.

A shard is a plain tar; the files of one sample follow each other and share their name up to the
first dot: `000017.jpg`, `000017.cls`. A photo is read from its place in the tar, in any order, so
that shards behave as a folder does: the same split, the same passes, the same resume. Where
canvases fit in memory (the usual case), every photo is read once.

Places are found by one pass over the tars' headers as the set is opened. Photos are not looked at
then: one that is broken is skipped in training, and an error in evaluation.
"""

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

from edgeseed.core.console import progress
from edgeseed.core.errors import DataError, MissingDependencyError
from edgeseed.core.optional import require
from edgeseed.core.photos.decoding import Draft, decode, decode_draft
from edgeseed.core.photos.folder import SIDECARS
from edgeseed.core.photos.overlap import Mark, sample_file
from edgeseed.core.photos.photo_set import PhotoSet, fingerprint_of

SUFFIX = ".tar"
_IMAGES = frozenset(["jpg", "jpeg", "png", "webp", "tif", "tiff", "bmp", "gif", "ppm"])
_LABEL = "cls"
_CLASSES_FILE = "classes.txt"
_LISTED = 3


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
        labels: As `open_photos` takes it. A label is a number in the sample's `.cls`; their names
            may stand in `classes.txt` beside the shards, one a line.

    Raises:
        DataError: If a shard does not exist or is cut off, there is no photo, or labels lack.
    """
    urls = _expand(source)
    shards = []
    with progress("indexing", len(urls), "shards") as bar:
        for url in urls:
            shards.append(_index(url))
            bar.advance()
    samples = [sample for shard in shards for sample in shard]
    if not samples:
        raise DataError(
            f"{source} holds no photo; samples are named like 000017.jpg, with suffixes "
            f"{', '.join(sorted(_IMAGES))}"
        )
    numbers = np.repeat(np.arange(len(urls)), [len(shard) for shard in shards])
    targets = None if labels is False else _labels(source, samples, wanted=bool(labels))
    photos = Shards(urls, numbers, samples)
    return PhotoSet(
        name=source,
        source=photos,
        indices=np.arange(len(samples), dtype=np.int64),
        fingerprint=fingerprint_of(
            f"{photos.name(index)} {sample.size}" for index, sample in enumerate(samples)
        ),
        labels=targets,
        classes=None if targets is None else _class_names(source, urls, int(targets.max()) + 1),
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
class _Sample:
    """One photo in a shard: its member's name, its place, and its label if it has one."""

    member: str
    offset: int
    size: int
    label: int | None


def _index(url: str) -> list[_Sample]:
    try:
        with _open(url) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = [_describe(tar, member) for member in tar if member.isfile()]
            _check_end(file, cast(Any, tar).offset)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(
            f"{url} is not a whole, plain tar ({error}); copy it again, or unpack it if it is "
            "compressed: photos are so already"
        ) from error
    except OSError as error:
        raise DataError(f"{url} cannot be read ({' '.join(str(error).split())[:160]})") from error
    groups = itertools.groupby(members, key=lambda part: _key_and_kind(part.member)[0])
    return [photo for _, group in groups if (photo := _photo(list(group))) is not None]


def _check_end(file: IO[bytes], end: int) -> None:
    """A tar that was cut between two members looks whole, but for the block of zeros at its end."""
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end is missing")


def _describe(tar: tarfile.TarFile, member: tarfile.TarInfo) -> _Sample:
    label = None
    if _key_and_kind(member.name)[1] == _LABEL:
        label = int(cast(IO[bytes], tar.extractfile(member)).read().strip())
    return _Sample(member.name, member.offset_data, member.size, label)


def _key_and_kind(member: str) -> tuple[str, str]:
    """A sample's key ends at the first dot of the name; dots of folders do not count."""
    folder, slash, name = member.rpartition("/")
    key, _, kind = name.partition(".")
    return folder + slash + key, kind.lower()


def _photo(sample: list[_Sample]) -> _Sample | None:
    found = [part for part in sample if part.member.rpartition(".")[2].lower() in _IMAGES]
    if not found:
        return None
    label = next((part.label for part in sample if part.label is not None), None)
    return _Sample(found[0].member, found[0].offset, found[0].size, label)


def _labels(source: str, samples: list[_Sample], *, wanted: bool) -> npt.NDArray[np.int64] | None:
    lacking = [sample.member for sample in samples if sample.label is None]
    if not lacking:
        return np.array([sample.label for sample in samples], dtype=np.int64)
    if wanted:
        raise DataError(
            f"{source}: labels were asked for, but {len(lacking)} of {len(samples)} photos have no "
            f".cls beside them, such as {lacking[0]}"
        )
    return None


def _class_names(source: str, urls: list[str], num_classes: int) -> tuple[str, ...]:
    path = Path(urls[0]).parent / _CLASSES_FILE
    if _is_remote(urls[0]) or not path.is_file():
        return tuple(map(str, range(num_classes)))
    names = tuple(path.read_text(encoding="utf-8").split("\n"))
    names = tuple(name.strip() for name in names if name.strip())
    if len(names) < num_classes:
        raise DataError(
            f"{source}: {path} names {len(names)} classes, and labels count up to {num_classes - 1}"
        )
    return names


# --------------------------------------------------------------------------- reading


class Shards:
    """Photos by their place in a tar. Survives pickling: nothing is kept open."""

    def __init__(
        self, urls: list[str], numbers: npt.NDArray[np.int64], samples: Iterable[_Sample]
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

    def image(self, index: int) -> Image.Image:
        """The photo at `index`, upright, 8-bit RGB."""
        return decode(self._read(index), name=self.name(index))

    def draft(self, index: int, side: int) -> Draft:
        """As `image`, but a JPEG may come smaller."""
        return decode_draft(self._read(index), side=side, name=self.name(index))

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
