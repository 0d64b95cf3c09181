"""Nearest neighbours against literal loops."""

import math

import pytest
import torch
from support.distill import clusters
from torch import Tensor

from edgeseed.distill.evaluation.knn import KnnSettings, knn_accuracy, knn_scores, top_accuracy


def _literal_knn(
    bank: Tensor, labels: Tensor, query: Tensor, *, k: int, temperature: float, num_classes: int
) -> list[float]:
    similarities = []
    for row, label in zip(bank, labels, strict=True):
        cosine = float(row @ query) / (float(row.norm()) * float(query.norm()))
        similarities.append((cosine, int(label)))
    similarities.sort(reverse=True)
    votes = [0.0] * num_classes
    for cosine, label in similarities[:k]:
        votes[label] += math.exp(cosine / temperature)
    return votes


@pytest.mark.parametrize("k", [1, 4, 20])
def test_knn_votes_are_those_of_the_literal_loops(k: int) -> None:
    bank, bank_labels = clusters(20, seed=0)
    queries, _ = clusters(9, seed=1)
    scores = knn_scores(bank, bank_labels, queries, num_classes=3, k=(k,), temperature=0.07)[0]
    for query, votes in zip(queries, scores, strict=True):
        literal = torch.tensor(
            _literal_knn(bank, bank_labels, query, k=k, temperature=0.07, num_classes=3)
        )
        # Ours are divided by the largest vote, so that no temperature overflows.
        torch.testing.assert_close(
            votes / votes.sum(), literal / literal.sum(), atol=1e-5, rtol=1e-4
        )


def test_knn_accuracy_is_the_share_of_right_first_guesses() -> None:
    bank, bank_labels = clusters(30, seed=0)
    queries, labels = clusters(40, seed=1)
    right = 0
    for query, label in zip(queries, labels, strict=True):
        votes = _literal_knn(bank, bank_labels, query, k=5, temperature=0.07, num_classes=3)
        right += votes.index(max(votes)) == int(label)
    assert knn_accuracy(bank, bank_labels, queries, labels, k=5) == right / 40
    assert 0.4 < right / 40 < 1


def test_knn_does_not_see_lengths_or_the_order_of_the_bank() -> None:
    bank, bank_labels = clusters(30, seed=0)
    queries, _ = clusters(12, seed=1)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    lengths = torch.rand(30, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    scores = [
        knn_scores(given, labels, queries, num_classes=3, k=(7,), temperature=0.07)
        for given, labels in ((bank, bank_labels), ((bank * lengths)[order], bank_labels[order]))
    ]
    torch.testing.assert_close(scores[0], scores[1], atol=1e-5, rtol=1e-4)


def test_knn_in_chunks_is_knn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, bank_labels = clusters(30, seed=0)
    queries, _ = clusters(11, seed=1)
    at_once = knn_scores(bank, bank_labels, queries, num_classes=3, k=(3, 9), temperature=0.07)
    monkeypatch.setattr("edgeseed.distill.evaluation.knn._QUERIES_AT_ONCE", 4)
    chunked = knn_scores(bank, bank_labels, queries, num_classes=3, k=(3, 9), temperature=0.07)
    torch.testing.assert_close(at_once, chunked)


def test_a_tiny_temperature_lets_the_nearest_decide_without_overflow() -> None:
    bank, bank_labels = clusters(30, seed=0)
    queries, labels = clusters(20, seed=1)
    nearest = knn_accuracy(bank, bank_labels, queries, labels, k=1)
    assert knn_accuracy(bank, bank_labels, queries, labels, k=30, temperature=1e-4) == nearest


def test_knn_settings_check_themselves() -> None:
    with pytest.raises(ValueError, match="k="):
        KnnSettings(k=(0,))
    with pytest.raises(ValueError, match="temperature="):
        KnnSettings(temperature=0.0)


def test_the_true_class_counts_among_the_best_guesses() -> None:
    scores = torch.tensor([[0.1, 0.5, 0.4], [0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])
    labels = torch.tensor([2, 1, 0])
    assert top_accuracy(scores, labels, top=1) == 0
    assert top_accuracy(scores, labels, top=2) == pytest.approx(2 / 3)
    assert top_accuracy(scores, labels, top=3) == 1
