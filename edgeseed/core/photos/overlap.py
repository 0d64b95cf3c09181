"""Which photos two sets share, found by sizes and some of their bytes, without decoding any."""

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeseed.core.errors import DataError
from edgeseed.core.photos.decoding import reason_of

_COMPARED = 2000
_SMALL_BYTES, _SAMPLE_BYTES = 2**15, 2**12
_SAMPLED_AT = (0.25, 0.5, 0.75)
# Photos that are hashed of a set; hexadecimal digits of a photo's size, and of its content. Student
# files hold such hashes, so these numbers stay.
_MOST_HASHES, _SIZE_DIGITS, _CONTENT_DIGITS = 512, 4, 12
_KEY_DIGITS = _SIZE_DIGITS + _CONTENT_DIGITS


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """What tells copies of a photo without decoding it.

    Attributes:
        num_bytes: As it is stored.
        sample: Reads some of its bytes: only photos of one size are looked at so closely.
    """

    num_bytes: int
    sample: Callable[[], bytes]


class MarkedPhotos(Protocol):
    """Photos that can be compared: a `PhotoSet`."""

    def __len__(self) -> int: ...

    def mark(self, index: int) -> Mark:
        """What tells copies of the photo at `index`."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Shared:
    """How many photos of a set are in another set as well, of how many that were compared."""

    count: int
    num_compared: int


def hash_photos(photos: MarkedPhotos) -> str:
    """Hashes of up to 512 of the photos, by which `count_shared_by_hash` finds copies of them.

    The hashes that come first in order, so that two sets choose the same of the photos
    that both hold (a bottom-k sketch: Broder, 1997, "On the resemblance and containment of
    documents"). The digest of a photo's size comes before that of its content, which is only
    read where the size is among the first: photos of one size, as raw formats have, are in it
    together or not at all. Of shards that lie elsewhere, names stand for contents.

    Raises:
        DataError: If a file went away.
    """
    starts = sorted(map(_size_key, _marks(photos)))[:_MOST_HASHES]
    last = starts[-1] + "f" * _CONTENT_DIGITS if starts else ""
    return "".join(_keys_up_to(_marks(photos), last)[:_MOST_HASHES])


def shared_photos(photos: MarkedPhotos, others: MarkedPhotos) -> Shared:
    """Counts the photos that `others` holds too, by any name: same size, and same bytes in places.

    Of a large set, two thousand are compared, evenly spread.

    Raises:
        DataError: If a file went away.
    """
    marks = _spread_marks(photos)
    sizes = {mark.num_bytes for mark in marks}
    candidates = (others.mark(index) for index in range(len(others)))
    known = {_digest(mark) for mark in candidates if mark.num_bytes in sizes}
    return Shared(sum(_digest(mark) in known for mark in marks), len(marks))


def count_shared_by_hash(photos: MarkedPhotos, photo_hashes: Collection[str]) -> Shared:
    """Counts the photos that other sets hold too; only hashes of those sets are needed.

    Compared are the photos whose hash the other set would have kept.

    The fewer photos beside those of the other sets, the fewer can be compared: 512 for each set of
    the same size.

    Args:
        photos: The set.
        photo_hashes: `hash_photos` of each of the others.

    Raises:
        DataError: If a file went away.
    """
    known: set[str] = set()
    lasts = []
    for hashes in photo_hashes:
        keys = [hashes[at : at + _KEY_DIGITS] for at in range(0, len(hashes), _KEY_DIGITS)]
        known.update(keys)
        # All photos of a small set are hashed: any may be looked for.
        lasts.append(keys[-1] if len(keys) == _MOST_HASHES else "f" * _KEY_DIGITS)
    if not lasts:
        return Shared(0, 0)
    all_of_small_sets = min(lasts) == "f" * _KEY_DIGITS
    marks = _spread_marks(photos) if all_of_small_sets else _marks(photos)
    found = _keys_up_to(marks, min(lasts))
    return Shared(sum(key in known for key in found), len(found))


def _marks(photos: MarkedPhotos) -> Iterator[Mark]:
    # Not a list: a million marks, each with what reads its sample, take a third of a gigabyte.
    return (photos.mark(index) for index in range(len(photos)))


def _spread_marks(photos: MarkedPhotos) -> list[Mark]:
    """Of at most two thousand photos, evenly spread: each mark costs a look at the disk."""
    chosen = np.linspace(0, len(photos) - 1, min(len(photos), _COMPARED)).astype(np.int64)
    return [photos.mark(int(index)) for index in chosen]


def _keys_up_to(marks: Iterable[Mark], last: str) -> list[str]:
    """The keys that are not after `last`, in order."""
    early = [mark for mark in marks if _size_key(mark) <= last[:_SIZE_DIGITS]]
    keys = (_size_key(mark) + _digest(mark).hex()[:_CONTENT_DIGITS] for mark in early)
    return sorted(key for key in keys if key <= last)


def _size_key(mark: Mark) -> str:
    return hashlib.sha256(str(mark.num_bytes).encode()).hexdigest()[:_SIZE_DIGITS]


def _digest(mark: Mark) -> bytes:
    return hashlib.sha256(f"{mark.num_bytes} ".encode() + mark.sample()).digest()


def sample_bytes(content: bytes) -> bytes:
    """As `sample_file`, of a photo that is in memory."""
    if len(content) <= _SMALL_BYTES:
        return content
    starts = [int(place * len(content)) for place in _SAMPLED_AT]
    return b"".join(content[start : start + _SAMPLE_BYTES] for start in starts)


def sample_file(path: Path, *, start: int, size: int) -> bytes:
    """Some bytes of the photo that lies at `start` of a file: all of a small one.

    Raises:
        DataError: If the file went away.
    """
    places = _SAMPLED_AT if size > _SMALL_BYTES else (0.0,)
    length = _SAMPLE_BYTES if size > _SMALL_BYTES else size
    try:
        with path.open("rb") as file:
            parts = []
            for place in places:
                file.seek(start + int(place * size))
                parts.append(file.read(length))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {reason_of(error)}") from error
    return b"".join(parts)
