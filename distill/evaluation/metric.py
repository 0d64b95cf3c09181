"""An accuracy with everything that makes it comparable."""

import dataclasses
import math
from typing import Any, cast

import torch

from edgeseed.core.config import to_plain
from edgeseed.distill.evaluation.knn import top_accuracy

_TOP = 5


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One accuracy, with everything that makes it comparable.

    Attributes:
        name: Such as "knn-20" or "linear".
        top1_percent: Share of test photos whose class was the first guess.
        top5_percent: ... among the first five guesses; None with five classes or fewer.
        standard_error_percent: Of `top1_percent`, from the number of test photos alone.
        n: Test photos.
        num_train: Photos whose labels were used.
        num_classes: Classes.
        protocol: Name and version of the protocol.
        settings: All its settings, as they were used.
        detail: What else it logged, such as every learning rate's accuracy.
    """

    name: str
    top1_percent: float
    top5_percent: float | None
    standard_error_percent: float
    n: int
    num_train: int
    num_classes: int
    protocol: str
    settings: dict[str, Any]
    detail: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)


def make_metric(
    name: str,
    scores: torch.Tensor,
    labels: torch.Tensor,
    *,
    num_train: int,
    protocol: str,
    settings: dict[str, Any],
    detail: dict[str, Any] | None = None,
) -> Metric:
    """Accuracies of (Q, C) scores against (Q,) labels, with the protocol that gave them."""
    num_photos, num_classes = scores.shape
    top1 = top_accuracy(scores, labels, top=1)
    return Metric(
        name=name,
        top1_percent=100 * top1,
        top5_percent=100 * top_accuracy(scores, labels, top=_TOP) if num_classes > _TOP else None,
        standard_error_percent=100 * math.sqrt(top1 * (1 - top1) / num_photos),
        n=num_photos,
        num_train=num_train,
        num_classes=num_classes,
        protocol=protocol,
        settings=cast("dict[str, Any]", to_plain(settings)),
        detail=cast("dict[str, Any]", to_plain(detail or {})),
    )
