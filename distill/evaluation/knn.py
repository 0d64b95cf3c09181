"""Weighted nearest neighbours on frozen features, as DINO and EsViT report them.

Unsupervised Feature Learning via Non-Parametric Instance Discrimination, 2018, arXiv 1805.01978:
each of the k most similar photos votes for its class with weight exp(cosine / T). k and T are
pinned here: a library that changed its default T made old and new numbers incomparable.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

_QUERIES_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnSettings:
    """The protocol's constants.

    Attributes:
        k: How many neighbours vote; several are reported side by side.
        temperature: T; smaller lets the nearest decide.
    """

    k: tuple[int, ...] = (20, 200)
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if not self.k or min(self.k) < 1:
            raise ValueError(f"k={self.k} must be at least one number, each at least 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")


def knn_scores(
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    queries: torch.Tensor,
    *,
    num_classes: int,
    k: tuple[int, ...],
    temperature: float,
) -> torch.Tensor:
    """Votes for each class.

    Args:
        bank: (N, D) features whose labels are known.
        bank_labels: (N,) class indices.
        queries: (Q, D) features to classify.
        num_classes: C.
        k: Numbers of neighbours; each is clamped to N.
        temperature: T.

    Returns:
        (len(k), Q, C) sums of exp((cosine - the best cosine) / T) over the k nearest: the shift
        changes no ranking and keeps the sums finite at small T.
    """
    # K numbers of neighbours, B queries at once, N bank, C classes
    bank = F.normalize(bank.float(), dim=1)
    scores = []
    for chunk in F.normalize(queries.float(), dim=1).split(_QUERIES_AT_ONCE):
        cosine, nearest = (chunk @ bank.T).topk(min(max(k), len(bank)), dim=1)  # (B, max k)
        votes = ((cosine - cosine[:, :1]) / temperature).exp()
        classes = bank_labels[nearest]
        scores.append(
            torch.stack(
                [
                    votes.new_zeros(len(chunk), num_classes).scatter_add_(
                        1, classes[:, :count], votes[:, :count]
                    )
                    for count in k
                ]
            )
        )
    return torch.cat(scores, dim=1)


def knn_accuracy(
    bank: torch.Tensor,
    bank_labels: torch.Tensor,
    queries: torch.Tensor,
    query_labels: torch.Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of queries whose k nearest neighbours vote for the right class.

    Args:
        bank: (N, D) features whose labels are known.
        bank_labels: (N,) class indices.
        queries: (Q, D) features to classify.
        query_labels: (Q,) class indices.
        k: How many neighbours vote; clamped to N.
        temperature: Of the votes.

    Returns:
        Top-1 accuracy between 0 and 1.
    """
    num_classes = int(max(bank_labels.max(), query_labels.max())) + 1
    scores = knn_scores(
        bank, bank_labels, queries, num_classes=num_classes, k=(k,), temperature=temperature
    )
    return top_accuracy(scores[0], query_labels, top=1)


def top_accuracy(scores: torch.Tensor, labels: torch.Tensor, *, top: int) -> float:
    """Share of rows whose true class is among the `top` highest scores.

    Args:
        scores: (Q, C).
        labels: (Q,) class indices.
        top: How many guesses count.
    """
    guesses = scores.topk(top, dim=1).indices
    return int((guesses == labels[:, None]).any(dim=1).sum()) / len(labels)
