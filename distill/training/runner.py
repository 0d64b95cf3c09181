"""The one runner: `distill`, `pretrain` and `finetune` each describe a job, and it runs them all.

```text
job = TrainingJob(method, settings, photos, networks, ...)      what the three calls differ in
run_job(job, out=..., resume=...)
    open canvases -> plan -> method -> trainer                  nothing is written until here
    train what is left, saving states
    method.finish() -> student files, heads, curves
```
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from edgeseed.core.console import count_of, note, say
from edgeseed.core.environment import environment
from edgeseed.core.photos import PhotoSet
from edgeseed.distill import distributed
from edgeseed.distill.data.canvases import CanvasSource, PhotoOrder, canvas_side, open_canvases
from edgeseed.distill.data.views import Augmenter, ViewPlan
from edgeseed.distill.evaluation.monitor import KnnScore
from edgeseed.distill.method import Method, MethodInputs
from edgeseed.distill.networks.frozen import FrozenTeacher, Student
from edgeseed.distill.networks.teacher_cache import (
    CacheKey,
    TeacherCache,
    ViewKey,
    open_cache_folder,
)
from edgeseed.distill.teachers import Teacher
from edgeseed.distill.training.device import choose_dtypes, prefers_channels_last
from edgeseed.distill.training.run_folder import RunFolder
from edgeseed.distill.training.schedules import learning_rate
from edgeseed.distill.training.settings import (
    FinetuneSettings,
    RunSettings,
    Settings,
    plain_sections,
)
from edgeseed.distill.training.trainer import Outcome, Trainer, TrainingPlan

LabelReader = Callable[[PhotoSet], Tensor | None]
"""(N,) class of each photo of a set, -1 where it may not be seen; None if labels are unused."""
Metrics = tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """How the loop goes through a set whose photos are repeated within an epoch.

    Attributes:
        num_repeats: Passes over the photos that an epoch of the loop makes.
        num_epochs: Epochs of the loop; the last is cut short where passes do not divide evenly.
        num_steps: Of the whole run.
    """

    num_repeats: int
    num_epochs: int
    num_steps: int


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What is trained, how and on what.

    Attributes:
        name: Of the method, for messages and the student file.
        method: Its class.
        run: The section `[run]` of config.toml.
        settings: The other sections; the recipe fits the number of photos.
        views: The views of each photo.
        photos: What is trained on.
        trained: Networks that are trained, by role; `student` is one.
        frozen: Networks that only answer, by role.
        labels: Gives the labels of the photos that could be read.
        starts: Role -> digest of the weights that a trained network starts from, where it is given.
        provenance: What else the student file says of where it comes from.
        rounds: How often photos are repeated within an epoch; None once.
        start_embeddings: See `MethodInputs`.
        keeps_best: Whether the best epoch's networks are kept beside the last one's.
        may_be_longer: Whether a run may be resumed with more epochs.
    """

    name: str
    method: type[Method[Any]]
    run: RunSettings | FinetuneSettings
    settings: Settings
    views: ViewPlan
    photos: PhotoSet
    trained: Mapping[str, Student]
    frozen: Mapping[str, Teacher] = dataclasses.field(default_factory=dict)
    labels: LabelReader
    starts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rounds: Rounds | None = None
    start_embeddings: Tensor | None = None
    keeps_best: bool = True
    may_be_longer: bool = True

    @property
    def student(self) -> Student:
        """The network that is evaluated."""
        return self.trained["student"]


class RunningJob:
    """A job that is planned and built, in the order in which a run needs it.

    Args:
        job: What is trained.
        device: Where.
        out: The run's folder.
        resume: Whether to go on with the run there.
    """

    def __init__(self, job: TrainingJob, *, device: torch.device, out: Path, resume: bool) -> None:
        self.job = job
        self.device = device
        self.resume = resume
        self._reader = RunFolder(out)
        self.folder = self._reader if distributed.is_main() else None
        self._sections = plain_sections(job.run, job.settings)
        self.image_size = job.student.image_size
        wanted = job.settings.training.channels_last
        self.channels_last = (
            prefers_channels_last(device, self.image_size) if wanted is None else wanted
        )
        self.plan = self._make_plan()
        # With rounds the source repeats the photos; records and messages are of the set itself.
        self.photos = self.plan.source.photos if job.rounds is None else job.photos
        self._inputs = self._describe_inputs()
        self._caches: dict[str, TeacherCache] = {}
        if resume:
            self._reader.check_inputs(self._inputs)
        self.method = self._build_method()
        self.provenance = self._describe_provenance()

    def begin(self) -> None:
        """Begins the run's folder, unless it goes on: the call has proven right by now."""
        if self.folder is not None and not self.resume:
            self.folder.start(self._sections, self._inputs)

    def train(self, metrics_of: Callable[[Mapping[str, Any]], Metrics]) -> Outcome:
        """Trains what is left, and writes the networks.

        Args:
            metrics_of: The metrics of a student file, from the record of its epoch.
        """

        def save_best(method: Method[Any], record: Mapping[str, Any]) -> None:
            if self.job.keeps_best:
                self.save_networks(metrics_of(record), best=True)

        trainer = Trainer(
            self.method,
            self.plan,
            folder=self.folder,
            save_best=save_best,
            evaluator=None if self.plan.evaluate_every is None else KnnScore(self.photos),
        )
        if self.resume:
            self._go_on(trainer)
        self._announce()
        outcome = trainer.fit()
        self.method.finish()
        self.save_networks(metrics_of(outcome.last))
        for role, cache in self._caches.items():
            if cache.num_asked:
                share = cache.num_known / cache.num_asked
                say(f"{role}: {share:.0%} of {cache.num_asked} answers were known")
        return outcome

    def save_networks(self, metrics: Metrics, *, best: bool = False) -> None:
        """Writes a student file each, and the heads beside them."""
        if self.folder is None:
            return
        self.folder.save_networks(
            self.method.networks(), provenance=self.provenance, metrics=metrics, best=best
        )
        if not best:
            self.folder.save_heads(self.method.heads())

    def _go_on(self, trainer: Trainer) -> None:
        """Takes the state, and says so if the run is longer than it was."""
        before = self._reader.settings_before()
        if self.folder is not None:
            self.folder.write_settings(self._sections)
        has_state = self._reader.has_state()
        if has_state:
            trainer.load_state_dict(self._reader.load_state())
        if self.folder is not None:
            # Also without a state: the attempt before may have written records, and a step would be
            # there twice.
            self.folder.forget_after(trainer.step)
        if not has_state:
            return
        say(f"going on after step {trainer.step} of {self.plan.total_steps}")
        epochs, epochs_before = self.job.settings.recipe.epochs, before["recipe"]["epochs"]
        if epochs > epochs_before:
            then = trainer.optimizer.param_groups[0]["lr"]
            now = learning_rate(
                self.plan.recipe,
                step=trainer.step,
                total_steps=self.plan.total_steps,
                steps_per_epoch=self.plan.order.steps_per_epoch,
            )
            note(
                f"{count_of(epochs, 'epoch')} instead of {epochs_before}: what is left follows the "
                f"schedule of {epochs}, so the learning rate goes from {then:.3g} to {now:.3g} at "
                f"step {trainer.step}; a run of {epochs} epochs from the start ends elsewhere"
            )

    # ------------------------------------------------------------------ plan

    def _make_plan(self) -> TrainingPlan:
        job, settings, seed = self.job, self.job.settings, self.job.run.seed
        self.canvas = settings.views.canvas or canvas_side(job.photos, job.views)
        source = self._open_canvases()
        recipe, num_steps, steps_a_pass = settings.recipe, None, None
        if job.rounds is not None:
            repeats, num_steps = job.rounds.num_repeats, job.rounds.num_steps
            # The loop's epochs are longer than the user's, and the warm-up is counted in them.
            recipe = dataclasses.replace(
                recipe,
                epochs=job.rounds.num_epochs,
                warmup_epochs=recipe.warmup_epochs / repeats,
            )
            steps_a_pass = len(job.photos) / recipe.batch_size if repeats > 1 else None
        run = job.run
        return TrainingPlan(
            recipe=recipe,
            training=settings.training,
            source=source,
            order=PhotoOrder(
                len(source.photos),
                batch_size=recipe.batch_size,
                seed=seed,
                replay=settings.views.replay,
            ),
            augmenter=Augmenter(
                job.views,
                seed=seed,
                device=self.device,
                channels_last=self.channels_last,
                replays=settings.views.replay > 0,
            ),
            labels=job.labels(source.photos),
            seed=seed,
            device=self.device,
            dtype=choose_dtypes(run.precision, device=self.device, teacher=None).student,
            evaluate_every=run.knn_every_epochs if isinstance(run, RunSettings) else None,
            num_steps=num_steps,
            steps_a_pass=steps_a_pass,
        )

    def _open_canvases(self) -> CanvasSource:
        job, training = self.job, self.job.settings.training
        photos = job.photos
        if job.rounds is not None:
            # Few photos make epochs of a few steps, whose beginning and end would cost more than
            # they do.
            photos = photos.subset(np.tile(np.arange(len(photos)), job.rounds.num_repeats))
        return open_canvases(
            photos,
            side=self.canvas,
            cache=training.cache,
            device=self.device,
            workers=training.workers,
            channels=self._photo_channels(),
        )

    def _photo_channels(self) -> int:
        """What photos need: colours, and a fourth channel where any network sees it."""
        networks: list[Any] = [*self.job.trained.values(), *self.job.frozen.values()]
        return 4 if any(network.preprocess.channels == 4 for network in networks) else 3

    # ------------------------------------------------------------------ method

    def _build_method(self) -> Method[Any]:
        job, plan = self.job, self.plan
        frozen = {role: self._freeze(role, teacher) for role, teacher in job.frozen.items()}
        # Heads are drawn in the method's constructor, from torch's own generator.
        torch.manual_seed(job.run.seed)
        inputs = MethodInputs(
            student=job.student,
            frozen=frozen,
            trained={role: one for role, one in job.trained.items() if role != "student"},
            num_samples=plan.order.num_samples,
            labels=plan.labels,
            num_classes=len(job.student.classes or self.photos.classes or ()),
            batch_size=plan.recipe.batch_size,
            total_steps=plan.total_steps,
            steps_per_epoch=plan.order.steps_per_epoch,
            generator=torch.Generator().manual_seed(job.run.seed),
            start_embeddings=job.start_embeddings,
        )
        method = job.method(job.settings.method, inputs).to(self.device)
        if self.channels_last:
            # Only four-dimensional weights have the layout; queues and heads stay as they are.
            method.to(memory_format=torch.channels_last)
        return method

    def _freeze(self, role: str, teacher: Teacher) -> FrozenTeacher:
        dtype = self._dtype_of(teacher)
        frozen = FrozenTeacher(
            teacher, device=self.device, dtype=dtype, cache=self._open_cache(role, teacher, dtype)
        )
        frozen.check_sees_photos()
        return frozen

    def _dtype_of(self, teacher: Teacher) -> torch.dtype:
        precision = self.job.run.precision
        return choose_dtypes(precision, device=self.device, teacher=teacher).teacher

    def _open_cache(self, role: str, teacher: Teacher, dtype: torch.dtype) -> TeacherCache | None:
        job, views, run = self.job, self.job.settings.views, self.job.run
        if not views.replay:
            return None
        photos = self.plan.source.photos
        keys: dict[int, ViewKey] = {}
        folder = None
        if isinstance(run, RunSettings) and run.teacher_cache is not None:
            folder = Path(run.teacher_cache)
            # One folder holds the answers of one teacher, and refuses those of another.
            folder = folder if role == "teacher" else folder / role
            open_cache_folder(
                folder,
                CacheKey(
                    teacher=teacher.digest,
                    preprocess=teacher.preprocess.to_dict(),
                    precision=_short(dtype),
                    photos=photos.fingerprint,
                    num_photos=len(photos),
                    seed=run.seed,
                ),
            )
            # Blended photos are of one batch, so the answers hold for this division alone.
            batch = (self.plan.recipe.batch_size, distributed.world_size())
            keys = {
                number: ViewKey(
                    number=number,
                    crop=dataclasses.asdict(crop),
                    canvas=self.canvas,
                    blended=batch if job.views.mixup else None,
                )
                for number, crop in enumerate(job.views.crops)
            }
        cache = TeacherCache(
            num_photos=len(photos), num_views=views.replay, folder=folder, views=keys
        )
        self._caches[role] = cache
        return cache

    # ------------------------------------------------------------------ words

    def _announce(self) -> None:
        job, recipe = self.job, self.job.settings.recipe
        teachers = [
            f"{teacher.name} ({_short(self._dtype_of(teacher))})" for teacher in job.frozen.values()
        ]
        source = f" from {', '.join(teachers)}" if teachers else ""
        steps = self.plan.order.steps_per_epoch
        passes = "pass" if job.rounds else "epoch"
        of_steps = "" if job.rounds else f" of {count_of(steps, 'step')}"
        say(
            f"{job.name}: {job.run.student}{source}, "
            f"{len(self.photos)} photos at {self.image_size} px, "
            f"{count_of(recipe.epochs, passes)}{of_steps} of {recipe.batch_size} photos, "
            f"{recipe.optimizer} with peak learning rate {recipe.peak_lr:.3g}, "
            f"{_short(self.plan.dtype)} on {self.device}"
        )

    def _describe_inputs(self) -> dict[str, dict[str, Any]]:
        """What a resumed run must find again; see `RunFolder.check_inputs`."""
        photos = self.photos.description
        inputs: dict[str, dict[str, Any]] = {
            "photos": {
                "name": photos["name"],
                "num_photos": photos["num_photos"],
                "fingerprint": photos["fingerprint"],
                # The fingerprint knows names and sizes; this knows the contents of some.
                "sample": _digest(str(photos.get("sketch", "")).encode()),
            }
        }
        labels = self.plan.labels
        if labels is not None:
            inputs["labels"] = {
                "num_labels": int((labels >= 0).sum()),
                "fingerprint": _digest(labels.numpy().tobytes()),
            }
        for role, digest in self.job.starts.items():
            inputs[role] = {"name": _name_of(self.job.run, role), "weights": digest}
        for role, teacher in self.job.frozen.items():
            inputs[role] = {"name": teacher.name, "weights": teacher.digest}
        return inputs

    def _describe_provenance(self) -> dict[str, Any]:
        described = {
            role: {
                "name": teacher.name,
                "weights_sha256": teacher.digest,
                "licence": teacher.licence,
                "commercial_ok": teacher.commercial_ok,
            }
            for role, teacher in self.job.frozen.items()
        }
        return {
            "method": self.job.name,
            "config": dict(self._sections),
            "data": self.photos.description,
            "environment": environment(),
            **described,
            **self.job.provenance,
        }


def check_folder(
    out: Path, job_sections: Mapping[str, Any], *, resume: bool, may_be_longer: bool
) -> None:
    """Makes sure that a run may begin, or go on, in a folder: before anything is loaded.

    Raises:
        UsageError: If there is another run, or none to resume.
        ConfigError: If the run had other settings.
    """
    folder = RunFolder(out)
    if resume:
        folder.check_settings(job_sections, may_be_longer=may_be_longer)
    elif distributed.is_main():
        folder.check_free()


def _name_of(run: RunSettings | FinetuneSettings, role: str) -> str:
    return run.roles.get(role, run.student) if isinstance(run, RunSettings) else run.student


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _short(dtype: torch.dtype) -> Literal["fp32", "bf16"]:
    return "bf16" if dtype == torch.bfloat16 else "fp32"
