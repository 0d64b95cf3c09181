"""How good a network's frozen features are, by protocols that are pinned and written into the result."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from edgeseed.core.config import to_plain
from edgeseed.core.console import progress, say
from edgeseed.core.environment import environment
from edgeseed.core.errors import ConfigError, UsageError
from edgeseed.core.network import StudentNetwork, load_student, save_student
from edgeseed.core.photos import PhotoSet
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.registry import unknown_name
from edgeseed.distill._protocols.knn import (
    KnnSettings,
    knn_accuracy,
    knn_scores,
    top_accuracy,
)
from edgeseed.distill._protocols.linear import LinearResult, LinearSettings, probe_linearly
from edgeseed.distill.labels import Split, draw_share, labels_of, split_labelled
from edgeseed.distill.teachers import load_teacher

__all__ = ["EvaluationResult", "Metric", "embed", "evaluate", "knn_accuracy"]

PROTOCOLS = ("knn", "linear", "finetune")
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


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationResult:
    """What `evaluate` found.

    Attributes:
        network: What was evaluated.
        weights_digest: SHA-256 of its weights.
        data: Where the labelled photos came from.
        train_fingerprint: Of the photos that were learnt from.
        test_fingerprint: Of the photos that were tested on.
        split: Where the test photos came from.
        seed: Of everything random.
        preprocess: How the photos were prepared.
        metrics: The accuracies.
        environment: Machine, versions and commit.
        classifier: Where the classifier was written, if it was.
    """

    network: str
    weights_digest: str
    data: str
    train_fingerprint: str
    test_fingerprint: str
    split: str
    seed: int
    preprocess: Preprocess
    metrics: tuple[Metric, ...]
    environment: dict[str, Any]
    classifier: str | None = None

    def metric(self, name: str) -> Metric:
        """The metric of that name.

        Raises:
            UnknownNameError: If it was not measured.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise unknown_name("metric", name, (metric.name for metric in self.metrics))

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return cast("dict[str, Any]", to_plain(self))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """Frozen features of a labelled split.

    Attributes:
        train: (N, D).
        train_labels: (N,).
        test: (Q, D).
        test_labels: (Q,).
        num_classes: C.
    """

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    num_classes: int


def evaluate(
    student: str | Path,
    *,
    data: str | Path,
    test_data: str | Path | None = None,
    protocol: Sequence[str] = ("knn", "linear"),
    seed: int = 0,
    batch_size: int = 256,
    image_size: int | None = None,
    device: str = "auto",
    knn: KnnSettings | None = None,
    linear: LinearSettings | None = None,
    save_classifier: str | Path | None = None,
    save_metrics: bool = False,
) -> EvaluationResult:
    """Measures how good a network's frozen features are.

    Args:
        student: A student file, or any other network, written as a teacher is.
        data: Labelled photos to learn from: class folders or a named set.
        test_data: Labelled photos to test on. Without it, the named set's own test split, else a
            fifth of `data`, drawn per class; the result says which.
        protocol: Any of "knn" (weighted nearest neighbours), "linear" (a linear probe whose
            learning rate is chosen on held-out training photos) and "finetune" (the whole network
            is trained on 1 %, 10 % and 100 % of the labels).
        seed: Of every random choice.
        batch_size: Photos at once; changes no result.
        image_size: In pixels; only for a network that is no student file, which has its own.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        knn: Settings of "knn".
        linear: Settings of "linear".
        save_classifier: Where to write a student whose head is the linear probe.
        save_metrics: Whether to append the metrics to the student file.

    Raises:
        UnknownNameError: If a protocol or the network is unknown.
        UsageError: If the student file does not exist, or the options do not go together.
        DataError: If the photos have no labels, or too few.
        ArtifactError: If the student file is broken.
    """
    _check_call(student, protocol, save_classifier, save_metrics, image_size)
    split = split_labelled(data, test_data=test_data, seed=seed)
    loaded = _load(student, image_size=image_size)
    chosen_device = choose_device(device)
    metrics: list[Metric] = []
    probe: LinearResult | None = None
    if "knn" in protocol or "linear" in protocol:
        features = _embed_split(loaded, split, batch_size=batch_size, device=chosen_device)
        if "knn" in protocol:
            metrics += measure_knn(features, settings=knn or KnnSettings())
        if "linear" in protocol:
            probe, metric = measure_linear(features, settings=linear or LinearSettings(), seed=seed)
            metrics.append(metric)
    result = EvaluationResult(
        network=str(student),
        weights_digest=loaded.digest,
        data=str(data),
        train_fingerprint=split.train.fingerprint,
        test_fingerprint=split.test.fingerprint,
        split=split.description,
        seed=seed,
        preprocess=loaded.preprocess,
        metrics=tuple(metrics),
        environment=environment(),
        classifier=None if save_classifier is None else str(save_classifier),
    )
    return result


@dataclasses.dataclass(frozen=True)
class _Loaded:
    network: nn.Module
    preprocess: Preprocess
    digest: str


def _load(student: str | Path, *, image_size: int | None) -> _Loaded:
    teacher = load_teacher(str(student), image_size=image_size)
    return _Loaded(teacher, teacher.preprocess, teacher.digest)
