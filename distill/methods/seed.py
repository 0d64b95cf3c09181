"""SEED: the student learns which of many past photos the teacher finds similar to this one.

Takes: a teacher; no labels.
Best for: the paper's recipe: MoCo, SimCLR and SwAV teachers with their projection head.

SEED: Self-supervised Distillation for Visual Representation (2021), arXiv 2101.04731.

```text
z_S = norm(h_S(f_S(x)))    z_T = norm(h_T(f_T(x)))    one view x for both, the teacher frozen
l_S = [ z_S·z_T , z_S·d_1 , … , z_S·d_K ] / τ_S       d: queue of past teacher embeddings
l_T = [ z_T·z_T , z_T·d_1 , … , z_T·d_K ] / τ_T
L   = − mean_batch Σ_j softmax(l_T)_j log softmax(l_S)_j
```
The queue takes z_T only after the step, so that the photo's own embedding is there once, as column
0. As τ_T → 0 the target becomes one-hot on column 0, and the loss InfoNCE.

With `small_patches=6` (the paper's for SwAV teachers, with 400 to 800 epochs) both networks also
see six small crops of 5 to 14% of the photo, at 96 of 224 pixels:

```text
L = L(full crop, queue) + mean over small crops of L(small crop, small queue)
```
The small queue holds the first small crop of past photos. A teacher that takes one size only gets
the small crops enlarged; it says so.

Unlike the authors' code: similarities are float32, and τ_T is the paper's 0.01 where the code has
1e-4 (there, in half precision, the target is one-hot in practice); the schedule moves every step,
not every epoch; dropout in the student's trunk is off.
"""

import dataclasses
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from edgeseed.core.console import note
from edgeseed.core.errors import ConfigError
from edgeseed.distill.data.views import Crop, ViewPlan, moco_crop
from edgeseed.distill.heads import mlp
from edgeseed.distill.losses import entropy, queue_similarity, soft_cross_entropy
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, StepResult
from edgeseed.distill.networks.frozen import FrozenTeacher
from edgeseed.distill.queues import EmbeddingQueue, fit_queue_size
from edgeseed.distill.training.recipe import Recipe

USUAL_QUEUE_SIZE = 65_536
SMALL_SHARE = 96 / 224
SMALL_SCALE = (0.05, 0.14)


@dataclass(frozen=True, kw_only=True, slots=True)
class SeedConfig:
    """Defaults are the paper's (section 4.1).

    Attributes:
        tau_student: Temperature of the student's similarities.
        tau_teacher: Temperature of the teacher's; less is closer to one-hot targets.
        queue_size: K; none takes 65 536, or what a smaller set of photos can fill.
        teacher_features: What z_T is: the projection `head` the teacher was pre-trained with, as in
            the paper, or its `trunk`'s embedding; `auto` takes the head where the weights brought
            one.
        small_patches: Small crops that are compared as well, with a queue of their own.
    """

    tau_student: float = 0.2
    tau_teacher: float = 0.01
    queue_size: int | None = None
    teacher_features: Literal["auto", "head", "trunk"] = "auto"
    small_patches: int = 0

    def __post_init__(self) -> None:
        if self.small_patches < 0:
            raise ValueError(f"small_patches={self.small_patches} must not be negative")
        for name in ("tau_student", "tau_teacher"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")


class Seed(Method[SeedConfig]):
    """Similarity to a queue of teacher embeddings; see the module's docstring."""

    Config = SeedConfig
    RECIPE = Recipe(
        optimizer="sgd", lr=0.03, weight_decay=1e-4, warmup_epochs=5, batch_size=256, epochs=200
    )

    def __init__(self, config: SeedConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.teacher = inputs.teacher
        self.uses_teacher_head = _uses_teacher_head(config, inputs.teacher)
        dim = (
            inputs.teacher.head_dim("projection")
            if self.uses_teacher_head
            else inputs.teacher.embedding_dim
        )
        self.head = mlp(inputs.student.embedding_dim, inputs.student.embedding_dim, dim)
        size = fit_queue_size(
            config.queue_size,
            usual=USUAL_QUEUE_SIZE,
            batch_size=inputs.batch_size,
            num_samples=inputs.num_samples,
        )
        self.queue = self._new_queue(size, dim, inputs)
        self._waiting: Tensor | None = None
        if config.small_patches > 0:
            self.small_queue = self._new_queue(size, dim, inputs)
            self._waiting_small: Tensor | None = None
            self._enlarges = not inputs.teacher.takes(small_size(inputs.student.image_size))
            if self._enlarges:
                note(f"{inputs.teacher.name} takes one size only: small crops are enlarged for it")

    @staticmethod
    def _new_queue(size: int, dim: int, inputs: MethodInputs) -> EmbeddingQueue:
        return EmbeddingQueue(
            size=size, dim=dim, batch_size=inputs.batch_size, generator=inputs.generator
        )

    @classmethod
    def views(cls, config: SeedConfig, image_size: int) -> ViewPlan:
        """One view of MoCo v2's kind, and small crops if there are any."""
        if config.small_patches == 0:
            return ViewPlan(crops=(moco_crop(image_size),))
        full = moco_crop(image_size, min_scale=SMALL_SCALE[1])
        return ViewPlan(crops=(full, *[_small_crop(image_size)] * config.small_patches))

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """Cross-entropy between the teacher's and the student's similarities to the queue."""
        del progress
        teacher = self._project(self.teacher(batch).embedding)
        self._waiting = teacher
        result = self._compare(batch.views[0], teacher, self.queue)
        if self.config.small_patches == 0:
            return result
        # P small crops of B photos, all first crops first: (P B, 3, h, h)
        patches = torch.cat(batch.views[1:])
        teacher = self._project(self.teacher.answer(patches, resize=self._enlarges).embedding)
        self._waiting_small = teacher[: len(batch.indices)]
        small = self._compare(patches, teacher, self.small_queue)
        assert result.floor is not None
        assert small.floor is not None
        return StepResult(
            loss=result.loss + small.loss,
            floor=result.floor + small.floor,
            logs={**result.logs, "small_loss": small.loss.detach()},
        )

    def _project(self, embedding: Tensor) -> Tensor:
        if not self.uses_teacher_head:
            return embedding
        return self.teacher.project(embedding, "projection")

    def _compare(self, view: Tensor, teacher: Tensor, queue: EmbeddingQueue) -> StepResult:
        student_logits, teacher_logits = queue_similarity(
            self.head(self.student(view).embedding),
            teacher,
            queue.entries,
            tau_student=self.config.tau_student,
            tau_teacher=self.config.tau_teacher,
        )
        target = teacher_logits.softmax(1)
        return StepResult(
            loss=soft_cross_entropy(student_logits, target),
            floor=entropy(target),
            logs={
                "own_share": target[:, 0].mean(),
                "agreement": _agreement(student_logits, target),
            },
        )

    def after_step(self, progress: Progress) -> None:
        """Enqueues only now: while this batch was scored, its embeddings were column 0."""
        del progress
        assert self._waiting is not None
        self.queue.enqueue(self._waiting)
        self._waiting = None
        if self.config.small_patches > 0:
            assert self._waiting_small is not None
            self.small_queue.enqueue(self._waiting_small)
            self._waiting_small = None


def small_size(image_size: int) -> int:
    """Side of a small crop, in pixels: 96 of 224, in multiples of 8."""
    return max(8, 8 * round(image_size * SMALL_SHARE / 8))


def _small_crop(image_size: int) -> Crop:
    return dataclasses.replace(moco_crop(small_size(image_size)), scale=SMALL_SCALE)


def _agreement(student_logits: Tensor, target: Tensor) -> Tensor:
    """Share of photos whose most similar entry is the same for both."""
    return (student_logits.detach().argmax(1) == target.argmax(1)).float().mean()


def _uses_teacher_head(config: SeedConfig, teacher: FrozenTeacher) -> bool:
    has_head = "projection" in teacher.heads
    if config.teacher_features == "head" and not has_head:
        raise ConfigError(
            f"teacher_features=head: the weights of {teacher.name} brought no projection head; "
            "use teacher_features=trunk, or a checkpoint of MoCo, SwAV or SimCLR with its head"
        )
    return has_head and config.teacher_features != "trunk"


METHOD = Seed
