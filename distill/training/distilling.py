"""`distill`: one call from photos and a teacher to a student file."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from edgeseed.core.config import to_plain
from edgeseed.core.console import note, quiet
from edgeseed.core.errors import ConfigError, DataError, UsageError
from edgeseed.core.network import StudentNetwork
from edgeseed.core.options import takes
from edgeseed.core.photos import PhotoSet, open_photos
from edgeseed.core.preprocess import Preprocess, normalization
from edgeseed.core.pretrained import (
    architecture_name,
    check_model_name,
    is_pretrained_name,
    is_student_file,
    is_trained,
    load_model,
)
from edgeseed.core.student import Architecture, read_spec
from edgeseed.distill import distributed
from edgeseed.distill.data.canvases import fit_batch_size, native_side
from edgeseed.distill.data.labels import choose_labels, labels_as
from edgeseed.distill.data.views import ViewPlan
from edgeseed.distill.method import Method
from edgeseed.distill.methods import load_method
from edgeseed.distill.networks.frozen import Student
from edgeseed.distill.networks.students import check_student_name, create_student, describe_student
from edgeseed.distill.teachers import Teacher, load_teacher
from edgeseed.distill.teachers.network import weights_digest
from edgeseed.distill.training.device import choose_device, process_group
from edgeseed.distill.training.options import ALL_LABELS, DistillOptions, UnlabelledOptions
from edgeseed.distill.training.recipe import Recipe
from edgeseed.distill.training.run_folder import RunFolder
from edgeseed.distill.training.runner import Metrics, RunningJob, TrainingJob, check_folder
from edgeseed.distill.training.settings import (
    RunSettings,
    Settings,
    StudentSettings,
    as_mapping,
    build_settings,
    check_form,
    go_on_longer,
    is_given,
    make_views,
    plain_sections,
    run_defaults,
    student_settings,
)

_RESIZE_MARGIN = 8 / 7
"""Shorter side before the centre crop over the crop, at evaluation: 256 to 224, as is usual."""
_SMALL_IMAGE = 96
"""Below this, photos are used to their borders: at 32 pixels a margin cuts into the subject."""
_USUAL_BANK = 16
"""Views of a photo that a teacher cache holds, unless views.replay says otherwise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillResult:
    """Where the networks of a run are, and how it went.

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


@takes(DistillOptions)
def distill(options: DistillOptions) -> DistillResult:
    """Distils a teacher into a student on unlabelled photos.

    Returns:
        Where the student is, and how the run went.

    Raises:
        UsageError: If the call is wrong: unknown names, settings that do not fit, too few photos,
            or photos, labels and networks that are not those of the run to resume.
        WorkError: If training diverges, is interrupted, or the disk is full.
    """
    needs = load_method(options.method).REQUIREMENTS
    if not needs.roles:
        raise UsageError(
            f"method {options.method} does not distil: it learns from photos alone; use "
            f"`edgeseed pretrain --method {options.method} --model {options.student}`"
        )
    networks = as_mapping(options.networks)
    cache = options.teacher_cache
    return train(
        options,
        method=options.method,
        student=options.student,
        teacher=options.teacher,
        peer=options.peer,
        networks=tuple(f"{role}={name}" for role, name in networks.items()),
        labels=options.labels,
        teacher_cache=None if cache is None else str(cache),
    )


def train(options: UnlabelledOptions, **run: Any) -> DistillResult:
    """Runs any method: what `distill` and `pretrain` have in common.

    Args:
        options: What both take.
        run: The fields of `RunSettings` that say what is run.

    Raises:
        UsageError: As `distill`.
        WorkError: As `distill`.
    """
    config = None if options.config is None else Path(options.config)
    defaults = run_defaults(
        config, image_size=options.image_size, seed=options.seed, precision=options.precision
    )
    settings = RunSettings(
        data=str(options.data),
        devices=str(options.devices),
        knn_every_epochs=options.knn_every_epochs,
        **dataclasses.asdict(defaults),
        **run,
    )
    return _Preparation(options, settings, config=config).run_job()


class _Preparation:
    """From the call to a job: opens photos and networks, and settles what depends on them."""

    def __init__(
        self, options: UnlabelledOptions, run: RunSettings, *, config: Path | None
    ) -> None:
        self.out, self.resume = Path(options.out), options.resume
        self.method = load_method(run.method)
        self.run = run
        _check_roles(self.method, run)
        self._recipe_options = {
            "epochs": options.epochs, "batch_size": options.batch_size, "lr": options.lr,
        }  # fmt: skip
        overrides = {
            **student_settings(activation=options.activation, drop_se=options.drop_se),
            **as_mapping(options.settings),
        }
        said: dict[str, Any] = {
            "options": self._recipe_options, "overrides": overrides, "config": config,
        }  # fmt: skip
        self.settings = build_settings(self.method, name=run.method, **said)
        self._keeps_warmup = not is_given("warmup_epochs", **said)
        _check_students(self.method, run, self.settings)

    def run_job(self) -> DistillResult:
        """Trains what is left, and writes the results."""
        device = choose_device(self.run.devices)
        with (
            process_group(device),
            quiet(not distributed.is_main(), notes=True),
            # Weights of heads are drawn from torch's generator; it is given back as it was.
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        ):
            self._settle()
            return self._train(device)

    def _settle(self) -> None:
        """Opens the photos, and fits the settings to them."""
        self.photos = _open_data(self.method, self.run)
        self.run = dataclasses.replace(self.run, image_size=_image_size(self.run, self.photos))
        settings = dataclasses.replace(
            self.settings,
            recipe=_fit_recipe(self.settings.recipe, self._recipe_options, len(self.photos)),
        )
        if self.resume:
            before = RunFolder(self.out).settings_before()
            settings = go_on_longer(settings, before, keeps_warmup=self._keeps_warmup)
        self.settings = settings = _with_bank(self.run, settings)
        self.form = _input_form(self.run, settings.student)
        self.views = make_views(self.method, settings, size=self.preprocess.size)
        _check_mixup(self.views, self.method)
        check_folder(
            self.out,
            plain_sections(self.run, settings),
            resume=self.resume,
            may_be_longer=True,
        )

    @property
    def image_size(self) -> int:
        assert self.run.image_size is not None
        return self.run.image_size

    @property
    def preprocess(self) -> Preprocess:
        """The student's input, but for the mean and std that given weights may have."""
        return _preprocess(self.image_size, self.form)

    def _train(self, device: torch.device) -> DistillResult:
        frozen = {
            role: self._load_teacher(self.run.roles[role])
            for role in self.method.REQUIREMENTS.frozen
        }
        self.starts: dict[str, str] = {}
        trained = self._build_students(frozen.get("teacher"))
        job = TrainingJob(
            name=self.run.method,
            method=self.method,
            run=self.run,
            settings=self.settings,
            views=self.views,
            photos=self.photos,
            trained=trained,
            frozen=frozen,
            labels=lambda photos: self._labels(photos, trained["student"].classes),
            starts=self.starts,
        )
        running = RunningJob(job, device=device, out=self.out, resume=self.resume)
        running.begin()
        outcome = running.train(self._metrics_of)
        if running.folder is not None:
            running.folder.draw_curves()
            running.folder.close()
        networks = {name: self.out / f"{name}.safetensors" for name in running.method.networks()}
        last = outcome.last
        return DistillResult(
            out=self.out,
            student=next(iter(networks.values())),
            best=self.out / "best.safetensors",
            method=self.run.method,
            epochs=self.settings.recipe.epochs,
            steps=running.plan.total_steps,
            num_photos=len(running.photos),
            loss=last["loss"],
            floor=last.get("floor"),
            knn=last.get("knn"),
            seconds=round(outcome.seconds, 2),
            images_per_second=round(outcome.images_per_second, 1),
            device=str(device),
            networks=networks,
        )

    # ------------------------------------------------------------------ networks

    def _load_teacher(self, name: str) -> Teacher:
        wanted = self.settings.views.teacher_size
        try:
            return load_teacher(name, image_size=wanted or self.image_size)
        except ConfigError as error:
            if wanted is not None:
                raise
            raise ConfigError(
                f"{error}; --set views.teacher_size=N gives the teacher a size of its own"
            ) from error

    def _build_students(self, teacher: Teacher | None) -> dict[str, Student]:
        roles = ("student", *self.method.REQUIREMENTS.trained)
        names = {"student": self.run.student, **self.run.roles}
        return {
            # Two networks of one architecture must not start from the same weights.
            role: self._build_student(role, names[role], teacher, seed=self.run.seed + number)
            for number, role in enumerate(roles)
        }

    def _build_student(
        self, role: str, name: str, teacher: Teacher | None, *, seed: int
    ) -> Student:
        network, architecture, preprocess, known = self._network(role, name, seed=seed)
        classes = self._head_classes(teacher)
        if classes is None:
            network.head = None
        # A given head is kept only if it has the same classes in the same order.
        elif network.head is None or known != classes:
            torch.manual_seed(seed)
            network.head = torch.nn.Linear(network.embedding_dim, len(classes))
        return Student(network, architecture=architecture, preprocess=preprocess, classes=classes)

    def _network(
        self, role: str, name: str, *, seed: int
    ) -> tuple[StudentNetwork, Architecture, Preprocess, tuple[str, ...] | None]:
        """A student to start from, and the classes that its head knows."""
        preprocess = self.preprocess
        if is_trained(name):
            network, spec = load_model(name, image_size=self.image_size)
            _check_input(name, spec.preprocess, preprocess)
            self.starts[role] = weights_digest(network)
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
            width=preprocess.width,
            channels=self.form.channels,
        )
        return network, architecture, preprocess, None

    def _head_classes(self, teacher: Teacher | None) -> tuple[str, ...] | None:
        wanted = self.method.REQUIREMENTS.classifier
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

    # ------------------------------------------------------------------ labels and metrics

    def _labels(self, photos: PhotoSet, classes: tuple[str, ...] | None) -> Tensor | None:
        """(N,) labels as numbers of `classes`, -1 for photos whose label may not be seen."""
        if self.method.REQUIREMENTS.labels == "unused" or photos.labels is None:
            return None
        labels = labels_as(classes or photos.classes, photos)
        seen = choose_labels(photos, self.run.labels, seed=self.run.seed).indices
        allowed = np.full_like(labels, -1)
        allowed[seen] = labels[seen]
        return torch.from_numpy(allowed)

    def _metrics_of(self, record: Mapping[str, Any]) -> Metrics:
        if "knn" not in record:
            return ()
        names = ("knn", "knn_k", "knn_temperature", "knn_train_photos", "knn_test_photos", "epoch")
        found = {name: record[name] for name in names}
        return ({"protocol": "knn during training", **found, "data": self.run.data},)


def _check_roles(method: type[Method[Any]], run: RunSettings) -> None:
    given, needed = run.roles, method.REQUIREMENTS.roles
    for role in needed:
        if role not in given:
            raise UsageError(f"method {run.method} needs a {role}: give {_spelling(role, 'NAME')}")
    for role, name in given.items():
        if role not in needed:
            raise UsageError(
                f"method {run.method} has no {role}: leave out {_spelling(role, name)}"
            )
    if run.teacher_cache is not None and not method.REQUIREMENTS.frozen:
        raise UsageError(
            f"method {run.method} has no teacher whose answers could be kept: leave out "
            f"--teacher-cache {run.teacher_cache}"
        )


def _spelling(role: str, name: str) -> str:
    """How the command line gives a network of a role."""
    return f"--{role} {name}" if role in ("teacher", "peer") else f"--network {role}={name}"


def _check_students(method: type[Method[Any]], run: RunSettings, settings: Settings) -> None:
    """Before photos are read and a teacher is loaded, which may take minutes."""
    for name in (run.student, *(run.roles[role] for role in method.REQUIREMENTS.trained)):
        check_form(name, settings.student)
        if is_pretrained_name(name):
            check_model_name(name)
        elif not is_student_file(name):
            check_student_name(name)


def _with_bank(run: RunSettings, settings: Settings) -> Settings:
    """A cache is of views that come again: without a number of them, there are the usual."""
    if run.teacher_cache is None or settings.views.replay:
        return settings
    note(
        f"--teacher-cache: views repeat after {_USUAL_BANK} epochs; --set views.replay=K chooses "
        "another number"
    )
    views = dataclasses.replace(settings.views, replay=_USUAL_BANK)
    return dataclasses.replace(settings, views=views)


def _open_data(method: type[Method[Any]], run: RunSettings) -> PhotoSet:
    required = method.REQUIREMENTS.labels == "required"
    photos = open_photos(run.data, labels=True if required else None)
    if run.labels != ALL_LABELS and (
        method.REQUIREMENTS.labels == "unused" or photos.labels is None
    ):
        reason = (
            f"{run.data} has no labels"
            if photos.labels is None
            else f"method {run.method} uses none"
        )
        raise UsageError(f"labels {run.labels} were asked for, and {reason}; leave them out")
    if run.knn_every_epochs is not None and photos.labels is None:
        raise DataError(
            f"--knn-every-epochs measures kNN accuracy, and {run.data} has no labels; leave it "
            "out, or sort the photos into class folders"
        )
    return photos


def _image_size(run: RunSettings, photos: PhotoSet) -> int:
    if run.image_size is not None:
        return run.image_size
    if is_student_file(run.student):
        return read_spec(run.student).preprocess.image_size  # someone has chosen it
    usual = describe_student(architecture_name(run.student)).image_size
    native = native_side(photos)
    # Up to a multiple of 32, which is the total stride of most networks.
    size = min(usual, max(32, -(-native // 32) * 32))
    if size < usual:
        note(f"image size {size} instead of the student's {usual}: the photos are {native} pixels")
    return size


def _input_form(run: RunSettings, wanted: StudentSettings) -> StudentSettings:
    """Width and channels of the input: a student file has its own."""
    if not is_student_file(run.student):
        return wanted
    preprocess = read_spec(run.student).preprocess
    return dataclasses.replace(
        wanted, width=preprocess.width, channels=cast(Any, preprocess.channels)
    )


def _preprocess(image_size: int, form: StudentSettings) -> Preprocess:
    margin = _RESIZE_MARGIN if image_size >= _SMALL_IMAGE else 1.0
    return Preprocess(
        image_size=image_size,
        resize=round(image_size * margin),
        width=form.width,
        **normalization(form.channels),
    )


def _check_input(name: str, has: Preprocess, wanted: Preprocess) -> None:
    if (has.channels, has.width) != (wanted.channels, wanted.width):
        raise ConfigError(
            f"{name} takes photos of {has.channels} channels and {has.size_text} px, another "
            f"network of this run {wanted.channels} and {wanted.size_text}; all must take the same"
        )


def _fit_recipe(recipe: Recipe, options: Mapping[str, Any], num_photos: int) -> Recipe:
    size = fit_batch_size(
        options.get("batch_size"),
        usual=recipe.batch_size,
        num_samples=num_photos,
        num_devices=int(os.environ.get("WORLD_SIZE", "1")),
    )
    return dataclasses.replace(recipe, batch_size=size)


def _check_mixup(views: ViewPlan, method: type[Method[Any]]) -> None:
    if views.mixup and method.REQUIREMENTS.labels != "unused":
        raise ConfigError(
            "views.mixup=true blends photos, and this method's labels do not: use false"
        )
