"""`edgeseed gallery`: labelled photos become the index by which an app recognises them.

The rejection threshold is chosen on photos that are not in the gallery. Each of them gives two
cosines: with the nearest entry of all, as a photo of a known class, and with the nearest entry when
its own class is taken out, as a photo of something that the gallery has never seen. The threshold
is where the shares of known photos that are accepted and of unknown ones that are rejected are
highest together.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeseed.core.bundle import MANIFEST, read_bundle
from edgeseed.core.console import count_of
from edgeseed.core.errors import DataError, UsageError
from edgeseed.core.files import sha256_file
from edgeseed.core.photos import PhotoSet, open_photos
from edgeseed.core.preprocess import Preprocess
from edgeseed.export.apps.gallery import Gallery, classify, make_gallery, write_gallery
from edgeseed.export.targets import TARGETS

DEFAULT_PER_CLASS = 5
_BATCH = 32
_LEAST_HELD_OUT = 2
"""Photos a class besides the gallery's, below which a threshold says nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GalleryResult:
    """A gallery that was just written, and how well it recognises photos that are not in it."""

    gallery: Path
    num_entries: int
    num_classes: int
    per_class: int
    embedding_dim: int
    threshold: float
    num_held_out: int
    accuracy: float
    """Share of the held-out photos whose nearest entries vote for the right class."""
    accepted: float
    """Share of the held-out photos that reach the threshold."""
    accepted_accuracy: float
    """Of those, the share that is right."""
    unknown_rejected: float
    """Share of the held-out photos that are rejected when their own class is taken out."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {**dataclasses.asdict(self), "gallery": str(self.gallery)}


def gallery(
    model: str | Path,
    *,
    data: str | Path,
    out: str | Path,
    per_class: int = DEFAULT_PER_CLASS,
    max_held_out: int = 1000,
    seed: int = 0,
) -> GalleryResult:
    """Makes a gallery of labelled photos.

    Args:
        model: A student (`PATH.safetensors`, `NAME[.tag]` or `NAME=CHECKPOINT`), or a bundle,
            whose own model computes the embeddings then.
        data: Photos in class folders, or a named set.
        out: The file to write.
        per_class: Photos a class that go into the gallery; the others are held out.
        max_held_out: Most photos to choose the threshold and to measure on.
        seed: Of the choice.

    Raises:
        DataError: If there are no labels, or too few photos of a class; the message names it.
        UsageError: If the model is neither a student nor a bundle.
    """
    if per_class < 1:
        raise UsageError(f"--per-class {per_class} must be at least 1")
    photos = open_photos(data, labels=True)
    if photos.labels is None or photos.classes is None:
        raise DataError(f"{data} has no labels; lay it out as {data}/CLASS/photo.jpg")
    with _opened(model) as embedder:
        return _make(
            embedder, photos, Path(out), per_class=per_class, limit=max_held_out, seed=seed
        )


def _make(
    embedder: "_Embedder", photos: PhotoSet, out: Path, *, per_class: int, limit: int, seed: int
) -> GalleryResult:
    assert photos.labels is not None
    assert photos.classes is not None
    entries, held_out = _split(photos, per_class=per_class, max_held_out=limit, seed=seed)
    made = make_gallery(
        embedder.embed(photos.subset(entries)),
        photos.labels[entries],
        classes=photos.classes,
        threshold=-1.0,
        student_sha256=embedder.student_sha256,
    )
    queries, labels = embedder.embed(photos.subset(held_out)), photos.labels[held_out]
    known, unknown = _nearest_cosines(made, queries, labels)
    threshold = choose_threshold(known, unknown)
    made = dataclasses.replace(made, threshold=threshold)
    write_gallery(out, made)
    answers = np.array([classify(made, query).index for query in queries])
    right, accepted = answers == labels, known >= threshold
    return GalleryResult(
        gallery=out,
        num_entries=len(entries),
        num_classes=len(photos.classes),
        per_class=per_class,
        embedding_dim=made.embeddings.shape[1],
        threshold=threshold,
        num_held_out=len(held_out),
        accuracy=float(right.mean()),
        accepted=float(accepted.mean()),
        accepted_accuracy=float(right[accepted].mean()) if accepted.any() else 0.0,
        unknown_rejected=float((unknown < threshold).mean()),
    )


def choose_threshold(known: npt.NDArray[np.float64], unknown: npt.NDArray[np.float64]) -> float:
    """The cosine at which known photos are best told from unknown ones.

    Args:
        known: Largest cosine of each photo whose class is in the gallery.
        unknown: The same with its class taken out.

    Returns:
        The midpoint of the gap with the most known photos above and unknown ones below; the lower
        one where several are as good, so that fewer photos of the user's own are turned away.
    """
    values = np.unique(np.concatenate([known, unknown]))
    borders = np.concatenate([[values[0] - 1e-6], (values[1:] + values[:-1]) / 2])
    accepted = (known[None] >= borders[:, None]).mean(axis=1)
    rejected = (unknown[None] < borders[:, None]).mean(axis=1)
    return float(borders[int((accepted + rejected).argmax())])


def _split(
    photos: PhotoSet, *, per_class: int, max_held_out: int, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    assert photos.labels is not None
    assert photos.classes is not None
    random = np.random.default_rng(seed)
    entries, held_out = [], []
    for index, name in enumerate(photos.classes):
        own = random.permutation(np.flatnonzero(photos.labels == index))
        if len(own) < per_class + _LEAST_HELD_OUT:
            # Of the smallest class: what is advised must not fail for the next one.
            most = int(np.bincount(photos.labels).min()) - _LEAST_HELD_OUT
            advice = f"add more, or give --per-class {most}" if most >= 1 else "add more"
            raise DataError(
                f"class {name!r} has {count_of(len(own), 'photo')}; {per_class} for the gallery "
                f"and {_LEAST_HELD_OUT} to choose the threshold on are needed: {advice}"
            )
        entries.append(own[:per_class])
        held_out.append(own[per_class:])
    if len(photos.classes) < 2:
        raise DataError("a gallery of one class has nothing to tell it from; add another class")
    rest = random.permutation(np.concatenate(held_out))[:max_held_out]
    return np.concatenate(entries), np.sort(rest)


def _nearest_cosines(
    made: Gallery, queries: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Largest cosine of each query with any entry, and with any of another class."""
    units = queries / np.maximum(np.linalg.norm(queries, axis=1, keepdims=True), 1e-12)
    cosines = units.astype(np.float64) @ made.embeddings.astype(np.float64).T
    is_own = made.class_indices[None, :] == labels[:, None]
    return cosines.max(axis=1), np.where(is_own, -np.inf, cosines).max(axis=1)


class _Embedder:
    """Computes embeddings of preprocessed photos."""

    def __init__(self, preprocess: Preprocess, student_sha256: str, run: Any) -> None:
        self._preprocess = preprocess
        self.student_sha256 = student_sha256
        self._run = run

    def embed(self, photos: PhotoSet) -> npt.NDArray[np.float32]:
        """(N, D) in the photos' order."""
        return np.concatenate([self._run(pixels) for pixels in self._batches(photos)])

    def _batches(self, photos: PhotoSet) -> Iterator[npt.NDArray[np.uint8]]:
        for start in range(0, len(photos), _BATCH):
            stop = min(start + _BATCH, len(photos))
            yield np.stack(
                [
                    self._preprocess.pixels(photos.image(i, channels=self._preprocess.channels))
                    for i in range(start, stop)
                ]
            )


@contextlib.contextmanager
def _opened(source: str | Path) -> Iterator[_Embedder]:
    model = Path(source)
    if (model / MANIFEST).is_file():
        bundle = read_bundle(model)
        manifest = bundle.manifest
        opened = TARGETS.load(manifest.target).open(bundle.path, manifest)
        yield _Embedder(
            manifest.preprocess,
            manifest.student_sha256,
            lambda pixels: opened.infer(pixels)["embedding"],
        )
        return
    if model.is_dir():
        raise UsageError(
            f"{model} is a folder, but no bundle; give a student.safetensors or a bundle"
        )
    # Not at the top: reading a bundle of ONNX needs no torch.
    from edgeseed.core.network import load_student
    from edgeseed.core.pretrained import student_file
    from edgeseed.export.proof.reference import reference_outputs

    with student_file(source) as file:
        network, spec = load_student(file)
        yield _Embedder(
            spec.preprocess,
            sha256_file(file),
            lambda pixels: reference_outputs(network, spec.preprocess, pixels)["embedding"],
        )
