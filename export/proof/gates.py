"""The gates: what an exported model must hold against the float student, as numbers with limits.

```text
parity            float models   largest |difference| over largest |value|, worst photo and output;
                  of float16 at most twice what rounding the student's weights and values costs,
                  in the worst of four ways of rounding
top1_agreement    quantized      share of photos whose top class is the float student's
self_retrieval    quantized, no head: share of photos whose embedding lies nearest to the float
                  embedding of the same photo, among 256 photos
embedding_cosine  quantized      mean cosine to the float embedding
rounding          quantized      distance to the simulated program, over what rounding costs that
logits_rms        quantized      root mean square of each photo's error over its logits' size
logits_kl         quantized      mean divergence of the predicted classes, in nats
worst_cosine      quantized      least cosine to the float embedding
low_cosine        --against      5th percentile of the cosines to the float embedding
scale             --against      by what share the outputs are larger or smaller than the student's
neighbours        quantized      share of each photo's nearest photos that stay its nearest
channels          quantized      worst channel's missing correlation, or wrong size, over what
                                 rounding explains (channels.py)
added_outputs     --add-outputs  probabilities and best classes follow from the file's logits
accuracy_drop     with labels    float accuracy minus this model's, in points
batch             not Core ML    outputs alone, in pairs and in sevens agree
golden            all            the golden photos give their stored tensors and outputs
```
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgeseed.core.agreement import (
    channel_correlations,
    cosines,
    kl_divergences,
    median_scale,
    neighbour_overlap,
    photo_rms,
    relative_error,
    self_retrieval,
    top1_agreement,
)
from edgeseed.core.bundle import GateResult
from edgeseed.export.proof.channels import worst_channel
from edgeseed.export.proof.reference import Outputs
from edgeseed.export.proof.rounding import Simulated

Array = npt.NDArray[np.float32]

MIN_AGREEMENT = 0.98
MIN_COSINE = 0.98
MAX_DROP_POINTS = 1.0
# Different batch sizes take different kernels, which add in another order.
BATCH_LIMIT: Mapping[bool, float] = {False: 1e-4, True: 2e-2}
BATCHES = (1, 2, 7)
# Formats write an operator of torch's as several, and each of them rounds.
FLOAT16_FACTOR = 2.0
FLOAT16_MOST = 5e-2
# What rounding costs is measured on the simulated program; a sound file stays within a factor of
# it. The margins are for models that rounding hardly moves, where kernels alone differ by as much.
_LEAST_ROUNDING = 5e-3
_DRAWN_ANEW = 1.5
_RMS_FACTOR, _RMS_MARGIN = 1.5, 1e-2
_KL_FACTOR, _KL_MARGIN, _KL_DRAWS = 2.0, 2e-3, 32
_COSINE_FACTOR, _COSINE_MARGIN = 3.0, 1e-2
_NEIGHBOUR_MARGIN = 0.1
# Where nothing says what rounding costs.
_FIXED_RMS, _FIXED_KL, _FIXED_COSINE, _FIXED_CORRELATION = 0.35, 0.1, 0.7, 0.5
_FIXED_SCALE = 0.1
MEASURED = frozenset({"rounding", "logits_rms", "logits_kl", "worst_cosine", "neighbours"})
"""Gates whose limit is measured, and may differ a little from machine to machine."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the gates demand of one export."""

    parity: float | None
    """None for a quantized model, which is judged by agreement."""
    min_agreement: float = MIN_AGREEMENT
    min_cosine: float = MIN_COSINE
    max_drop_points: float = MAX_DROP_POINTS
    spare_photos: int = 0
    """By how many photos agreement may fall short: on another machine than the one that exported,
    where kernels add in another order, a photo between two classes may go the other way."""


def parity_gate(outputs: Outputs, reference: Outputs, *, limit: float) -> GateResult:
    """Float models: the outputs are the student's."""
    errors = {name: relative_error(outputs[name], reference[name]) for name in reference}
    worst = max(errors, key=lambda name: errors[name])
    return GateResult(
        name="parity",
        value=errors[worst],
        limit=limit,
        passed=errors[worst] <= limit,
        unit="relative error",
        n=len(reference[worst]),
        detail=f"worst output: {worst}",
    )


def _largest_error(outputs: Outputs, reference: Outputs) -> float:
    return max(relative_error(outputs[name], reference[name]) for name in reference)


def float16_limit(draws: Sequence[tuple[Outputs, Outputs]], *, least: float) -> float:
    """The parity that a float16 file must hold: some times what float16 itself costs.

    Args:
        draws: Outputs of the student with weights and values rounded to float16, and its own. Of
            several ways of rounding, the one that costs most counts: their mean refused a sound
            student, whose file was at 1.7 times the worst of four and 2.3 times the mean.
        least: Where the network hardly amplifies it.
    """
    cost = max(_largest_error(rounded, own) for rounded, own in draws)
    limit = min(max(least, FLOAT16_FACTOR * cost), max(least, FLOAT16_MOST))
    # Two digits: the next machine's kernels give the same.
    return float(f"{limit:.1e}")


def similarity_gates(outputs: Outputs, reference: Outputs, *, limits: Limits) -> list[GateResult]:
    """Gates of quantized models: top-1 agreement and embeddings against the float student."""
    n = len(reference["embedding"])
    if "logits" in reference:
        name, share = "top1_agreement", top1_agreement(outputs["logits"], reference["logits"])
    else:
        name, share = "self_retrieval", self_retrieval(outputs["embedding"], reference["embedding"])
    similarity = cosines(outputs["embedding"], reference["embedding"])
    mean = float(similarity.mean())
    return [
        GateResult(
            name=name, value=share, limit=limits.min_agreement,
            # Shares of whole photos: the last digits are of the division.
            passed=share >= limits.min_agreement - limits.spare_photos / n - 1e-9,
            unit="share of photos", n=n,
            detail="against the float student",
        ),
        GateResult(
            name="embedding_cosine", value=mean, limit=limits.min_cosine,
            passed=mean >= limits.min_cosine, unit="mean cosine", n=n,
            detail=f"5th percentile {np.percentile(similarity, 5):.4f}",
        ),
    ]  # fmt: skip


def rounding_gates(
    outputs: Outputs, reference: Outputs, rounding: Simulated, *, slack: float
) -> list[GateResult]:
    """Quantized models: the outputs err as rounding does, and no more.

    Args:
        outputs: Of the file.
        reference: The float student's.
        rounding: Of the simulated program, whose errors are those of rounding alone.
        slack: How far from the simulation the file may be, over how far that is from the student.
            A format that computes in float32 between integers is nearly equal to it, but for ties;
            one that computes in float16 rounds other ties. See `_rounding_gate`.
    """
    n = len(reference["embedding"])
    simulated = rounding.outputs
    results = [_rounding_gate(outputs, reference, rounding, slack=slack)]
    if "logits" in reference:
        logits, truth, honest = (each["logits"] for each in (outputs, reference, simulated))
        limits = (
            ("logits_rms", photo_rms, _RMS_FACTOR, _RMS_MARGIN, "of a photo's logits"),
            ("logits_kl", _mean_kl, _KL_FACTOR, _KL_MARGIN, "nats"),
        )
        for name, measure, factor, margin, unit in limits:
            cost = measure(honest, truth)
            most = factor * cost
            if measure is _mean_kl:
                most = max(most, min(_kl_by_chance(honest, truth), _FIXED_KL))
            limit = _two_digits(most + margin)
            value = measure(logits, truth)
            results.append(
                GateResult(
                    name=name, value=value, limit=limit, passed=value <= limit, unit=unit, n=n,
                    detail=f"rounding alone costs {cost:.2g}",
                )
            )  # fmt: skip
    return [
        *results,
        *_embedding_gates(outputs, reference, simulated),
        _channel_gate(outputs, reference, rounding),
    ]


def _rounding_gate(
    outputs: Outputs, reference: Outputs, rounding: Simulated, *, slack: float
) -> GateResult:
    """The distance to the simulation, over what rounding costs it.

    The limit is `slack`, and what other last bits make of the simulation itself. Rounding that is
    drawn anew altogether would be at the square root of two.
    """
    found = []
    for name, truth in reference.items():
        simulated = rounding.outputs[name]
        cost = max(photo_rms(simulated, truth), _LEAST_ROUNDING)
        ties = 0.0 if rounding.again is None else photo_rms(rounding.again[name], simulated) / cost
        limit = max(slack, _two_digits(min(slack + ties, _DRAWN_ANEW)))
        found.append((photo_rms(outputs[name], simulated) / cost, limit, ties, name))
    share, limit, ties, worst = max(found, key=lambda each: each[0] / each[1])
    return GateResult(
        name="rounding",
        value=share,
        limit=limit,
        passed=share <= limit,
        unit="of the rounding error",
        n=len(reference[worst]),
        detail=f"from the simulated program; worst output: {worst}; ties alone {ties:.2g}",
    )


def _mean_kl(logits: Array, reference: Array) -> float:
    found = float(np.mean(kl_divergences(logits, reference)))
    return found if np.isfinite(found) else 1e30


def _kl_by_chance(logits: Array, reference: Array) -> float:
    """The most that the mean divergence comes to when photos exchange their errors.

    A few photos between two classes make most of the mean, of a network that is sure of the others
    by far. What one simulation gives there is chance: of 42 photos, a sound file had five times as
    much, by errors of the same size.
    """
    size = np.sqrt(np.mean(np.square(reference), axis=1, keepdims=True)) + 1e-12
    errors = (logits - reference) / size
    random = np.random.default_rng(0)
    draws = (errors[random.permutation(len(errors))] for _ in range(_KL_DRAWS))
    return max(_mean_kl(reference + drawn * size, reference) for drawn in draws)


def _embedding_gates(outputs: Outputs, reference: Outputs, simulated: Outputs) -> list[GateResult]:
    value, truth, honest = (each["embedding"] for each in (outputs, reference, simulated))
    worst, cost = float(cosines(value, truth).min()), 1 - float(cosines(honest, truth).min())
    least = 1 - _two_digits(_COSINE_FACTOR * cost + _COSINE_MARGIN)
    kept, kept_by_rounding = neighbour_overlap(value, truth), neighbour_overlap(honest, truth)
    fewest = max(0.0, float(f"{kept_by_rounding - _NEIGHBOUR_MARGIN:.2f}"))
    return [
        GateResult(
            name="worst_cosine", value=worst, limit=least, passed=worst >= least,
            unit="least cosine", n=len(truth), detail=f"by rounding alone {1 - cost:.4f}",
        ),
        GateResult(
            name="neighbours", value=kept, limit=fewest, passed=kept >= fewest,
            unit="share of neighbours", n=len(truth),
            detail=f"by rounding alone {kept_by_rounding:.3f}",
        ),
    ]  # fmt: skip


def _channel_gate(outputs: Outputs, reference: Outputs, rounding: Simulated) -> GateResult:
    worst = worst_channel(outputs, reference, rounding)
    return GateResult(
        name="channels", value=worst.share, limit=1.0, passed=worst.share <= 1.0,
        unit="of what rounding explains", n=len(reference["embedding"]), detail=worst.detail,
    )  # fmt: skip


def fixed_gates(outputs: Outputs, reference: Outputs) -> list[GateResult]:
    """Quantized models whose rounding is not known: limits that no sound model came near.

    For `verify --against`, which takes no number from the bundle.
    """
    n = len(reference["embedding"])
    least = {
        name: float(np.nanmin(channel_correlations(outputs[name], truth), initial=1.0))
        for name, truth in reference.items()
    }
    weakest = min(least, key=lambda name: least[name])
    # Not the worst: a photo unlike all others is clipped, and an honest export has had one at 0.80.
    cosine = float(np.percentile(cosines(outputs["embedding"], reference["embedding"]), 5))
    found = [
        ("low_cosine", cosine, _FIXED_COSINE, "5th percentile of cosines", ""),
        ("channels", least[weakest], _FIXED_CORRELATION, "least correlation", f"of the {weakest}"),
    ]
    results = [
        GateResult(name=name, value=value, limit=limit, passed=value >= limit, unit=unit, n=n,
                   detail=detail)
        for name, value, limit, unit, detail in found
    ]  # fmt: skip
    # Classes depend on how far logits are apart, not on what all of them have in common.
    scales = {
        name: median_scale(*map(_centred, (outputs[name], truth)))
        if name == "logits"
        else median_scale(outputs[name], truth)
        for name, truth in reference.items()
    }
    furthest = max(scales, key=lambda name: abs(scales[name] - 1))
    off = abs(scales[furthest] - 1)
    results.append(
        GateResult(
            name="scale", value=off, limit=_FIXED_SCALE, passed=off <= _FIXED_SCALE,
            unit="of the student's", n=n, detail=f"{furthest} times {scales[furthest]:.3f}",
        )
    )  # fmt: skip
    if "logits" in reference:
        pair = outputs["logits"], reference["logits"]
        rms, divergence = photo_rms(*pair), _mean_kl(*pair)
        results += [
            GateResult(
                name="logits_rms", value=rms, limit=_FIXED_RMS, passed=rms <= _FIXED_RMS,
                unit="of a photo's logits", n=n,
            ),
            GateResult(
                name="logits_kl", value=divergence, limit=_FIXED_KL,
                passed=divergence <= _FIXED_KL, unit="nats", n=n,
            ),
        ]  # fmt: skip
    return results


def _centred(logits: Array) -> Array:
    centred: Array = logits - logits.mean(axis=1, keepdims=True)
    return centred


def _two_digits(value: float) -> float:
    """Rounded, so that the next machine's kernels give the same limit."""
    return float(f"{value:.1e}")


def accuracy_gate(
    logits: Array, reference: Array, labels: npt.NDArray[np.int64], *, max_drop_points: float
) -> GateResult:
    """With labels: the accuracy that the export costs."""
    before = 100 * float(np.mean(reference.argmax(axis=1) == labels))
    after = 100 * float(np.mean(logits.argmax(axis=1) == labels))
    # The fewer the photos, the coarser the number: one photo more or less is within what it can
    # tell.
    resolution = 100 / len(labels)
    drop = before - after
    return GateResult(
        name="accuracy_drop",
        value=drop,
        limit=max_drop_points,
        passed=drop <= max(max_drop_points, resolution),
        unit="points",
        n=len(labels),
        detail=f"float {before:.2f} %, exported {after:.2f} %",
    )


def batch_gate(
    alone: Outputs, together: Mapping[int, Outputs], *, rounded: bool, fixed: int | None = None
) -> GateResult:
    """A photo's outputs do not depend on what else is in its batch.

    Args:
        alone: Outputs of the photos one at a time.
        together: By how many at a time, outputs of the first so many.
        rounded: Whether the model rounds to integers.
        fixed: The one batch size that the model takes, which copies of the photos fill up.
    """
    errors = {
        size: max(
            relative_error(outputs[name], alone[name][: len(outputs[name])]) for name in outputs
        )
        for size, outputs in together.items()
    }
    worst = max(errors, key=lambda size: errors[size])
    limit = BATCH_LIMIT[rounded]
    return GateResult(
        name="batch",
        value=errors[worst],
        limit=limit,
        passed=errors[worst] <= limit,
        unit="relative error",
        n=len(errors),
        detail=f"{' and '.join(map(str, errors))} photos at a time against 1"
        f"{f', copies filling the batch of {fixed}' if fixed else ''}; worst: {worst}",
    )


def flag_gate(name: str, problems: list[str], *, n: int) -> GateResult:
    """A check that holds or names what is wrong; its value is the number of problems."""
    return GateResult(
        name=name,
        value=float(len(problems)),
        limit=0.0,
        passed=not problems,
        unit="problems",
        n=n,
        detail="; ".join(problems[:5]),
    )
