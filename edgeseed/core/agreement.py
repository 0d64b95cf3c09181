"""Agreement of a model with the float student: one definition of every measure that is reported.

`verify` recomputes these on the machine that exported a model, `profile` on the device, and the
program on the device compares golden outputs by them. A number of one stage is only comparable with
that of another if both are computed here.

Only numpy, and Python 3.8: this file travels to devices.

```text
legend   N photos, D embedding values, C classes; "reference" is the float student
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, Literal

    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Hits = NDArray[np.bool_]
    AgreementMeasure = Literal["top1", "self-retrieval"]

RETRIEVAL_POOL = 256
"""Self-retrieval looks for a photo among at most this many: more photos make the task harder."""
NEIGHBOURS = 10
"""How many nearest photos are compared by `neighbour_overlap`."""
# Different processors add in another order, and an integer kernel may round a tie the other way.
GOLDEN_LIMITS: dict[bool, float] = {False: 1e-3, True: 5e-2}
"""Largest relative error of a golden output, by whether the model rounds below float32."""
_UNKNOWN_ERROR = 1e30
_SMALLEST_NORM = 1e-12


def golden_limit(precision: str) -> float:
    """Largest relative error that golden outputs of a model of this precision may have."""
    return GOLDEN_LIMITS[precision != "fp32"]


def relative_error(value: NDArray[Any], reference: NDArray[Any]) -> float:
    """Largest absolute difference over largest absolute reference value, of the worst photo.

    Args:
        value: (N, ...) outputs.
        reference: The same of what they are compared with.

    Returns:
        1e30 where it is not finite.
    """
    axes = tuple(range(1, reference.ndim))
    scale = np.abs(reference).max(axis=axes)
    with np.errstate(invalid="ignore"):
        error = np.abs(value - reference).max(axis=axes)
        worst = float(np.max(error / np.maximum(scale, np.finfo(np.float32).tiny)))
    return worst if np.isfinite(worst) else _UNKNOWN_ERROR


def golden_error(name: str, value: NDArray[Any], golden: Mapping[str, NDArray[Any]]) -> float:
    """How far one output is from its golden one.

    Args:
        name: Of the output.
        value: (N, ...) what was found.
        golden: All golden outputs. Of two classes that are nearly equal, either may come first on
            another processor: so classes, which are integers, are compared by their logits.
    """
    expected = golden[name]
    if expected.dtype.kind not in "iu":
        return relative_error(value, expected)
    logits = golden["logits"]
    # Whatever type the host or the device keeps them in.
    places = [np.asarray(each).astype(np.int64) for each in (value, expected)]
    if any(each.min() < 0 or each.max() >= logits.shape[1] for each in places):
        return _UNKNOWN_ERROR
    found, meant = (np.take_along_axis(logits, each, axis=1) for each in places)
    largest = np.maximum(np.abs(logits).max(axis=1), np.finfo(np.float32).tiny)
    return float(np.max(np.abs(found - meant).max(axis=1) / largest))


def relative_rms(value: NDArray[Any], reference: NDArray[Any]) -> float:
    """Root mean square of the difference over that of the reference, over all photos.

    Logits are compared as they are: a constant that was added to them counts, a softmax too.
    """
    scale = max(float(np.mean(np.square(reference, dtype=np.float64))), 1e-20)
    with np.errstate(over="ignore", invalid="ignore"):
        error = float(np.mean(np.square(value.astype(np.float64) - reference)))
    found = float(np.sqrt(error / scale))
    return found if np.isfinite(found) else _UNKNOWN_ERROR


def photo_rms(value: NDArray[Any], reference: NDArray[Any]) -> float:
    """Root mean square over the photos of each photo's error, relative to the photo's own size.

    Every photo counts alike, however large its outputs are: of a student with one photo sixty times
    as large as the others, which int8 clips, `relative_rms` sees that photo alone. Photos smaller
    than the median are measured by the median.

    Args:
        value: (N, D).
        reference: (N, D).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        errors = np.linalg.norm(value.astype(np.float64) - reference, axis=1)
        found = float(np.sqrt(np.mean(np.square(errors * _photo_weights(reference)))))
    return found if np.isfinite(found) else _UNKNOWN_ERROR


def median_scale(value: NDArray[Any], reference: NDArray[Any]) -> float:
    """By what the outputs are multiplied: the median over the photos of each one's projection.

    Rounding errs in all directions and leaves it near one, however much it errs: within 0.03 for
    int8 students that agree on 72 to 96 % of 160 photos. Cosines and top classes do not see it.

    Args:
        value: (N, D).
        reference: (N, D).
    """
    truth = reference.astype(np.float64)
    squares = np.sum(truth * truth, axis=1)
    there = squares > 0
    if not there.any():
        return 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        found = float(np.median(np.sum(value * truth, axis=1)[there] / squares[there]))
    return found if np.isfinite(found) else _UNKNOWN_ERROR


def _photo_weights(reference: NDArray[Any]) -> NDArray[np.float64]:
    """(N,) what brings photos to one size: over each one's norm, or the median of all norms."""
    norms = np.linalg.norm(reference.astype(np.float64), axis=1)
    return np.asarray(1 / np.maximum(norms, max(float(np.median(norms)), _SMALLEST_NORM)))


def cosines(value: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """(N,) cosines between the rows of two (N, D) arrays."""
    dot = np.sum(value * reference, axis=1, dtype=np.float64)
    norms = np.linalg.norm(value, axis=1) * np.linalg.norm(reference, axis=1)
    return np.asarray(dot / np.maximum(norms, _SMALLEST_NORM))


def kl_divergences(logits: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """(N,) Kullback-Leibler divergences of the predicted classes from the reference's, in nats."""
    truth, found = _log_softmax(reference), _log_softmax(logits)
    return np.asarray(np.sum(np.exp(truth) * (truth - found), axis=1))


def top1_hits(logits: NDArray[Any], reference: NDArray[Any]) -> Hits:
    """(N,) whether each photo's likeliest class is the reference's."""
    return np.asarray(logits.argmax(axis=1) == reference.argmax(axis=1))


def top1_agreement(logits: NDArray[Any], reference: NDArray[Any]) -> float:
    """Share of photos whose likeliest class is the reference's."""
    return float(np.mean(top1_hits(logits, reference)))


def self_retrieval_hits(embedding: NDArray[Any], reference: NDArray[Any]) -> Hits:
    """(N,) whether the reference embedding nearest to each photo's, by cosine, is its own.

    Nearest among at most `RETRIEVAL_POOL` photos. Of more, every k-th forms a pool, so that photos
    that lie beside each other in a folder of classes are not all of one class.
    """
    hits = np.zeros(len(reference), dtype=np.bool_)
    for pool in _pools(len(reference)):
        own = reference[pool]
        nearest = (_unit(embedding[pool]) @ _unit(own).T).argmax(axis=1)
        # A photo that is in the set twice is as good an answer as its twin.
        hits[pool] = np.all(own[nearest] == own, axis=1)
    return hits


def self_retrieval(embedding: NDArray[Any], reference: NDArray[Any]) -> float:
    """Share of photos that `self_retrieval_hits` finds again."""
    return float(np.mean(self_retrieval_hits(embedding, reference)))


def retrieval_pool_size(count: int) -> int:
    """Among how many photos self-retrieval looks for one of `count`."""
    return max(len(range(count)[pool]) for pool in _pools(count))


def agreement_measure(outputs: Mapping[str, Any]) -> AgreementMeasure:
    """By what agreement is counted: top-1 where there are logits, else self-retrieval."""
    return "top1" if "logits" in outputs else "self-retrieval"


def agreement_hits(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> Hits:
    """(N,) whether model and reference agree on each photo, by `agreement_measure`.

    Args:
        outputs: `embedding` (N, D) and, with a head, `logits` (N, C) of the model.
        reference: The float student's.
    """
    if agreement_measure(reference) == "top1":
        return top1_hits(outputs["logits"], reference["logits"])
    return self_retrieval_hits(outputs["embedding"], reference["embedding"])


def agreement(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    """Share of photos on which model and reference agree, by `agreement_measure`."""
    return float(np.mean(agreement_hits(outputs, reference)))


def neighbour_overlap(embedding: NDArray[Any], reference: NDArray[Any]) -> float:
    """Share of each photo's nearest photos that the model's embeddings share with the reference's.

    A query by the model against an index of the reference's embeddings, as in an app whose index
    was made with the float student: each photo's `NEIGHBOURS` nearest others (of few photos: a
    quarter of them), by cosine, in the same pools as `self_retrieval_hits`.
    """
    shares = []
    for pool in _pools(len(reference)):
        index, queries = _unit(reference[pool]), _unit(embedding[pool])
        count = min(NEIGHBOURS, max(1, len(index) // 4))
        found, truth = _nearest(queries, index, count), _nearest(index, index, count)
        # Not `strict`, which Python 3.8 does not have.
        shares += [len(set(a).intersection(b)) / count for a, b in zip(found, truth)]  # noqa: B905
    return float(np.mean(shares))


def channel_correlations(value: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """(D,) correlations of each channel with the reference's, over photos brought to one size.

    NaN where the reference's channel hardly varies: by under a hundredth of the median channel, or
    not at all. There is nothing to follow then, and rounding would be all that is compared.
    """
    own, truth = _centred_channels(value, reference)
    spread = _spread_of_channels(truth)
    norms = np.linalg.norm(own, axis=0) * spread
    return np.asarray(np.sum(own * truth, axis=0) / np.maximum(norms, 1e-30))


def channel_gains(value: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """(D,) slopes of each channel over the reference's: 2 where it is twice as large.

    Over photos brought to one size, and NaN where `channel_correlations` is.
    """
    own, truth = _centred_channels(value, reference)
    spread = _spread_of_channels(truth)
    return np.asarray(np.sum(own * truth, axis=0) / np.square(spread))


def channel_photos(reference: NDArray[Any]) -> NDArray[np.float64]:
    """(D,) how many photos each channel is seen on, counted by how far from zero they move it.

    N where it is as large on each, 1 where it is zero on all but one.
    """
    sizes = np.abs(reference.astype(np.float64) * _photo_weights(reference)[:, None])
    return np.asarray(
        np.square(np.sum(sizes, axis=0)) / np.maximum(np.sum(np.square(sizes), axis=0), 1e-30)
    )


def _centred_channels(
    value: NDArray[Any], reference: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both without the mean of each channel, over photos brought to one size."""
    # One photo far larger than the others, which int8 clips, would decide every correlation.
    weights = _photo_weights(reference)
    shares = np.square(weights) / np.sum(np.square(weights))
    own, truth = (
        (each - shares @ each.astype(np.float64)) * weights[:, None] for each in (value, reference)
    )
    return own, truth


def _spread_of_channels(truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D,) how much each channel varies; NaN where it hardly does."""
    spread = np.linalg.norm(truth, axis=0)
    spread[spread <= 0.01 * np.median(spread)] = np.nan
    return np.asarray(spread)


def output_distance(outputs: Mapping[str, Array], reference: Mapping[str, Array]) -> float:
    """How far outputs are from the reference's: a number without steps, to rank candidates by.

    With a head, the mean Kullback-Leibler divergence between the predicted classes; without, one
    minus the mean cosine. Agreement itself moves in steps of one photo, and on a few dozen photos
    most candidates tie.
    """
    if "logits" not in reference:
        return 1.0 - float(cosines(outputs["embedding"], reference["embedding"]).mean())
    return float(np.mean(kl_divergences(outputs["logits"], reference["logits"])))


def _pools(count: int) -> Iterator[slice]:
    step = max(1, -(-count // RETRIEVAL_POOL))
    for first in range(step):
        yield slice(first, count, step)


def _nearest(queries: Array, index: Array, count: int) -> NDArray[np.intp]:
    """(N, count) rows of the index nearest to each query, but for its own."""
    scores = queries @ index.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :count]


def _unit(rows: NDArray[Any]) -> Array:
    norms = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _SMALLEST_NORM)
    return np.asarray(rows / norms, dtype=np.float32)


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
