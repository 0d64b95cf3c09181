"""`finetune`: a student becomes a classifier, with all labels or with the few that there are."""

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgeseed.core.config import to_plain
from edgeseed.core.console import quiet, say, warn
from edgeseed.core.errors import ConfigError, UsageError
from edgeseed.core.network import ProjectedTrunk, StudentNetwork, build_student, load_student
from edgeseed.core.options import takes
from edgeseed.core.photos import MAX_BROKEN_SHARE, PhotoSet
from edgeseed.core.preprocess import Preprocess, normalization
from edgeseed.core.pretrained import pooling_of
from edgeseed.core.student import Architecture
from edgeseed.distill import distributed
from edgeseed.distill.data.canvases import fit_batch_size, native_side
from edgeseed.distill.data.labels import (
    LabelList,
    Split,
    check_apart,
    choose_labels,
    labels_of,
    save_labels,
    split_labelled,
)
from edgeseed.distill.evaluation.metric import Metric, make_metric
from edgeseed.distill.networks.frozen import Student
from edgeseed.distill.networks.inference import embed, predict
from edgeseed.distill.networks.projection import projection_width, read_first_projection
from edgeseed.distill.networks.students import create_student, describe_student
from edgeseed.distill.supervised import Supervised
from edgeseed.distill.teachers import load_teacher
from edgeseed.distill.teachers.network import weights_digest
from edgeseed.distill.training.device import choose_device, prefers_channels_last, process_group
from edgeseed.distill.training.options import FinetuneOptions
from edgeseed.distill.training.recipe import Recipe
from edgeseed.distill.training.run_folder import HEADS, LABELS
from edgeseed.distill.training.runner import Rounds, RunningJob, TrainingJob, check_folder
from edgeseed.distill.training.settings import (
    FinetuneSettings,
    Settings,
    StudentSettings,
    build_settings,
    check_form,
    is_given,
    make_views,
    plain_sections,
    run_defaults,
)

# A few labels are repeated (under other crops) until an epoch of the loop has about this many
# steps: what the loop does between epochs would take longer than the epoch.
_STEPS_AN_EPOCH = 25


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneResult:
    """Where the classifier is, and how right it is.

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


@takes(FinetuneOptions)
def finetune(options: FinetuneOptions) -> FinetuneResult:
    """Turns a student into a classifier.

    Returns:
        Where the classifier is, and how right it is on photos that it did not learn from.

    Raises:
        UsageError: If the call is wrong, or photos, labels and student are not those of the run to
            resume.
        DataError: If there are too few photos or labels, a list names photos that are missing, or
            the test photos are those that are learnt from.
        ArtifactError: If a file is broken.
        WorkError: If training diverges, is interrupted, or the disk is full.
    """
    config = None if options.config is None else Path(options.config)
    said: dict[str, Any] = {
        "options": {
            "epochs": options.epochs, "batch_size": options.batch_size, "lr": options.lr,
        },
        "overrides": options.settings,
        "config": config,
    }  # fmt: skip
    settings = build_settings(Supervised, name="finetune", **said)
    asked = frozenset(name for name in ("epochs", "warmup_epochs") if is_given(name, **said))
    student = str(options.student)
    # A student file has its own size, whatever another run was given.
    has_size = _is_student_file(student) and options.image_size is None
    size = {} if has_size else {"image_size": options.image_size}
    defaults = run_defaults(config, **size, seed=options.seed, precision=options.precision)
    run = FinetuneSettings(
        student=student,
        data=str(options.data),
        test_data=None if options.test_data is None else str(options.test_data),
        labels=options.labels,
        projection=options.projection,
        devices=str(options.devices),
        **dataclasses.asdict(defaults),
    )
    check_form(student, settings.student)
    device = choose_device(run.devices)
    split = split_labelled(run.data, test_data=run.test_data, seed=run.seed)
    chosen = choose_labels(split.train, run.labels, seed=run.seed, held_out=split.held_out)
    if run.test_data is not None:
        check_apart(split.train.subset(chosen.indices), split.test)
    _check_readable(split.test)
    with (
        process_group(device),
        quiet(not distributed.is_main(), notes=True),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        start = _load_start(
            student,
            split,
            form=settings.student,
            image_size=run.image_size,
            projection=run.projection,
            seed=run.seed,
        )
        return _Finetuning(
            run, settings, split, chosen, start, device=device, out=Path(options.out)
        ).go(asked=asked, batch_size=options.batch_size, resume=options.resume)


class _Finetuning:
    """From labelled photos and a network to a job, and from its student to a tested classifier."""

    def __init__(
        self,
        run: FinetuneSettings,
        settings: Settings,
        split: Split,
        chosen: LabelList,
        start: "_Start",
        *,
        device: torch.device,
        out: Path,
    ) -> None:
        self.run = run
        self.settings = settings
        self.split = split
        self.chosen = chosen
        self.start = start
        self.device = device
        self.out = out
        self.views = make_views(Supervised, settings, size=start.preprocess.size)
        if self.views.mixup:
            raise ConfigError("views.mixup=true blends photos, and their labels are not: use false")

    def go(self, *, asked: Collection[str], batch_size: int | None, resume: bool) -> FinetuneResult:
        """Trains what is left, tests once, and writes the classifier.

        Args:
            asked: Which of the recipe's epochs were asked for.
            batch_size: As it was asked for.
            resume: Whether to go on with the run in the folder.
        """
        labelled = self.split.train.subset(self.chosen.indices)
        _check_batch(self.settings.recipe, batch_size, num_labels=len(labelled))
        if not resume:
            check_folder(self.out, {}, resume=False, may_be_longer=False)
        photos, embeddings = self._look_at(labelled)
        self.settings = _fit(
            self.settings,
            asked=asked,
            batch_size=None if batch_size is None else min(batch_size, len(photos)),
            num_labels=len(photos),
        )
        if resume:
            sections = plain_sections(self.run, self.settings)
            check_folder(self.out, sections, resume=True, may_be_longer=False)
        recipe = self.settings.recipe
        job = TrainingJob(
            name="finetune",
            method=Supervised,
            run=self.run,
            settings=self.settings,
            views=self.views,
            photos=photos,
            trained={"student": self._student()},
            labels=lambda photos: torch.from_numpy(labels_of(photos).copy()),
            starts=self.start.digests,
            provenance={"start": self.start.provenance},
            rounds=_plan_rounds(
                recipe.epochs, batch_size=recipe.batch_size, num_labels=len(photos)
            ),
            start_embeddings=embeddings,
            keeps_best=False,
            may_be_longer=False,
        )
        running = RunningJob(job, device=self.device, out=self.out, resume=resume)
        say(
            f"finetune: {len(photos)} labels of {len(self.split.classes)} classes "
            f"({self.chosen.description})"
        )
        running.begin()
        if running.folder is not None:
            save_labels(self.out / LABELS, self.split.train, self.chosen)
        # The student is written before it is tested: a broken test photo costs no training.
        outcome = running.train(lambda _: ())
        metric = self._test(running.method.student, job)
        running.save_networks(({**metric.to_dict(), "test_data": self.split.description},))
        if running.folder is not None:
            running.folder.close()
        return FinetuneResult(
            out=self.out,
            student=self.out / "student.safetensors",
            labels=self.chosen.description,
            num_labels=len(photos),
            classes=self.split.classes,
            metric=metric,
            split=self.split.description,
            epochs=recipe.epochs,
            seconds=round(outcome.seconds, 2),
            device=str(self.device),
        )

    def _look_at(self, labelled: PhotoSet) -> tuple[PhotoSet, Tensor]:
        """The labelled photos that can be read, and the network's embeddings of them."""
        network, preprocess = self.start.network, self.start.preprocess
        network.to(self.device)
        wanted = self.settings.training.channels_last
        usual = prefers_channels_last(self.device, preprocess.image_size)
        if usual if wanted is None else wanted:
            network.to(memory_format=torch.channels_last)
        looked = embed(network, labelled, preprocess=preprocess, device=self.device)
        return looked.photos, looked.values

    def _student(self) -> Student:
        return Student(
            self.start.network,
            architecture=self.start.architecture,
            preprocess=self.start.preprocess,
            classes=self.split.classes,
        )

    def _test(self, student: Student, job: TrainingJob) -> Metric:
        """Accuracy on all test photos that can be read, however few: the work is done."""
        tested = predict(
            student.network, self.split.test, preprocess=student.preprocess, device=self.device,
            max_broken_share=1.0,
        )  # fmt: skip
        if tested.num_broken > MAX_BROKEN_SHARE * len(self.split.test):
            warn(
                f"{tested.num_broken} of {len(self.split.test)} test photos cannot be read: the "
                f"accuracy is that of the other {len(tested.photos)}"
            )
        assert job.rounds is not None
        return make_metric(
            "finetune",
            tested.values,
            torch.from_numpy(labels_of(tested.photos)),
            num_train=len(job.photos),
            protocol=f"finetune-{self.settings.method.train}-2",
            settings={
                "labels": self.chosen.description,
                "projection": self.run.projection,
                "method": to_plain(self.settings.method),
                "recipe": to_plain(self.settings.recipe),
                "views": to_plain(self.views),
                "steps": job.rounds.num_steps,
                "reported": "the last epoch",
            },
        )


def _check_readable(photos: PhotoSet) -> None:
    """Makes sure before training that there will be something to test on.

    Raises:
        DataError: If none of the photos that are looked at can be read.
    """
    native_side(photos)


# --------------------------------------------------------------------------- where it starts


@dataclass(frozen=True)
class _Start:
    """The network to train, and what is known of it."""

    network: StudentNetwork
    architecture: Architecture
    preprocess: Preprocess
    provenance: dict[str, Any]

    @property
    def digests(self) -> dict[str, str]:
        """Role -> digest of the weights that it starts from; none where they are fresh."""
        digest = self.provenance.get("weights_sha256")
        return {} if digest is None else {"student": digest}


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
            width=form.width,
            channels=form.channels,
        )
        preprocess = Preprocess(
            image_size=size, resize=size, width=form.width, **normalization(form.channels)
        )
        start = _Start(network, architecture, preprocess, {})
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
    if pretrained.pooling == "cls" and pooling_of(network.backbone) != "cls":
        # As its authors use it, and as `evaluate` looks at the same weights.
        kwargs = {**architecture.kwargs, "global_pool": "token"}
        architecture = dataclasses.replace(architecture, kwargs=kwargs)
        network = build_student(architecture)
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
        trunk = ProjectedTrunk(network.backbone, projection_width(first))
        trunk.projection = first
        network = StudentNetwork(trunk)
        variant = {**architecture.variant, "projection": projection_width(first)}
        architecture = dataclasses.replace(architecture, variant=variant)
    return _Start(network, architecture, spec.preprocess, {**provenance, "before": spec.provenance})


# --------------------------------------------------------------------------- how long


def _check_batch(recipe: Recipe, batch_size: int | None, *, num_labels: int) -> None:
    """Refuses a batch that the labels cannot fill, before any photo is read."""
    if batch_size is not None:
        fit_batch_size(
            batch_size,
            usual=recipe.batch_size,
            num_samples=num_labels,
            num_devices=distributed.world_size(),
        )


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


def _plan_rounds(passes: int, *, batch_size: int, num_labels: int) -> Rounds:
    """The rounds that make these passes, as nearly as whole batches allow."""
    most_repeats = min(passes, math.ceil(_STEPS_AN_EPOCH * batch_size / num_labels))
    num_epochs = math.ceil(passes / most_repeats)
    # Epochs of even length, in place of full ones and a short last one.
    num_repeats = math.ceil(passes / num_epochs)
    whole = num_epochs * (num_repeats * num_labels // batch_size)
    return Rounds(
        num_repeats=num_repeats,
        num_epochs=num_epochs,
        num_steps=min(whole, round(passes * num_labels / batch_size)),
    )
