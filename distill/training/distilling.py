"""`distill`: one call from photos and a teacher to a student file, by way of `train`."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from edgeseed.core.config import to_plain
from edgeseed.core.console import count_of, note, quiet, say
from edgeseed.core.environment import environment
from edgeseed.core.errors import ConfigError, DataError, UsageError
from edgeseed.core.network import StudentNetwork, load_student
from edgeseed.core.photos import PhotoSet, open_photos
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
from edgeseed.distill.data.labels import choose_labels, labels_as
from edgeseed.distill.data.views import Augmenter, ViewPlan
from edgeseed.distill.method import Method, Parts
from edgeseed.distill.methods import load_method
from edgeseed.distill.networks.frozen import EmbeddingCache, FrozenTeacher, Student
from edgeseed.distill.networks.students import check_student_name, create_student, describe_student
from edgeseed.distill.teachers import Teacher, load_teacher
from edgeseed.distill.training.device import (
    Dtypes,
    Precision,
    choose_device,
    choose_dtypes,
    prefers_channels_last,
    process_group,
)
from edgeseed.distill.training.run_folder import RunFolder
from edgeseed.distill.training.settings import (
    ALL_LABELS,
    Activation,
    RunSettings,
    Settings,
    build_settings,
    check_form,
    plain_sections,
    set_dials,
    student_overrides,
)
from edgeseed.distill.training.trainer import Plan, Score, Trainer

_RESIZE_MARGIN = 8 / 7
"""Shorter side before the centre crop over the crop, at evaluation: 256 to 224, as is usual."""
_SMALL_IMAGE = 96
"""Below this, photos are used to their borders: at 32 pixels a margin cuts into the subject."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillResult:
    """What a run gave.

    Attributes:
        out: The run's folder.
        student: The student file, from the last epoch.
        best: The student file of the best epoch: by kNN accuracy if it was measured, else by loss.
        method: Name of the method.
        epochs: Passes over the photos.
        steps: Optimiser steps.
        num_photos: Photos that were trained on.
        loss: Mean of the last epoch.
        floor: The least that loss could have been, where it is known.
        knn: kNN accuracy after the last epoch, 0 to 1, where it was measured.
        seconds: Of training, measuring and saving between epochs included.
        images_per_second: Over the steps of this call; 0 if there were none left to do.
        device: Where it ran.
        networks: All student files by name, such as a peer's.
    """

    out: Path
    student: Path
    best: Path
    method: str
    epochs: int
    steps: int
    num_photos: int
    loss: float
    floor: float | None
    knn: float | None
    seconds: float
    images_per_second: float
    device: str
    networks: Mapping[str, Path]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {f.name: to_plain(getattr(self, f.name)) for f in dataclasses.fields(self)}


def distill(
    *,
    method: str = "regress",
    teacher: str | None,
    student: str,
    data: str | Path,
    out: str | Path,
    peer: str | None = None,
    labels: str = ALL_LABELS,
    activation: Activation = "keep",
    drop_se: bool = False,
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
    during: int | None = None,
) -> DistillResult:
    """Distils a teacher into a student on unlabelled photos.

    Args:
        method: A name that `METHODS.names()` lists, of a method that needs a teacher or a peer;
            `pretrain` runs the others.
        teacher: Frozen network, as `load_teacher` reads it; None for a method that has none.
        student: A timm name, or a student file to go on from.
        data: Photos, as `open_photos` reads them.
        out: The run's folder, new or empty.
        peer: A second network that is trained, for methods that have one.
        labels: Which of the photos' labels a method that uses any may see: a share of each class
            ("1%"), a number of each ("5pc"), or a file with one photo a line.
        activation: "relu6" puts ReLU6 where SiLU and hard-swish are, which quantizes better.
        drop_se: Leaves out squeeze-and-excitation, which quantizes badly.
        epochs: Passes over the photos; by default the method's.
        batch_size: Photos a step over all devices; by default the method's, less for a small set.
        image_size: Side of the student's input, in pixels; by default that of the student file, or
            the one a fresh network was designed for, less for small photos.
        lr: Peak learning rate, for the recipe's `lr_batch_size`; by default the method's.
        seed: Of all that is drawn: weights, order, crops, queues. By default 0.
        devices: `auto`, `cpu`, `cuda`, `cuda:N`, `mps`, or the number of processes that torchrun
            started.
        precision: `fp32`, `bf16`, or `auto`, the default, which chooses by device and network.
        settings: `"field=value"` for the method, `"recipe.field=value"`, `"views.…"`,
            `"training.…"`, `"student.…"` for the rest.
        config: A TOML file with settings, such as another run's config.toml; its image size, seed
            and precision are taken as well, where they are not given here.
        resume: Go on with the run in `out`; nothing but devices and loading may have changed.
        during: Measure kNN accuracy every so many epochs; the photos need labels for it.

    Returns:
        Where the student is, and how the run went.

    Raises:
        UsageError: If the call is wrong: unknown names, settings that do not fit, too few photos.
        WorkError: If training diverges, is interrupted, or the disk is full.
    """
    needs = load_method(method).NEEDS
    if not (needs.teacher or needs.peer):
        raise UsageError(
            f"method {method} does not distil: it learns from photos alone; use "
            f"`edgeseed pretrain --method {method} --model {student}`"
        )
    path = None if config is None else Path(config)
    dials = set_dials(path, image_size=image_size, seed=seed, precision=precision)
    return train(
        RunSettings(
            method=method,
            student=student,
            teacher=teacher,
            peer=peer,
            labels=labels,
            data=str(data),
            devices=str(devices),
            during=during,
            **dataclasses.asdict(dials),
        ),
        out=Path(out),
        options={"epochs": epochs, "batch_size": batch_size, "lr": lr},
        overrides=(*student_overrides(activation=activation, drop_se=drop_se), *settings),
        config=path,
        resume=resume,
    )


def train(
    run: RunSettings,
    *,
    out: Path,
    options: Mapping[str, Any],
    overrides: Sequence[str] = (),
    config: Path | None = None,
    resume: bool = False,
) -> DistillResult:
    """Runs any method: what `distill`, `pretrain` and their kin have in common.

    Args:
        run: What is run.
        out: The run's folder.
        options: Fields of the recipe that were given as options (None: not given).
        overrides: As `--set` takes them.
        config: A TOML file with settings.
        resume: Go on with the run in `out`.

    Raises:
        UsageError: As `distill`.
        WorkError: As `distill`.
    """
    method_class = load_method(run.method)
    _check_needs(method_class, run)
    settings = build_settings(
        method_class, name=run.method, options=options, overrides=overrides, config=config
    )
    _check_students(run, settings)
    device = choose_device(run.devices)
    with (
        process_group(device),
        quiet(not distributed.is_main(), notes=True),
        # Weights of heads are drawn from torch's generator; it is given back as it was.
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        return _Run(method_class, run, settings, out=out, device=device, options=options).go(resume)


def _check_needs(method: type[Method[Any]], run: RunSettings) -> None:
    for name, needed in (("teacher", method.NEEDS.teacher), ("peer", method.NEEDS.peer)):
        given = getattr(run, name)
        if needed and given is None:
            raise UsageError(f"method {run.method} needs a {name}: give --{name} NAME")
        if given is not None and not needed:
            raise UsageError(f"method {run.method} has no {name}: leave out --{name} {given}")


def _check_students(run: RunSettings, settings: Settings) -> None:
    """Before photos are read and a teacher is loaded, which may take minutes."""
    for name in filter(None, (run.student, run.peer)):
        check_form(name, settings.student)
        if not name.endswith(".safetensors"):
            check_student_name(name)


class _Run:
    """One run, from settings to student file."""

    def __init__(
        self,
        method: type[Method[Any]],
        run: RunSettings,
        settings: Settings,
        *,
        out: Path,
        device: torch.device,
        options: Mapping[str, Any],
    ) -> None:
        self.method_class = method
        self.device = device
        self.out = out
        self.photos = _open_data(method, run)
        self.run = dataclasses.replace(run, image_size=_image_size(run, self.photos))
        self.views = settings.views.apply(method.views(settings.method, self.image_size))
        self.settings = dataclasses.replace(
            settings, recipe=_fit_recipe(settings.recipe, options, len(self.photos))
        )
        _check_views(self.views, method)

    @property
    def image_size(self) -> int:
        assert self.run.image_size is not None
        return self.run.image_size

    def go(self, resume: bool) -> DistillResult:
        """Trains what is left, and writes the results."""
        folder = RunFolder(self.out) if distributed.is_main() else None
        sections = plain_sections(self.run, self.settings)
        has_state = resume and RunFolder(self.out).reopen(sections)
        if folder is not None and not resume:
            folder.check_free()
        teacher = self._load_teacher()
        dtypes = choose_dtypes(self.run.precision, device=self.device, teacher=teacher)
        students = self._build_students(teacher)
        plan = self._plan(dtypes, students["student"].classes)
        method = self._build_method(plan, teacher, students, dtypes)
        if folder is not None and not resume:
            # Only now: what could be wrong with the call was found, and nothing was written.
            folder.start(sections)
        provenance = self._provenance(sections, teacher)

        def save_best(current: Method[Any], record: Mapping[str, Any]) -> None:
            if folder is not None:
                metrics = _metrics(record, self.run)
                folder.save_networks(
                    current.networks(), provenance=provenance, metrics=metrics, best=True
                )

        trainer = Trainer(method, plan, folder=folder, save_best=save_best, score=self._score())
        if has_state:
            trainer.load_state_dict(RunFolder(self.out).load_state())
            if folder is not None:
                folder.forget_after(trainer.step)
            say(f"going on after step {trainer.step} of {plan.total_steps}")
        self._announce(plan, teacher, dtypes)
        outcome = trainer.fit()
        if folder is not None:
            metrics = _metrics(outcome.last, self.run)
            folder.save_networks(method.networks(), provenance=provenance, metrics=metrics)
            folder.save_heads(method.heads())
            folder.draw_curves()
            folder.close()
        return self._result(plan, method, outcome.last, outcome.seconds, outcome.images_per_second)

    # ------------------------------------------------------------------ networks

    def _load_teacher(self) -> Teacher | None:
        if self.run.teacher is None:
            return None
        wanted = self.settings.views.teacher_size
        try:
            return load_teacher(self.run.teacher, image_size=wanted or self.image_size)
        except ConfigError as error:
            if wanted is not None:
                raise
            raise ConfigError(
                f"{error}; --set views.teacher_size=N gives the teacher a size of its own"
            ) from error

    def _build_students(self, teacher: Teacher | None) -> dict[str, Student]:
        names = {"student": self.run.student, "peer": self.run.peer}
        return {
            role: self._build_student(name, teacher, seed=self.run.seed + number)
            for number, (role, name) in enumerate(names.items())
            if name is not None
        }

    def _build_student(self, name: str, teacher: Teacher | None, *, seed: int) -> Student:
        network, architecture, preprocess, known = self._network(name, seed=seed)
        classes = self._head_classes(teacher)
        if classes is None:
            network.head = None
        elif network.head is None or known != classes:
            torch.manual_seed(seed)
            network.head = torch.nn.Linear(network.embedding_dim, len(classes))
        return Student(network, architecture=architecture, preprocess=preprocess, classes=classes)

    def _network(
        self, name: str, *, seed: int
    ) -> tuple[StudentNetwork, Architecture, Preprocess, tuple[str, ...] | None]:
        """A student to start from, and the classes that its head knows."""
        preprocess = _preprocess(self.image_size)
        if name.endswith(".safetensors"):
            network, spec = load_student(name)
            mean, std = spec.preprocess.mean, spec.preprocess.std
            preprocess = dataclasses.replace(preprocess, mean=mean, std=std)
            return network, spec.architecture, preprocess, spec.classes
        network, architecture = create_student(
            name,
            seed=seed,
            image_size=self.image_size,
            any_size=any(crop.size != self.image_size for crop in self.views.crops),
            activation=self.settings.student.activation,
            drop_se=self.settings.student.drop_se,
            reduce_stride=self.settings.student.reduce_stride,
        )
        return network, architecture, preprocess, None

    def _head_classes(self, teacher: Teacher | None) -> tuple[str, ...] | None:
        wanted = self.method_class.NEEDS.classifier
        if wanted == "labels":
            return self.photos.classes if self.photos.labels is not None else None
        return self._classes(teacher) if wanted else None

    def _classes(self, teacher: Teacher | None) -> tuple[str, ...]:
        if teacher is not None and teacher.classes is not None:
            return teacher.classes
        if self.photos.classes is not None:
            return self.photos.classes
        raise DataError(
            f"method {self.run.method} trains a classifier, and neither the teacher nor "
            f"{self.run.data} says which classes there are; make the teacher a classifier first "
            "(`edgeseed finetune`), or give class folders"
        )

    # ------------------------------------------------------------------ plan

    def _plan(self, dtypes: Dtypes, classes: tuple[str, ...] | None) -> Plan:
        settings, seed = self.settings, self.run.seed
        source = open_canvases(
            self.photos,
            side=settings.views.canvas or canvas_side(self.photos, self.views),
            cache=settings.training.cache,
            device=self.device,
            workers=settings.training.workers,
        )
        self.photos = source.photos
        order = PhotoOrder(
            len(source.photos),
            batch_size=settings.recipe.batch_size,
            seed=seed,
            replay=settings.views.replay,
        )
        augmenter = Augmenter(
            self.views,
            seed=seed,
            device=self.device,
            channels_last=self._channels_last(),
            replays=settings.views.replay > 0,
        )
        return Plan(
            recipe=settings.recipe,
            training=settings.training,
            source=source,
            order=order,
            augmenter=augmenter,
            labels=self._labels(classes),
            seed=seed,
            device=self.device,
            dtype=dtypes.student,
            score_every=self.run.during,
        )

    def _labels(self, classes: tuple[str, ...] | None) -> Tensor | None:
        """(N,) labels as numbers of `classes`, -1 for photos whose label may not be seen."""
        if self.method_class.NEEDS.labels == "unused" or self.photos.labels is None:
            return None
        labels = labels_as(classes or self.photos.classes, self.photos)
        seen = choose_labels(self.photos, self.run.labels, seed=self.run.seed).indices
        allowed = np.full_like(labels, -1)
        allowed[seen] = labels[seen]
        return torch.from_numpy(allowed)

    def _channels_last(self) -> bool:
        wanted = self.settings.training.channels_last
        return prefers_channels_last(self.device, self.image_size) if wanted is None else wanted

    def _build_method(
        self,
        plan: Plan,
        teacher: Teacher | None,
        students: Mapping[str, Student],
        dtypes: Dtypes,
    ) -> Method[Any]:
        torch.manual_seed(self.run.seed)
        parts = Parts(
            student=students["student"],
            teacher=self._freeze(teacher, dtypes),
            peer=students.get("peer"),
            num_samples=len(self.photos),
            labels=plan.labels,
            num_classes=len(students["student"].classes or self.photos.classes or ()),
            batch_size=plan.recipe.batch_size,
            total_steps=plan.total_steps,
            steps_per_epoch=plan.order.steps_per_epoch,
            generator=torch.Generator().manual_seed(self.run.seed),
        )
        method = self.method_class(self.settings.method, parts).to(self.device)
        if self._channels_last():
            # Only four-dimensional weights have the layout; queues and heads stay as they are.
            method.to(memory_format=torch.channels_last)
        return method

    def _freeze(self, teacher: Teacher | None, dtypes: Dtypes) -> FrozenTeacher | None:
        if teacher is None:
            return None
        replay = self.settings.views.replay
        cache = EmbeddingCache(len(self.photos), periods=replay) if replay else None
        return FrozenTeacher(teacher, device=self.device, dtype=dtypes.teacher, cache=cache)

    def _score(self) -> Score | None:
        if self.run.during is None:
            return None
        from edgeseed.distill.evaluation.monitor import KnnScore

        return KnnScore(self.photos)

    # ------------------------------------------------------------------ words

    def _announce(self, plan: Plan, teacher: Teacher | None, dtypes: Dtypes) -> None:
        recipe = plan.recipe
        taught = "" if teacher is None else f" from {teacher.name} ({_short(dtypes.teacher)})"
        say(
            f"{self.run.method}: {self.run.student}{taught}, "
            f"{len(self.photos)} photos at {self.image_size} px, "
            f"{count_of(recipe.epochs, 'epoch')} of "
            f"{count_of(plan.order.steps_per_epoch, 'step')} of {recipe.batch_size} photos, "
            f"{recipe.optimizer} with peak learning rate {recipe.peak_lr:.3g}, "
            f"{_short(plan.dtype)} on {self.device}"
        )

    def _provenance(self, sections: Mapping[str, Any], teacher: Teacher | None) -> dict[str, Any]:
        provenance: dict[str, Any] = {
            "method": self.run.method,
            "config": dict(sections),
            "data": self.photos.description,
            "environment": environment(),
        }
        if teacher is not None:
            provenance["teacher"] = {
                "name": teacher.name,
                "weights_sha256": teacher.digest,
                "licence": teacher.licence,
                "commercial_ok": teacher.commercial_ok,
            }
        return provenance

    def _result(
        self,
        plan: Plan,
        method: Method[Any],
        last: Mapping[str, Any],
        seconds: float,
        images_per_second: float,
    ) -> DistillResult:
        networks = {name: self.out / f"{name}.safetensors" for name in method.networks()}
        return DistillResult(
            out=self.out,
            student=next(iter(networks.values())),
            best=self.out / "best.safetensors",
            method=self.run.method,
            epochs=plan.recipe.epochs,
            steps=plan.total_steps,
            num_photos=len(self.photos),
            loss=last["loss"],
            floor=last.get("floor"),
            knn=last.get("knn"),
            seconds=round(seconds, 2),
            images_per_second=round(images_per_second, 1),
            device=str(self.device),
            networks=networks,
        )


def _open_data(method: type[Method[Any]], run: RunSettings) -> PhotoSet:
    required = method.NEEDS.labels == "required"
    photos = open_photos(run.data, labels=True if required else None)
    if run.labels != ALL_LABELS and (method.NEEDS.labels == "unused" or photos.labels is None):
        reason = (
            f"{run.data} has no labels"
            if photos.labels is None
            else f"method {run.method} uses none"
        )
        raise UsageError(f"labels {run.labels} were asked for, and {reason}; leave them out")
    if run.during is not None and photos.labels is None:
        raise DataError(
            f"--during measures kNN accuracy, and {run.data} has no labels; leave it out, or sort "
            "the photos into class folders"
        )
    return photos


def _image_size(run: RunSettings, photos: PhotoSet) -> int:
    if run.image_size is not None:
        if run.image_size < 8:
            raise ConfigError(f"--image-size {run.image_size}: use at least 8 pixels")
        return run.image_size
    if run.student.endswith(".safetensors"):
        return load_student(run.student)[1].preprocess.image_size  # someone has chosen it
    usual = describe_student(run.student).image_size
    native = native_side(photos)
    size = min(usual, max(32, -(-native // 32) * 32))
    if size < usual:
        note(f"image size {size} instead of the student's {usual}: the photos are {native} pixels")
    return size


def _preprocess(image_size: int) -> Preprocess:
    margin = _RESIZE_MARGIN if image_size >= _SMALL_IMAGE else 1.0
    return Preprocess(image_size=image_size, resize=round(image_size * margin))


def _fit_recipe(recipe: Any, options: Mapping[str, Any], num_photos: int) -> Any:
    size = fit_batch_size(
        options.get("batch_size"),
        usual=recipe.batch_size,
        num_samples=num_photos,
        num_devices=int(os.environ.get("WORLD_SIZE", "1")),
    )
    return dataclasses.replace(recipe, batch_size=size)


def _check_views(views: ViewPlan, method: type[Method[Any]]) -> None:
    if views.mixup and method.NEEDS.labels != "unused":
        raise ConfigError(
            "views.mixup=true blends photos, and this method's labels do not: use false"
        )


def _metrics(record: Mapping[str, Any], run: RunSettings) -> tuple[dict[str, Any], ...]:
    if "knn" not in record:
        return ()
    names = ("knn", "knn_k", "knn_temperature", "knn_train_photos", "knn_test_photos", "epoch")
    return ({"protocol": "knn during training", **{n: record[n] for n in names}, "data": run.data},)


def _short(dtype: torch.dtype) -> Literal["fp32", "bf16"]:
    return "bf16" if dtype == torch.bfloat16 else "fp32"
