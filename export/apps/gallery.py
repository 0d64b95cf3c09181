"""`gallery.bin`: labelled embeddings that an app classifies by, and adds to on the device.

```text
offset  bytes
0       8        "EDGEGAL1"
8       4        M, uint32: length of the description
12      M        the description: JSON in UTF-8, padded with spaces: 12 + M is a multiple of 4
12+M    4 N      class index of each entry, uint32
...     4 N D    embeddings, float32, each of length 1, one entry after the other
```

All numbers are little-endian. The description holds `schema_version` (1), `embedding_dim` (D),
`num_entries` (N), `classes` (names), `k`, `temperature`, `threshold`, and `student_sha256`: an
embedding means something beside embeddings of the same student only.

A query is answered so, in double precision, by every language alike:

1. The query is scaled to length 1; a query of zeros is not recognised.
2. Its cosine with each entry is the sum of products, in order.
3. The k entries of the largest cosine vote, the earlier one first where two are equal. A vote is
   exp((cosine - largest cosine) / temperature).
4. The class with the most votes is the answer, the first where two are equal.
5. If the largest cosine is below the threshold, the answer is "not recognised".
"""

import dataclasses
import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseed.core.errors import ArtifactError, SchemaVersionError, UsageError
from edgeseed.core.files import atomic_file

SCHEMA_VERSION = 1
_MAGIC = b"EDGEGAL1"
DEFAULT_K = 5
DEFAULT_TEMPERATURE = 0.07
"""As in the kNN protocol of Wu et al., 2018, arXiv 1805.01978."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gallery:
    """Labelled embeddings, and how they decide."""

    classes: tuple[str, ...]
    class_indices: npt.NDArray[np.uint32]
    """(N,)"""
    embeddings: npt.NDArray[np.float32]
    """(N, D), each of length 1."""
    threshold: float
    """Least cosine with the nearest entry; below, a photo is not recognised."""
    student_sha256: str
    k: int = DEFAULT_K
    temperature: float = DEFAULT_TEMPERATURE

    def __post_init__(self) -> None:
        if self.embeddings.ndim != 2 or len(self.embeddings) != len(self.class_indices):
            raise ValueError(
                f"{len(self.class_indices)} class indices and embeddings of shape "
                f"{self.embeddings.shape} do not belong together"
            )
        if len(self.class_indices) and int(self.class_indices.max()) >= len(self.classes):
            raise ValueError(
                f"class index {int(self.class_indices.max())} of {len(self.classes)} classes"
            )
        if self.k < 1 or self.temperature <= 0:
            raise ValueError(f"k={self.k} and temperature={self.temperature} must be above 0")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a gallery says of one embedding."""

    index: int | None
    """Of the class with the most votes; None where there is no entry, or the query is zero."""
    similarity: float
    """Largest cosine with any entry, -1 to 1."""
    share: float
    """Of the votes, those of the class, 0 to 1."""
    recognised: bool
    """Whether the similarity reaches the threshold."""


def unit(vector: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """The vector scaled to length 1; zeros stay zeros."""
    values = np.asarray(vector, np.float64)
    length = math.sqrt(float(np.dot(values, values)))
    return values / length if length > 0 else values


def classify(gallery: Gallery, embedding: npt.NDArray[np.floating[Any]]) -> Answer:
    """Answers one query.

    Args:
        gallery: The entries.
        embedding: (D,).
    """
    query = unit(embedding)
    if not len(gallery.embeddings) or not query.any():
        return Answer(index=None, similarity=0.0, share=0.0, recognised=False)
    cosines = gallery.embeddings.astype(np.float64) @ query
    nearest = np.argsort(-cosines, kind="stable")[: gallery.k]
    votes = np.zeros(len(gallery.classes))
    best = float(cosines[nearest[0]])
    for entry in nearest:
        vote = math.exp((float(cosines[entry]) - best) / gallery.temperature)
        votes[gallery.class_indices[entry]] += vote
    winner = int(votes.argmax())
    return Answer(
        index=winner,
        similarity=best,
        share=float(votes[winner] / votes.sum()),
        recognised=best >= gallery.threshold,
    )


def make_gallery(
    embeddings: npt.NDArray[np.floating[Any]],
    class_indices: Sequence[int] | npt.NDArray[np.integer[Any]],
    *,
    classes: Sequence[str],
    threshold: float,
    student_sha256: str,
) -> Gallery:
    """A gallery of embeddings of any length.

    Args:
        embeddings: (N, D).
        class_indices: (N,).
        classes: Names.
        threshold: See `Gallery`.
        student_sha256: Of the student that made the embeddings.
    """
    units = [unit(row).astype(np.float32) for row in embeddings]
    dim = embeddings.shape[1]
    return Gallery(
        classes=tuple(classes),
        class_indices=np.asarray(class_indices, np.uint32),
        embeddings=np.stack(units) if units else np.zeros((0, dim), np.float32),
        threshold=threshold,
        student_sha256=student_sha256,
    )


def write_gallery(path: Path, gallery: Gallery) -> None:
    """Writes `gallery.bin`, whole or not at all."""
    num_entries, dim = gallery.embeddings.shape
    description = {
        "schema_version": SCHEMA_VERSION,
        "embedding_dim": dim,
        "num_entries": num_entries,
        "classes": list(gallery.classes),
        "k": gallery.k,
        "temperature": gallery.temperature,
        "threshold": gallery.threshold,
        "student_sha256": gallery.student_sha256,
    }
    text = json.dumps(description, allow_nan=False).encode("ascii")
    text += b" " * (-(12 + len(text)) % 4)
    with atomic_file(path) as temporary:
        temporary.write_bytes(
            _MAGIC
            + struct.pack("<I", len(text))
            + text
            + gallery.class_indices.astype("<u4").tobytes()
            + gallery.embeddings.astype("<f4").tobytes()
        )


def read_gallery(path: str | Path) -> Gallery:
    """Reads `gallery.bin`.

    Raises:
        UsageError: If there is no such file.
        SchemaVersionError: If a newer edgeseed wrote it.
        ArtifactError: If it is no gallery, or not whole.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path} does not exist; a file made by `edgeseed gallery` was expected")
    content = path.read_bytes()
    if content[:8] != _MAGIC or len(content) < 12:
        raise ArtifactError(f"{path} is no gallery: it does not start with {_MAGIC.decode()}")
    (length,) = struct.unpack_from("<I", content, 8)
    start = 12 + length
    try:
        values = json.loads(content[12:start].decode("utf-8"))
        if values["schema_version"] > SCHEMA_VERSION:
            raise SchemaVersionError(
                f"{path} has schema version {values['schema_version']}, this edgeseed reads up to "
                f"{SCHEMA_VERSION}: pip install --upgrade edgeseed"
            )
        num_entries, dim = int(values["num_entries"]), int(values["embedding_dim"])
        if len(content) != start + 4 * num_entries * (1 + dim):
            raise ArtifactError(f"{path} is not whole: {len(content)} bytes; copy or make it again")
        return Gallery(
            classes=tuple(values["classes"]),
            class_indices=np.frombuffer(content, "<u4", num_entries, start),
            embeddings=np.frombuffer(
                content, "<f4", num_entries * dim, start + 4 * num_entries
            ).reshape(num_entries, dim),
            threshold=float(values["threshold"]),
            student_sha256=str(values["student_sha256"]),
            k=int(values["k"]),
            temperature=float(values["temperature"]),
        )
    except (KeyError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} is no valid gallery ({error!r}); make it again") from error
