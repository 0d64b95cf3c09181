"""A student becomes a classifier: with all labels, or with the few that there are."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.core.config import to_plain
from edgeseed.core.console import count_of, quiet, say
from edgeseed.core.environment import environment
from edgeseed.core.errors import ArtifactError, ConfigError, UsageError
from edgeseed.core.network import ProjectedTrunk, StudentNetwork, load_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture
from edgeseed.distill import distributed
from edgeseed.distill.data.canvases import (
    PhotoOrder,
    canvas_side,
    fit_batch_size,
    native_side,
    open_canvases,
)
from edgeseed.distill.data.labels import (
    LabelList,
    Split,
    check_apart,
    choose_labels,
    labels_of,
    save_labels,
    split_labelled,
)
from edgeseed.distill.data.views import Augmenter, ViewPlan, weak_crop
from edgeseed.distill.evaluation.evaluate import Metric, embed, make_metric, predict
from edgeseed.distill.method import Batch, Method, Needs, Parts, Progress, StepResult
from edgeseed.distill.networks.frozen import Student
from edgeseed.distill.networks.students import create_student, describe_student
from edgeseed.distill.teachers import load_teacher
from edgeseed.distill.teachers._heads import below, mlp_from_weights
from edgeseed.distill.teachers._network import weights_digest
from edgeseed.distill.training.device import (
    Precision,
    choose_device,
    choose_dtypes,
    prefers_channels_last,
    process_group,
)
from edgeseed.distill.training.recipe import Recipe
from edgeseed.distill.training.run_folder import HEADS, RunFolder
from edgeseed.distill.training.settings import (
    Settings,
    StudentSettings,
    build_settings,
    check_form,
    is_given,
    set_dials,
)
from edgeseed.distill.training.trainer import Plan, Trainer

LABELS_FILE = "labels.txt"
# A few labels are repeated (under other crops) until an epoch of the loop has about this many
# steps: what the loop does between epochs would take longer than the epoch.
_STEPS_AN_EPOCH = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """How labels are learnt; `--set FIELD=VALUE` changes one.

    Attributes:
        train: Whether the whole network learns, or only the classifier on the frozen trunk.
        label_smoothing: Share of the target that is spread over all classes.
        min_scale: Least share of a photo's area that a random crop shows.
        min_steps: The least number of updates: few labels get more epochs, unless epochs are given.
    """

    train: Literal["all", "head"] = "all"
    label_smoothing: float = 0.0
    min_scale: float = 0.2
    min_steps: int = 500

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must be from 0 to below 1")
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"min_scale={self.min_scale} must be above 0 and up to 1")


class Supervised(Method[FinetuneConfig]):
    """Cross-entropy with labels on the student's own classifier.

    Random crops and flips only, as SimCLRv2 fine-tunes (arXiv 2006.10029, appendix B); its LARS
    recipe for batches of 1024 is `recipe.optimizer=lars recipe.lr=0.16 recipe.lr_scaling=sqrt
    recipe.lr_batch_size=1024 recipe.weight_decay=0`. The default is AdamW, which suits small
    batches and small networks.

    The classifier learns on embeddings that are shifted and scaled by the labelled photos' mean and
    deviation at the start, so that one learning rate suits any student; `fold` undoes this.
    """

    mean: Tensor
    scale: Tensor

    Config: ClassVar[type[Any]] = FinetuneConfig
    NEEDS: ClassVar[Needs] = Needs(teacher=False, labels="required", classifier=True)
    RECIPE: ClassVar[Recipe] = Recipe(
        optimizer="adamw",
        lr=1e-3,
        lr_scaling="sqrt",
        weight_decay=0.05,
        decay_norm_and_bias=False,
        warmup_epochs=3,
        batch_size=256,
        epochs=30,
    )

    def __init__(self, config: FinetuneConfig, parts: Parts) -> None:
        super().__init__(config, parts)
        self.register_buffer("mean", torch.zeros(parts.student.embedding_dim))
        self.register_buffer("scale", torch.ones(()))
        if config.train == "head":
            self.student.network.backbone.requires_grad_(False)
        self.train()

    def standardise(self, embeddings: Tensor) -> None:
        """Takes the shift and the one scale from the (N, D) embeddings that it starts with."""
        self.mean.copy_(embeddings.mean(dim=0))
        deviation = (embeddings - embeddings.mean(dim=0)).square().mean().sqrt()
        self.scale.copy_(1 / deviation if deviation > 0 else torch.ones(()))

    def fold(self) -> None:
        """Moves shift and scale into the classifier, exactly: then it takes raw embeddings."""
        head = self.student.network.head
        assert head is not None
        with torch.no_grad():
            weight = head.weight.double() * self.scale.double()
            bias = head.bias.double() - weight @ self.mean.double()
            head.weight.copy_(weight)
            head.bias.copy_(bias)
            self.mean.zero_()
            self.scale.fill_(1.0)

    @classmethod
    def views(cls, config: FinetuneConfig, image_size: int) -> ViewPlan:
        """One random crop a photo."""
        return ViewPlan(crops=(weak_crop(image_size, min_scale=config.min_scale),))

    def train(self, mode: bool = True) -> Self:
        """A frozen trunk stays in eval mode: its BatchNorm keeps the statistics it came with."""
        super().train(mode)
        if self.config.train == "head":
            self.student.network.backbone.eval()
        return self

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """The mean cross-entropy of one batch."""
        del progress
        head = self.student.network.head
        assert batch.labels is not None
        assert head is not None
        embedding = self.student(batch.views[0]).embedding
        logits = head((embedding - self.mean) * self.scale)
        loss = F.cross_entropy(
            logits.float(), batch.labels, label_smoothing=self.config.label_smoothing
        )
        accuracy = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return StepResult(loss=loss, floor=None, logs={"train_accuracy": accuracy})


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneResult:
    """What fine-tuning gave.

    Attributes:
        out: The run's folder.
        student: The student file: a classifier with its class names.
        labels: How the labels were chosen; the list itself is in `labels.txt`.
        num_labels: Photos whose labels were used.
        classes: Class names.
        metric: Accuracy on the test photos, which chose nothing: the last epoch is reported.
        split: Where the test photos came from.
        epochs: Passes over the labelled photos, which a few labels are given many of; as nearly as
            whole batches allow.
        seconds: Of training.
        device: Where it ran.
    """

    out: Path
    student: Path
    labels: str
    num_labels: int
    classes: tuple[str, ...]
    metric: Metric
    split: str
    epochs: int
    seconds: float
    device: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {f.name: to_plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def finetune(
    student: str | Path,
    *,
    data: str | Path,
    out: str | Path,
    labels: str = "100%",
    test_data: str | Path | None = None,
    projection: bool = False,
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    devices: str | int = "auto",
    precision: Precision | None = None,
    settings: Sequence[str] = (),
    config: str | Path | None = None,
    resume: bool = False,
) -> FinetuneResult:
    """Turns a student into a classifier.

    Args:
        student: A student file; a timm name with its pretrained tag, or `NAME=CHECKPOINT`, to go on
            from weights that others made; or a bare timm name, to learn from labels alone.
        data: Labelled photos.
        out: The run's folder, new or empty.
        labels: Which labels may be used: a share of each class ("1%"), a number of each ("5pc"),
            or a file with one photo a line.
        test_data: Labelled photos to test on; by default as `evaluate` chooses them.
        projection: Keep the first layer of the projection head that the student was pretrained
            with (`heads.safetensors` beside it), as SimCLRv2 does.
        epochs: Passes over the labelled photos; by default 30, or what makes 500 updates.
        batch_size: Photos a step over all devices.
        image_size: For timm's networks; a student file has its own.
        lr: Peak learning rate, for a batch of 256.
        seed: Of all that is drawn. By default 0.
        devices: As `distill`.
        precision: As `distill`.
        settings: `"train=head"` freezes the trunk; `"recipe.field=value"`, `"views.…"`,
            `"training.…"` and (for a timm name) `"student.…"` as `distill`.
        config: A TOML file with settings, such as another run's config.toml; its image size, seed
            and precision are taken as well, where they are not given here.
        resume: Go on with the run in `out`.

    Raises:
        UsageError: If the call is wrong.
        DataError: If there are too few photos or labels, a list names photos that are missing, or
            the test photos are those that are learnt from.
        ArtifactError: If a file is broken.
        WorkError: If training diverges, is interrupted, or the disk is full.
    """
    options = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    path = None if config is None else Path(config)
    built = build_settings(
        Supervised, name="finetune", options=options, overrides=settings, config=path
    )
    asked = frozenset(
        name
        for name in ("epochs", "warmup_epochs")
        if is_given(name, options=options, overrides=settings, config=path)
    )
    # A student file has its own size, whatever another run was given.
    has_size = _is_student_file(str(student)) and image_size is None
    size = {} if has_size else {"image_size": image_size}
    dials = set_dials(path, **size, seed=seed, precision=precision)
    image_size, seed = dials.image_size, dials.seed
    run = {
        "command": "finetune",
        "student": str(student),
        "data": str(data),
        "test_data": "none" if test_data is None else str(test_data),
        "labels": labels,
        "projection": projection,
        "image_size": "none" if image_size is None else image_size,
        "seed": seed,
        "devices": str(devices),
        "precision": dials.precision,
    }
    check_form(str(student), built.student)
    device = choose_device(devices)
    split = split_labelled(data, test_data=test_data, seed=seed)
    chosen = choose_labels(split.train, labels, seed=seed)
    if test_data is not None:
        check_apart(split.train.subset(chosen.indices), split.test)
    with (
        process_group(device),
        quiet(not distributed.is_main(), notes=True),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        start = _load_start(
            str(student),
            split,
            form=built.student,
            image_size=image_size,
            projection=projection,
            seed=seed,
        )
        built = _fit(built, asked=asked, batch_size=batch_size, num_labels=len(chosen.indices))
        return _Finetuning(built, run, split, chosen, start, device=device).go(
            Path(out), resume=resume
        )


# --------------------------------------------------------------------------- where it starts


@dataclass(frozen=True)
class _Start:
    """The network to train, and what is known of it."""

    network: StudentNetwork
    architecture: Architecture
    preprocess: Preprocess
    provenance: dict[str, Any]


def _load_start(
    student: str,
    split: Split,
    *,
    form: StudentSettings,
    image_size: int | None,
    projection: bool,
    seed: int,
) -> _Start:
    num_classes = len(split.classes)
    if _is_student_file(student):
        start = _from_file(Path(student), image_size=image_size, projection=projection)
    elif projection:
        raise UsageError(
            f"{student} is no student file of a pretraining run, so it has no projection head to "
            "keep; leave out projection"
        )
    elif _is_checkpoint(student) or "." in student:
        start = _from_weights(student, split, image_size=image_size)
    else:
        size = image_size or min(describe_student(student).image_size, native_side(split.train))
        network, architecture = create_student(
            student,
            seed=seed,
            image_size=size,
            activation=form.activation,
            drop_se=form.drop_se,
            reduce_stride=form.reduce_stride,
        )
        start = _Start(network, architecture, Preprocess(image_size=size, resize=size), {})
    head = nn.Linear(start.network.embedding_dim, num_classes)
    # SimCLRv2 starts the logits at zero: the first updates do not shake the trunk at random.
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    start.network.head = head
    return start


def _is_checkpoint(student: str) -> bool:
    return "=" in student and not Path(student).exists()


def _is_student_file(student: str) -> bool:
    return student.endswith(".safetensors") and not _is_checkpoint(student)


def _from_weights(student: str, split: Split, *, image_size: int | None) -> _Start:
    """A timm network with the weights of a tag or a checkpoint, at the photos' own size."""
    name = student.partition("=")[0].partition(".")[0]
    size = image_size or min(describe_student(name).image_size, native_side(split.train))
    pretrained = load_teacher(student, image_size=size)
    network, architecture = create_student(name, seed=0, image_size=size)
    weights = pretrained.trunk.get_submodule("network").state_dict()
    try:
        network.backbone.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ConfigError(
            f"{student} was pretrained in a form that a student of timm's {name} does not have; "
            "it can be a teacher"
        ) from error
    preprocess = dataclasses.replace(pretrained.preprocess, resize=size)
    provenance = {"student": student, "weights_sha256": pretrained.digest}
    return _Start(network, architecture, preprocess, {**provenance, "licence": pretrained.licence})


def _from_file(path: Path, *, image_size: int | None, projection: bool) -> _Start:
    network, spec = load_student(path)
    if image_size is not None and image_size != spec.preprocess.image_size:
        raise ConfigError(
            f"{path} was trained at {spec.preprocess.image_size} px; leave out image size "
            f"{image_size}"
        )
    architecture = spec.architecture
    provenance = {"student": str(path), "weights_sha256": weights_digest(network)}
    if projection:
        if "projection" in architecture.variant:
            raise UsageError(f"{path} has the first layer of its projection head already")
        first = read_first_projection(path.with_name(HEADS), embedding_dim=network.embedding_dim)
        trunk = ProjectedTrunk(network.backbone, _width(first))
        trunk.projection = first
        network = StudentNetwork(trunk)
        variant = {**architecture.variant, "projection": _width(first)}
        architecture = dataclasses.replace(architecture, variant=variant)
    return _Start(network, architecture, spec.preprocess, {**provenance, "before": spec.provenance})


def _width(projection: nn.Sequential) -> int:
    linear = projection[0]
    assert isinstance(linear, nn.Linear)
    return linear.out_features


def read_first_projection(path: Path, *, embedding_dim: int) -> nn.Sequential:
    """The first layer of a saved projection head: a Linear, and its BatchNorm if it has one.

    Args:
        path: `heads.safetensors` of the run that pretrained the student.
        embedding_dim: What the layer must take.

    Raises:
        UsageError: If there is no such file.
        ArtifactError: If it is broken, or holds no such head.
    """
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist; the projection head of the student's run was expected beside "
            "the student file"
        )
    try:
        weights = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file ({error})") from error
    fitting = {
        name: mlp
        for name in sorted({key.partition(".")[0] for key in weights})
        if (mlp := _as_mlp(below(weights, f"{name}."), embedding_dim)) is not None
    }
    if len(fitting) != 1:
        found = ", ".join(fitting) or "none"
        raise ArtifactError(
            f"{path}: one MLP on embeddings of {embedding_dim} was expected, found: {found}"
        )
    layers = list(next(iter(fitting.values())).children())
    norm = [layers[1]] if isinstance(layers[1], nn.BatchNorm1d) else []
    return nn.Sequential(layers[0], *norm)


def _as_mlp(weights: Mapping[str, Tensor], embedding_dim: int) -> nn.Sequential | None:
    try:
        network = mlp_from_weights(weights, activation=nn.ReLU)
    except (ArtifactError, RuntimeError, KeyError):
        return None
    is_on_embedding = (
        isinstance(network, nn.Sequential)
        and len(network) > 1
        and isinstance(network[0], nn.Linear)
        and network[0].in_features == embedding_dim
    )
    return network if is_on_embedding and isinstance(network, nn.Sequential) else None


def fold_projection(network: StudentNetwork) -> None:
    """Makes one Linear of a projection and its BatchNorm, exactly, for the network in eval mode."""
    trunk = network.backbone
    if not isinstance(trunk, ProjectedTrunk) or not isinstance(trunk.projection, nn.Sequential):
        return
    linear, *norms = trunk.projection
    assert isinstance(linear, nn.Linear)
    weight = linear.weight.detach().double()
    bias = (
        torch.zeros(len(weight)).to(weight)
        if linear.bias is None
        else linear.bias.detach().double()
    )
    for norm in norms:
        assert isinstance(norm, nn.BatchNorm1d)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = weight * scale[:, None]
        bias = (bias - norm.running_mean.double()) * scale + norm.bias.detach().double()
    folded = nn.Linear(linear.in_features, linear.out_features).to(linear.weight.device)
    folded.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    trunk.projection = folded


# --------------------------------------------------------------------------- the run


class _Finetuning:
    """One run, from labelled photos to a classifier."""

    def __init__(
        self,
        settings: Settings,
        run: dict[str, Any],
        split: Split,
        chosen: LabelList,
        start: _Start,
        *,
        device: torch.device,
    ) -> None:
        self.settings = settings
        self.run = run
        self.split = split
        self.chosen = chosen
        self.start = start
        self.device = device
        self.photos = split.train.subset(chosen.indices)
        self.rounds = _plan_rounds(
            settings.recipe.epochs,
            batch_size=settings.recipe.batch_size,
            num_labels=len(self.photos),
        )
        self.repeated = self.photos.subset(
            np.tile(np.arange(len(self.photos)), self.rounds.num_repeats)
        )
        size = start.preprocess.image_size
        self.views = self.settings.views.apply(Supervised.views(settings.method, size))
        if self.views.mixup:
            raise ConfigError("views.mixup=true blends photos, and their labels are not: use false")

    def go(self, out: Path, *, resume: bool) -> FinetuneResult:
        """Trains what is left, tests once, and writes the classifier."""
        folder = RunFolder(out) if distributed.is_main() else None
        sections = self._sections()
        has_state = resume and RunFolder(out).reopen(sections)
        if folder is not None and not resume:
            folder.check_free()
        plan = self._plan()
        method = self._method(plan)
        if folder is not None and not resume:
            folder.start(sections)
            save_labels(out / LABELS_FILE, self.split.train, self.chosen)
        trainer = Trainer(method, plan, folder=folder, save_best=lambda *_: None)
        if has_state:
            trainer.load_state_dict(RunFolder(out).load_state())
            if folder is not None:
                folder.forget_after(trainer.step)
        say(
            f"finetune: {self.run['student']}, {len(self.photos)} labels of "
            f"{len(self.split.classes)} classes ({self.chosen.description}), "
            f"{count_of(self.settings.recipe.epochs, 'pass')} on {self.device}"
        )
        outcome = trainer.fit()
        method.fold()
        fold_projection(method.student.network)
        metric = self._test(method.student)
        if folder is not None:
            folder.save_networks(
                method.networks(),
                provenance=self._provenance(sections),
                metrics=({**metric.to_dict(), "test_data": self.split.description},),
            )
            folder.close()
        return FinetuneResult(
            out=out,
            student=out / "student.safetensors",
            labels=self.chosen.description,
            num_labels=len(self.photos),
            classes=self.split.classes,
            metric=metric,
            split=self.split.description,
            epochs=self.settings.recipe.epochs,
            seconds=round(outcome.seconds, 2),
            device=str(self.device),
        )

    def _sections(self) -> dict[str, dict[str, Any]]:
        sections = {"run": self.run, **to_plain(self.settings)}
        return {
            name: {key: "none" if value is None else value for key, value in section.items()}
            for name, section in sections.items()
        }

    def _plan(self) -> Plan:
        settings, seed = self.settings, self.run["seed"]
        source = open_canvases(
            self.repeated,
            side=settings.views.canvas or canvas_side(self.photos, self.views),
            cache=settings.training.cache,
            device=self.device,
            workers=settings.training.workers,
        )
        rounds = self.rounds
        recipe = dataclasses.replace(
            settings.recipe,
            epochs=rounds.num_epochs,
            warmup_epochs=settings.recipe.warmup_epochs / rounds.num_repeats,
        )
        return Plan(
            recipe=recipe,
            training=settings.training,
            source=source,
            order=PhotoOrder(len(source.photos), batch_size=recipe.batch_size, seed=seed),
            augmenter=Augmenter(
                self.views, seed=seed, device=self.device, channels_last=self._channels_last()
            ),
            labels=torch.from_numpy(labels_of(source.photos).copy()),
            seed=seed,
            device=self.device,
            dtype=choose_dtypes(self.run["precision"], device=self.device, teacher=None).student,
            num_steps=rounds.num_steps,
            steps_a_pass=(len(self.photos) / recipe.batch_size if rounds.num_repeats > 1 else None),
        )

    def _channels_last(self) -> bool:
        wanted = self.settings.training.channels_last
        size = self.start.preprocess.image_size
        return prefers_channels_last(self.device, size) if wanted is None else wanted

    def _method(self, plan: Plan) -> Supervised:
        student = Student(
            self.start.network,
            architecture=self.start.architecture,
            preprocess=self.start.preprocess,
            classes=self.split.classes,
        )
        torch.manual_seed(self.run["seed"])
        parts = Parts(
            student=student,
            num_samples=plan.order.num_samples,
            labels=plan.labels,
            num_classes=len(self.split.classes),
            batch_size=plan.recipe.batch_size,
            total_steps=plan.total_steps,
            steps_per_epoch=plan.order.steps_per_epoch,
            generator=torch.Generator().manual_seed(self.run["seed"]),
        )
        method = Supervised(self.settings.method, parts).to(self.device)
        if self._channels_last():
            method.to(memory_format=torch.channels_last)
        method.standardise(
            embed(
                student.network, self.photos, preprocess=student.preprocess, device=self.device
            ).to(self.device)
        )
        return method

    def _test(self, student: Student) -> Metric:
        logits = predict(
            student.network, self.split.test, preprocess=student.preprocess, device=self.device
        )
        settings = self.settings
        return make_metric(
            "finetune",
            logits,
            torch.from_numpy(labels_of(self.split.test)),
            num_train=len(self.photos),
            protocol=f"finetune-{settings.method.train}-2",
            settings={
                "labels": self.chosen.description,
                "projection": self.run["projection"],
                "method": to_plain(settings.method),
                "recipe": to_plain(settings.recipe),
                "views": to_plain(self.views),
                "steps": self.rounds.num_steps,
                "reported": "the last epoch",
            },
        )

    def _provenance(self, sections: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "method": "finetune",
            "config": dict(sections),
            "data": self.photos.description,
            "environment": environment(),
            "start": self.start.provenance,
        }


def _fit(
    settings: Settings, *, asked: Collection[str], batch_size: int | None, num_labels: int
) -> Settings:
    """The recipe for this many labels: what config.toml says, and takes back as it is.

    The batch is one that the labels fill. Unless epochs were asked for, there are as many as make
    `min_steps` updates; the warm-up then keeps its share, unless it was asked for itself.
    """
    size = fit_batch_size(
        batch_size,
        usual=settings.recipe.batch_size,
        num_samples=num_labels,
        num_devices=distributed.world_size(),
    )
    recipe = dataclasses.replace(settings.recipe, batch_size=size)
    if "epochs" not in asked:
        passes = _enough_passes(recipe, min_steps=settings.method.min_steps, num_labels=num_labels)
        stretch = 1.0 if "warmup_epochs" in asked else passes / recipe.epochs
        recipe = dataclasses.replace(
            recipe, epochs=passes, warmup_epochs=recipe.warmup_epochs * stretch
        )
    return dataclasses.replace(settings, recipe=recipe)


def _enough_passes(recipe: Recipe, *, min_steps: int, num_labels: int) -> int:
    size = recipe.batch_size
    passes = max(recipe.epochs, math.ceil(min_steps * size / num_labels))
    # Batches are whole, so that this may be a few steps short.
    while _plan_rounds(passes, batch_size=size, num_labels=num_labels).num_steps < min_steps:
        passes += 1
    return passes


@dataclass(frozen=True, kw_only=True)
class _Rounds:
    """How the loop goes through few labels.

    Attributes:
        num_repeats: Passes over the labels that an epoch of the loop makes.
        num_epochs: Epochs of the loop; the last is cut short where passes do not divide evenly.
        num_steps: Of the whole run.
    """

    num_repeats: int
    num_epochs: int
    num_steps: int


def _plan_rounds(passes: int, *, batch_size: int, num_labels: int) -> _Rounds:
    """The rounds that make these passes, as nearly as whole batches allow."""
    most_repeats = min(passes, math.ceil(_STEPS_AN_EPOCH * batch_size / num_labels))
    num_epochs = math.ceil(passes / most_repeats)
    num_repeats = math.ceil(passes / num_epochs)
    whole = num_epochs * (num_repeats * num_labels // batch_size)
    return _Rounds(
        num_repeats=num_repeats,
        num_epochs=num_epochs,
        num_steps=min(whole, round(passes * num_labels / batch_size)),
    )
