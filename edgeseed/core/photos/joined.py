"""Several sets as one."""

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from edgeseed.core.errors import DataError
from edgeseed.core.photos.decoding import Draft
from edgeseed.core.photos.overlap import Mark
from edgeseed.core.photos.photo_set import PhotoSet


class _Joined:
    """The photos of several sets, one set after the other."""

    def __init__(self, parts: Sequence[PhotoSet]) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def name(self, index: int) -> str:
        """The photo's name in its set, below the set's name."""
        part, inner = self._place(index)
        name = getattr(part.source, "name", None)
        at = int(part.indices[inner])
        return f"{part.name}/{at if name is None else name(at)}"

    def image(self, index: int, channels: int = 3) -> Image.Image:
        """The photo at `index`, upright, 8-bit RGB."""
        part, inner = self._place(index)
        return part.image(inner, channels=channels)

    def draft(self, index: int, side: int, channels: int = 3) -> Draft:
        """As `image`, but a JPEG may come smaller."""
        part, inner = self._place(index)
        return part.draft(inner, side, channels=channels)

    def mark(self, index: int) -> Mark:
        """What tells copies of it, without decoding."""
        part, inner = self._place(index)
        return part.mark(inner)

    def _place(self, index: int) -> tuple[PhotoSet, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[number - 1]) if number else 0
        return self._parts[number], index - start


def join_photos(name: str, parts: Sequence[PhotoSet], *, labels: bool | None) -> PhotoSet:
    """Several sets as one; classes of the same name are one class.

    Args:
        name: What the whole is called.
        parts: The sets.
        labels: As `open_photos` takes it; labels are kept where all parts have them.

    Raises:
        DataError: If only some of the parts have labels.
    """
    without = [part.name for part in parts if part.labels is None]
    if without and len(without) < len(parts) and labels is not False:
        raise DataError(
            f"{name}: {', '.join(without)} has no labels, and the others have; give sets of one "
            "kind, or use a method that needs none on each"
        )
    classes = targets = None
    if not without:
        classes = tuple(sorted({label for part in parts for label in part.classes or ()}))
        number = {label: index for index, label in enumerate(classes)}
        targets = np.concatenate(
            [
                np.array([number[label] for label in part.classes or ()])[part.labels]
                for part in parts
            ]
        ).astype(np.int64)
    digest = hashlib.sha256("\n".join(part.fingerprint for part in parts).encode())
    return PhotoSet(
        name=name,
        source=_Joined(parts),
        indices=np.arange(sum(map(len, parts)), dtype=np.int64),
        fingerprint=digest.hexdigest(),
        labels=targets,
        classes=classes,
        skipped=tuple(item for part in parts for item in part.skipped),
        num_sidecars=sum(part.num_sidecars for part in parts),
    )
