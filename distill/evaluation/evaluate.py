"""How good a network's frozen features are, by pinned protocols that the result states."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from edgeseed.core.config import build_config, to_plain
from edgeseed.core.console import note
from edgeseed.core.environment import environment
from edgeseed.core.errors import ConfigError, DataError, UsageError
from edgeseed.core.names import split_names
from edgeseed.core.network import load_student, save_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.registry import unknown_name
from edgeseed.core.scratch import scratch_folder
from edgeseed.distill.data.labels import (
    LabelList,
    Split,
    check_apart,
    choose_labels,
    draw_share,
    labels_of,
    photo_names,
    save_labels,
    split_labelled,
)
from edgeseed.distill.evaluation.baseline import (
    BASELINES,
    Baseline,
    BaselineName,
    Pixels,
    build_untrained,
    read_architecture,
    summarise,
)
from edgeseed.distill.evaluation.knn import KnnSettings, knn_scores
from edgeseed.distill.evaluation.linear import LinearResult, LinearSettings, probe_linearly
from edgeseed.distill.evaluation.metric import Metric, make_metric
from edgeseed.distill.networks.inference import embed
from edgeseed.distill.teachers import load_network
from edgeseed.distill.training.device import choose_device
from edgeseed.distill.training.finetuning import finetune
from edgeseed.distill.training.settings import check_seed, check_size

PROTOCOLS = ("knn", "linear", "finetune")


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
        baseline: What the same network has untrained, if it was asked for.
        num_broken: Photos that could not be read: kNN and the linear probe are without them.
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
    baseline: Baseline | None = None
    num_broken: int = 0

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
class LabelledFeatures:
    """Frozen features of a labelled split.

    Attributes:
        train: (N, D).
        train_labels: (N,).
        test: (Q, D).
        test_labels: (Q,).
        num_classes: C.
        num_broken: Photos of both sides that could not be read, and are in none of these.
    """

    train: torch.Tensor
    train_labels: torch.Tensor
    test: torch.Tensor
    test_labels: torch.Tensor
    num_classes: int
    num_broken: int = 0


def evaluate(
    student: str | Path,
    *,
    data: str | Path,
    test_data: str | Path | None = None,
    protocol: str | Sequence[str] = ("knn", "linear"),
    seed: int = 0,
    batch_size: int = 256,
    image_size: int | None = None,
    device: str = "auto",
    knn: KnnSettings | None = None,
    linear: LinearSettings | None = None,
    labels: str | Sequence[str] = ("1%", "10%", "100%"),
    save_lists: str | Path | None = None,
    settings: Sequence[str] = (),
    save_classifier: str | Path | None = None,
    save_metrics: bool = False,
    baseline: BaselineName | None = None,
    baseline_seeds: int | None = None,
) -> EvaluationResult:
    """Measures how good a network's frozen features are.

    Args:
        student: A student file, or any other network, written as a teacher is.
        data: Labelled photos to learn from: class folders or a named set.
        test_data: Labelled photos to test on. Without it, the named set's own test split, else a
            fifth of `data`, drawn per class; the result says which.
        protocol: Any of "knn" (weighted nearest neighbours), "linear" (a linear probe whose
            learning rate is chosen on held-out training photos) and "finetune" (the whole network
            learns from a share of the labels); also as one string, "knn,linear".
        seed: Of every random choice.
        batch_size: Photos at once; changes no result.
        image_size: In pixels; a student file has its own.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        knn: Settings of "knn".
        linear: Settings of "linear".
        labels: What "finetune" may use, one result each: as `finetune` takes it; also as one
            string, "1%,10%,5pc".
        save_lists: A folder for the lists of photos whose labels "finetune" used; `labels` takes
            these files, so that another network can be given exactly the same.
        settings: `"knn.field=value"` and `"linear.field=value"` change a protocol,
            `"finetune.…"` what `finetune` takes as settings.
        save_classifier: Where to write a student whose head is the linear probe.
        save_metrics: Whether to append the metrics to the student file.
        baseline: Measured as well, by "knn" and "linear": "untrained", the same architecture with
            fresh weights (what is not above it was not learnt), or "pixels", the photos at 16 x 16
            (what is not above it needs no network).
        baseline_seeds: How many untrained networks; their seeds start at `seed`. None: three.

    Raises:
        UnknownNameError: If a protocol or the network is unknown.
        UsageError: If a file does not exist, or the options do not go together.
        DataError: If the photos have no labels, or too few, or the test photos are those that are
            learnt from.
        ArtifactError: If the student file is broken.
    """
    protocols = _protocols(protocol)
    check_seed(seed)
    check_size(image_size)
    _check_saving(str(student), protocols, save_classifier, save_metrics)
    _check_baseline(baseline, baseline_seeds, protocols)
    changes = _split_settings(settings)
    knn = build_config(
        KnnSettings, values=_values(knn), overrides=changes["knn"], what="protocol knn"
    )
    linear = build_config(
        LinearSettings, values=_values(linear), overrides=changes["linear"], what="protocol linear"
    )
    split = split_labelled(data, test_data=test_data, seed=seed)
    if test_data is not None and {"knn", "linear"} & set(protocols):
        check_apart(split.train, split.test)
    # Before anything is computed: too few photos for 1 % would show only after the other protocols.
    lists = _choose_lists(split, labels, seed=seed) if "finetune" in protocols else {}
    if save_lists is not None:
        _save_lists(Path(save_lists), split, lists)
    network = load_network(str(student), image_size=image_size)
    size = network.preprocess.image_size
    architecture = (
        read_architecture(str(student), image_size=size) if baseline == "untrained" else None
    )
    metrics: list[Metric] = []
    features = None

    def embed_both(network: nn.Module, preprocess: Preprocess) -> LabelledFeatures:
        return embed_split(
            network,
            split,
            preprocess=preprocess,
            batch_size=batch_size,
            device=choose_device(device),
        )

    if "knn" in protocols or "linear" in protocols:
        features = embed_both(network, network.preprocess)
    if features is not None and "knn" in protocols:
        metrics += measure_knn(features, settings=knn)
    if features is not None and "linear" in protocols:
        metric, probe = measure_linear(features, settings=linear, seed=seed)
        metrics.append(metric)
        if save_classifier is not None:
            _write_classifier(Path(student), Path(save_classifier), probe, split, metric)
    metrics += [
        _measure_finetuning(
            student,
            data,
            test_data,
            labels=text,
            chosen=chosen,
            split=split,
            seed=seed,
            device=device,
            settings=changes["finetune"],
        )
        for text, chosen in lists.items()
    ]
    level = None
    if baseline is not None:
        # Made one at a time: three large networks need not be in memory together.
        makers: dict[int | None, Callable[[], nn.Module]] = {None: Pixels}
        if architecture is not None:
            makers = {
                number: functools.partial(build_untrained, architecture, seed=number)
                for number in range(seed, seed + (baseline_seeds or _BASELINE_SEEDS))
            }
        by_seed = {}
        for number, make in makers.items():
            beside = embed_both(make(), network.preprocess)
            found = measure_knn(beside, settings=knn) if "knn" in protocols else []
            if "linear" in protocols:
                found.append(measure_linear(beside, settings=linear, seed=seed)[0])
            by_seed[number] = [(metric.name, metric.top1_percent) for metric in found]
        measured = {metric.name: metric.top1_percent for metric in metrics}
        what = Pixels.name if architecture is None else architecture.name
        level = summarise(baseline, what, by_seed, measured=measured)
    result = EvaluationResult(
        network=str(student),
        weights_digest=network.digest,
        data=str(data),
        train_fingerprint=split.train.fingerprint,
        test_fingerprint=split.test.fingerprint,
        split=split.description,
        seed=seed,
        preprocess=network.preprocess,
        metrics=tuple(metrics),
        environment=environment(),
        classifier=None if save_classifier is None else str(save_classifier),
        baseline=level,
        num_broken=0 if features is None else features.num_broken,
    )
    if save_metrics:
        _append_metrics(Path(student), result)
    return result


def _protocols(protocol: str | Sequence[str]) -> tuple[str, ...]:
    chosen = tuple(split_names(protocol) if isinstance(protocol, str) else protocol)
    for name in chosen:
        if name not in PROTOCOLS:
            raise unknown_name("protocol", name, PROTOCOLS)
    if not chosen:
        raise UsageError(f"no protocol was given; choose from: {', '.join(PROTOCOLS)}")
    return chosen


_BASELINE_SEEDS = 3


def _check_baseline(
    baseline: str | None, baseline_seeds: int | None, protocols: tuple[str, ...]
) -> None:
    if baseline is not None and baseline not in BASELINES:
        raise unknown_name("baseline", baseline, BASELINES)
    if baseline_seeds is not None and baseline_seeds < 1:
        raise UsageError(f"baseline_seeds={baseline_seeds} must be at least 1")
    if baseline_seeds is not None and baseline != "untrained":
        raise UsageError(
            f"--baseline-seeds {baseline_seeds} goes with --baseline untrained: add that, or leave "
            "--baseline-seeds out"
        )
    if baseline is None:
        return
    if not {"knn", "linear"} & set(protocols):
        raise UsageError(
            f"baseline {baseline} is measured by knn and linear, and --protocol has neither; add "
            "one, or leave out --baseline"
        )


def _split_settings(settings: Sequence[str]) -> dict[str, list[str]]:
    changes: dict[str, list[str]] = {name: [] for name in PROTOCOLS}
    for text in settings:
        prefix, dot, rest = text.partition(".")
        if not dot or prefix not in changes:
            raise ConfigError(
                f"--set {text}: a protocol's setting starts with its name; write "
                f"{', '.join(f'{name}.FIELD=VALUE' for name in PROTOCOLS)}"
            )
        changes[prefix].append(rest)
    return changes


def _values(settings: KnnSettings | LinearSettings | None) -> dict[str, Any]:
    return {} if settings is None else dataclasses.asdict(settings)


def _choose_lists(split: Split, labels: str | Sequence[str], *, seed: int) -> dict[str, LabelList]:
    texts = split_names(labels) if isinstance(labels, str) else labels
    chosen = {
        text: choose_labels(split.train, text, seed=seed, held_out=split.held_out)
        for text in map(str.strip, texts)
        if text
    }
    if not chosen:
        raise UsageError("finetune: no labels were given; write such as 1%,10%,100%")
    return chosen


def _list_name(text: str) -> str:
    """A file name for what `labels` says: 1% -> labels-1-percent.txt."""
    return (
        f"labels-{Path(text).stem if Path(text).is_file() else text.replace('%', '-percent')}.txt"
    )


def _save_lists(folder: Path, split: Split, lists: Mapping[str, LabelList]) -> None:
    if not lists:
        raise UsageError("lists of labels are saved by the protocol finetune; add it to --protocol")
    for text, chosen in lists.items():
        save_labels(folder / _list_name(text), split.train, chosen)


def _check_saving(
    student: str,
    protocols: tuple[str, ...],
    save_classifier: str | Path | None,
    save_metrics: bool,
) -> None:
    is_file = student.endswith(".safetensors") and "=" not in student
    if save_classifier is not None and "linear" not in protocols:
        raise UsageError(
            "saving a classifier needs the protocol linear: its probe becomes the head"
        )
    if "finetune" in protocols and not is_file:
        raise UsageError(f"{student} is no student file (.safetensors); finetune needs one")
    if (save_classifier is not None or save_metrics) and not is_file:
        raise UsageError(
            f"{student} is no student file (.safetensors): nothing can be saved into it"
        )
    if save_classifier is None:
        return
    target = Path(save_classifier)
    if target.is_dir():
        raise UsageError(f"--save-classifier {target} is a folder; give a file in it")
    if target.exists() and target.samefile(student):
        raise UsageError(
            f"--save-classifier {target} is the student itself, which would be lost; give another "
            "file"
        )


# --------------------------------------------------------------------------- features


def embed_split(
    network: nn.Module,
    split: Split,
    *,
    preprocess: Preprocess,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> LabelledFeatures:
    """Frozen features of both sides of a split, with their labels."""
    train, test = (
        embed(network, photos, preprocess=preprocess, batch_size=batch_size, device=device)
        for photos in (split.train, split.test)
    )
    return LabelledFeatures(
        train=train.values.to(device),
        train_labels=torch.from_numpy(labels_of(train.photos)).to(device),
        test=test.values.to(device),
        test_labels=torch.from_numpy(labels_of(test.photos)).to(device),
        num_classes=len(split.classes),
        num_broken=train.num_broken + test.num_broken,
    )


# --------------------------------------------------------------------------- protocols


def measure_knn(features: LabelledFeatures, *, settings: KnnSettings) -> list[Metric]:
    """Accuracy of weighted nearest neighbours, one metric for each k."""
    num_train = len(features.train)
    scores = knn_scores(
        features.train,
        features.train_labels,
        features.test,
        num_classes=features.num_classes,
        k=settings.k,
        temperature=settings.temperature,
    )
    metrics = []
    for k, votes in zip(settings.k, scores, strict=True):
        if k > num_train:
            note(f"knn: k={k} is more than the {num_train} training photos; all of them vote")
        used = {"k": min(k, num_train), "asked_k": k, "temperature": settings.temperature}
        metrics.append(
            make_metric(
                f"knn-{k}",
                votes,
                features.test_labels,
                num_train=num_train,
                protocol="weighted-knn-cosine-1",
                settings={**used, "weights": "exp(cosine / temperature)"},
            )
        )
    return metrics


def measure_linear(
    features: LabelledFeatures, *, settings: LinearSettings, seed: int
) -> tuple[Metric, LinearResult]:
    """Accuracy of the linear probe whose learning rate did best on held-out training photos."""
    labels = features.train_labels.cpu().numpy()
    held_out, _ = draw_share(labels, share=settings.validation_share, seed=seed)
    if len(held_out) == 0:
        raise DataError(
            "linear: no class has two training photos, so none can be held out to choose the "
            "learning rate; give more labelled photos, or use the protocol knn"
        )
    validation = torch.zeros(len(labels), dtype=torch.bool, device=features.train.device)
    validation[torch.from_numpy(held_out)] = True
    result = probe_linearly(
        features.train,
        features.train_labels,
        features.test,
        features.test_labels,
        validation=validation,
        num_classes=features.num_classes,
        settings=settings,
        seed=seed,
    )
    best_on_test = max(result.rates, key=lambda rate: rate.test_top1)
    metric = make_metric(
        "linear",
        result.test_logits,
        features.test_labels,
        num_train=len(labels),
        protocol="linear-standardised-sgd-1",
        settings={
            **dataclasses.asdict(settings),
            "epochs": result.num_epochs,
            "lr": result.rates[result.chosen].lr,
            "lr_chosen_by": f"top-1 on {len(held_out)} held-out training photos",
            "features": "standardised by the training photos (variance plus 1 % of the mean "
            "variance), folded into the weights",
        },
        detail={
            "rates": [dataclasses.asdict(rate) for rate in result.rates],
            "best_on_test_top1_percent": 100 * best_on_test.test_top1,
            "best_on_test_lr": best_on_test.lr,
        },
    )
    return metric, result


def _measure_finetuning(
    student: str | Path,
    data: str | Path,
    test_data: str | Path | None,
    *,
    labels: str,
    chosen: LabelList,
    split: Split,
    seed: int,
    device: str,
    settings: Sequence[str],
) -> Metric:
    with scratch_folder() as folder:
        result = finetune(
            student,
            data=data,
            test_data=test_data,
            labels=labels,
            out=folder / "run",
            seed=seed,
            devices=device,
            settings=settings,
        )
    names = "\n".join(photo_names(split.train)[index] for index in chosen.indices)
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
    detail = {**result.metric.detail, "num_labels": len(chosen.indices), "list_sha256": digest}
    return dataclasses.replace(result.metric, name=f"finetune-{labels}", detail=detail)


# --------------------------------------------------------------------------- student files


def _write_classifier(
    source: Path, path: Path, probe: LinearResult, split: Split, metric: Metric
) -> None:
    network, spec = load_student(source)
    if network.head is not None:
        note(f"{source} has a head for {len(spec.classes or ())} classes; {path} gets the new one")
    network.head = nn.Linear(network.embedding_dim, len(split.classes))
    network.head.load_state_dict({"weight": probe.weight.cpu(), "bias": probe.bias.cpu()})
    learnt = split.train.description
    classifier = {
        "protocol": metric.protocol, "settings": metric.settings, "data": learnt.pop("name"),
        **learnt,
    }  # fmt: skip
    save_student(
        path,
        network,
        dataclasses.replace(
            spec,
            classes=split.classes,
            provenance={**spec.provenance, "classifier": classifier},
            metrics=(*spec.metrics, {**metric.to_dict(), "test_data": split.description}),
        ),
    )


def _append_metrics(path: Path, result: EvaluationResult) -> None:
    network, spec = load_student(path)
    context = {
        "data": result.data,
        "test_data": result.split,
        "seed": result.seed,
        "environment": result.environment,
    }
    added = tuple({**metric.to_dict(), **context} for metric in result.metrics)
    save_student(path, network, dataclasses.replace(spec, metrics=(*spec.metrics, *added)))
