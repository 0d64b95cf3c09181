"""What the model on the device answers to photos: top-1, and agreement with the float student.

The device runs the photos; this file, on the host, chooses them and scores the answers. Agreement
needs no label: it compares with the float student in the bundle, by the measures of
core/agreement.py, which the export's gates use too.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeseed.core.agreement import (
    agreement_hits,
    agreement_measure,
    cosines,
    retrieval_pool_size,
)
from edgeseed.core.arrays import read_arrays
from edgeseed.core.bundle import Bundle
from edgeseed.core.console import progress, warn
from edgeseed.core.errors import ArtifactError, WorkError
from edgeseed.core.photos import PhotoSet, open_photos

MAX_PHOTOS = 1000
CONFIDENCE = 0.95
STUDENT = "reference/student.safetensors"
HELD_OUT = "reference/photos.npz"
_BATCH = 64

Outputs = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationPhotos:
    """Photos as the model's preprocessing leaves them.

    Attributes:
        pixels: (N, 3, H, W) uint8 RGB.
        labels: (N,) indices into the bundle's classes, or None.
        source: where they came from.
        fingerprint: digest of the set: equal ones are the same photos.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    source: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """A share of n photos with its Wilson 95 % interval (Wilson 1927)."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, hits: NDArray[np.bool_]) -> "Share":
        """The share of photos that hit."""
        n, p = hits.size, float(hits.mean())
        z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return cls(value=p, low=max(0.0, centre - reach), high=min(1.0, centre + reach), n=n)


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """How good the answers were; what could not be known is None, and `note` says why.

    Attributes:
        n: photos run on the device.
        source: where they came from.
        fingerprint: digest of the set; None in files of the first versions.
        top1: share of labelled photos whose top class is the label.
        float_top1: the same of the float student, on the host.
        agreement: share of photos on which device and float student agree.
        agreement_of: `top1` (same top class) or `self-retrieval` (no head: the nearest float
            embedding is the same photo's).
        agreement_pool: among how many photos self-retrieval looks for one; None of top-1, and in
            files of the first versions, which looked among all.
        cosine: mean cosine between the embeddings of device and float student.
        note: what is missing, and why.
    """

    n: int
    source: str
    fingerprint: str | None
    top1: Share | None
    float_top1: Share | None
    agreement: Share | None
    agreement_of: Literal["top1", "self-retrieval"]
    cosine: float | None
    note: str
    agreement_pool: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able copy."""
        return asdict(self)


def gather_photos(bundle: Bundle, data: str | Path | None, *, seed: int) -> EvaluationPhotos | None:
    """The photos to run: from `data`, or else the held-out ones that the bundle carries.

    At most `MAX_PHOTOS`, drawn with `seed` from a larger set; None if there are none at all.

    Raises:
        DataError: If `data` holds no photos.
    """
    if data is None:
        return _held_out(bundle)
    photos = open_photos(data)
    if len(photos) > MAX_PHOTOS:
        drawn = np.random.default_rng(seed).choice(len(photos), MAX_PHOTOS, replace=False)
        photos = photos.subset(np.sort(drawn))
    labels = _labels_of_bundle(photos, bundle)
    return EvaluationPhotos(
        pixels=_decode(photos, bundle),
        labels=labels,
        # A path says more about a user's machine than a result should.
        source=Path(data).resolve().name if Path(data).exists() else photos.name,
        fingerprint=photos.fingerprint,
    )


def _held_out(bundle: Bundle) -> EvaluationPhotos | None:
    if HELD_OUT not in bundle.manifest.files:
        return None
    arrays = read_arrays(bundle.path / HELD_OUT)
    if "pixels" not in arrays:
        raise ArtifactError(f"{bundle.path / HELD_OUT} holds no pixels; export the bundle anew")
    # Labels index the bundle's classes, so without a head they say nothing.
    has_labels = "labels" in arrays and bundle.manifest.classes is not None
    return EvaluationPhotos(
        pixels=arrays["pixels"],
        labels=arrays["labels"].astype(np.int64) if has_labels else None,
        source=_source_of(bundle),
        fingerprint=bundle.manifest.files[HELD_OUT].sha256,
    )


def _source_of(bundle: Bundle) -> str:
    """What the bundle's own photos are; without any given, its export made colour fields."""
    source = bundle.manifest.provenance.photos.source
    if source.startswith("synthetic"):
        return f"the bundle's {source}, no photos"
    return "the bundle's held-out photos"


def _decode(photos: PhotoSet, bundle: Bundle) -> NDArray[np.uint8]:
    rows, preprocess = [], bundle.manifest.preprocess
    with progress("decoding photos", len(photos)) as bar:
        for index in range(len(photos)):
            rows.append(preprocess.pixels(photos.image(index, channels=preprocess.channels)))
            bar.advance()
    return np.stack(rows)


def _labels_of_bundle(photos: PhotoSet, bundle: Bundle) -> NDArray[np.int64] | None:
    """The photos' labels as indices into the bundle's classes, matched by name."""
    classes = bundle.manifest.classes
    if photos.labels is None or photos.classes is None or classes is None:
        return None
    unknown = sorted(set(photos.classes) - set(classes))
    if unknown:
        warn(
            f"{photos.name}: its class {unknown[0]!r} is none of the model's "
            f"({', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}), "
            "so its labels are not used"
        )
        return None
    index = np.array([classes.index(name) for name in photos.classes], dtype=np.int64)
    return index[photos.labels]


def float_outputs(bundle: Bundle, pixels: NDArray[np.uint8]) -> Outputs | None:
    """What the float student in the bundle answers, on the host; None if it is not in there."""
    if STUDENT not in bundle.manifest.files:
        return None
    import torch

    from edgeseed.core.network import load_student

    network, spec = load_student(bundle.path / STUDENT)
    parts: dict[str, list[NDArray[np.float32]]] = {}
    with torch.inference_mode():
        for start in range(0, len(pixels), _BATCH):
            batch = torch.from_numpy(spec.preprocess.normalize(pixels[start : start + _BATCH]))
            for name, value in network(batch)._asdict().items():
                if value is not None:
                    parts.setdefault(name, []).append(value.numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


def score(outputs: Outputs, photos: EvaluationPhotos, reference: Outputs | None) -> Accuracy:
    """Score the device's answers.

    Args:
        outputs: `embedding` (N, D) and, with a head, `logits` (N, C), as the device gave them.
        photos: what it was asked.
        reference: what the float student answered.

    Raises:
        WorkError: If the device answered with something that is no number.
    """
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise WorkError(f"the device's {name} has NaN or infinity in it; nothing was scored")
    has_head = "logits" in outputs
    hits = None if reference is None else agreement_hits(outputs, reference)
    return Accuracy(
        n=len(photos.pixels),
        source=photos.source,
        fingerprint=photos.fingerprint,
        top1=_top1(outputs, photos.labels),
        float_top1=None if reference is None else _top1(reference, photos.labels),
        agreement=None if hits is None else Share.of(hits),
        agreement_of=agreement_measure(outputs),
        agreement_pool=None if hits is None or has_head else retrieval_pool_size(hits.size),
        cosine=None
        if reference is None
        else float(cosines(outputs["embedding"], reference["embedding"]).mean()),
        note=_note(has_head=has_head, has_labels=photos.labels is not None, reference=reference),
    )


def _top1(outputs: Outputs, labels: NDArray[np.int64] | None) -> Share | None:
    if labels is None or "logits" not in outputs:
        return None
    return Share.of(outputs["logits"].argmax(axis=1) == labels)


def _note(*, has_head: bool, has_labels: bool, reference: Outputs | None) -> str:
    missing = []
    if not has_head:
        missing.append("no top-1: the model has no head")
    elif not has_labels:
        missing.append("no top-1: the photos have no labels of the model's classes")
    if reference is None:
        missing.append(f"no agreement: the bundle has no {STUDENT}")
    return "; ".join(missing)
