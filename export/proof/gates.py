"""The gates: what an exported model must hold against the float student, as numbers with limits.

```text
parity            float models   largest |difference| over largest |value|, worst photo and output;
                  of float16 at most twice what rounding the student's weights and values costs,
                  in the worst of four ways of rounding
top1_agreement    quantized      share of photos whose top class is the float student's
self_retrieval    quantized, no head: share of photos whose embedding lies nearest to the float
                  embedding of the same photo, among 256 photos
embedding_cosine  quantized      mean cosine to the float embedding
accuracy_drop     with labels    float accuracy minus this model's, in points
batch             not Core ML    outputs alone, in pairs and in sevens agree
golden            all            the golden photos give their stored tensors and outputs
```
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgeseed.core.agreement import cosines, relative_error, self_retrieval, top1_agreement
from edgeseed.core.bundle import GateResult
from edgeseed.export.proof.reference import Outputs

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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the gates demand of one export."""

    parity: float | None
    """None for a quantized model, which is judged by agreement."""
    min_agreement: float = MIN_AGREEMENT
    min_cosine: float = MIN_COSINE
    max_drop_points: float = MAX_DROP_POINTS


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
    """Quantized models: the decisions and the embeddings are the float student's."""
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
            passed=share >= limits.min_agreement, unit="share of photos", n=n,
            detail="against the float student",
        ),
        GateResult(
            name="embedding_cosine", value=mean, limit=limits.min_cosine,
            passed=mean >= limits.min_cosine, unit="mean cosine", n=n,
            detail=f"5th percentile {np.percentile(similarity, 5):.4f}",
        ),
    ]  # fmt: skip


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
