"""Queue-KL: SEED as it is done today, from the trunk of any teacher, on blended photos.

Takes: a teacher; no labels.
Best for: ten thousand photos or more; search, where it matters most which photos are alike.

SEED (2021, arXiv 2101.04731) and CompRess (2020, arXiv 2010.14713), in the form that
"a good teacher is patient and consistent" (2021, arXiv 2106.05237) and recent tools have made
usual: one temperature for both sides, mixup, AdamW, no teacher head.

```text
z_S = norm(W f_S(x))    z_T = norm(f_T(x))    x: one view, blended within the batch
l_S = [ z_S·b_1 , … , z_S·b_B , z_S·d_1 , … , z_S·d_K ] / τ_S
l_T = [ z_T·b_1 , … , z_T·b_B , z_T·d_1 , … , z_T·d_K ] / τ_T            τ_S = τ_T = 0.07
L   = mean_batch KL( softmax(l_T) ∥ softmax(l_S) )
  + w · mean over photos and places of the same KL within one photo       w = 0 by default
```
b: the teacher's embeddings of this batch, of all devices; d: the queue of past ones. The photo's
own embedding is there once, among b. The term within a photo compares each place of the feature map
with all its places, the student's map being enlarged to the teacher's grid.

W and its kin are linear, so the neighbourhoods are learnt by the trunk itself, and are thrown away.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.core.errors import ConfigError
from edgeseed.distill import distributed
from edgeseed.distill.data.views import ViewPlan, regression_crop
from edgeseed.distill.losses import entropy, in_full_precision, kl_divergence
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, StepResult
from edgeseed.distill.queues import EmbeddingQueue, fit_queue_size
from edgeseed.distill.training.recipe import Recipe

USUAL_QUEUE_SIZE = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueKlConfig:
    """Settings of `queue-kl`.

    Attributes:
        tau_student: τ_S, the temperature of the student's similarities.
        tau_teacher: τ_T; less is closer to one-hot targets.
        queue_size: K; none takes 16 384, or what a smaller set of photos can fill.
        patch_weight: w of the term within photos; 0 leaves it out. Needs a feature map from both
            networks.
        mixup: Whether photos of a batch are blended, for teacher and student alike.
    """

    tau_student: float = 0.07
    tau_teacher: float = 0.07
    queue_size: int | None = None
    patch_weight: float = 0.0
    mixup: bool = True

    def __post_init__(self) -> None:
        for name in ("tau_student", "tau_teacher"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if self.patch_weight < 0:
            raise ValueError(f"patch_weight={self.patch_weight} must not be negative")


class QueueKl(Method[QueueKlConfig]):
    """Similarity to the batch and a queue of teacher embeddings; see the module's docstring."""

    Config = QueueKlConfig
    RECIPE = Recipe(
        optimizer="adamw", lr=5e-4, weight_decay=0.05, decay_norm_and_bias=False, warmup_epochs=5,
        clip_norm=3.0, batch_size=256, epochs=100,
    )  # fmt: skip

    def __init__(self, config: QueueKlConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.teacher = inputs.teacher
        dim = inputs.teacher.embedding_dim
        self.head = _linear(inputs.student.embedding_dim, dim)
        if config.patch_weight > 0:
            self.patch_head = _linear(inputs.student.map_dim, inputs.teacher.map_dim())
        size = fit_queue_size(
            config.queue_size,
            usual=USUAL_QUEUE_SIZE,
            batch_size=inputs.batch_size,
            num_samples=inputs.num_samples,
        )
        self.queue = EmbeddingQueue(
            size=size, dim=dim, batch_size=inputs.batch_size, generator=inputs.generator
        )
        self._waiting: Tensor | None = None

    @classmethod
    def views(cls, config: QueueKlConfig, image_size: int) -> ViewPlan:
        """One mildly coloured view, blended within the batch."""
        return ViewPlan(crops=(regression_crop(image_size),), mixup=config.mixup)

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """KL divergence between the teacher's and the student's similarities."""
        del progress
        if self.config.patch_weight > 0:
            return self._step_with_patches(batch)
        return self._global(self.student(batch.views[0]).embedding, self.teacher(batch).embedding)

    def _global(self, student: Tensor, teacher: Tensor) -> StepResult:
        self._waiting = teacher
        here = F.normalize(distributed.gather(teacher), dim=1)
        bank = torch.cat([here, self.queue.entries])
        target = _similarity(teacher, bank, temperature=self.config.tau_teacher).softmax(1)
        logits = _similarity(self.head(student), bank, temperature=self.config.tau_student)
        agreement = (logits.detach().argmax(1) == target.argmax(1)).float().mean()
        return StepResult(
            loss=kl_divergence(logits, target),
            floor=0.0,
            logs={"teacher_entropy": entropy(target), "agreement": agreement},
        )

    def after_step(self, progress: Progress) -> None:
        """Enqueues only now: while this batch was scored, its embeddings were the first columns."""
        del progress
        assert self._waiting is not None
        self.queue.enqueue(self._waiting)
        self._waiting = None

    def _step_with_patches(self, batch: Batch) -> StepResult:
        student, student_map = self.student.embed_with_map(batch.views[0])
        teacher, teacher_map = self.teacher.answer(batch.views[0])
        if teacher_map is None:
            raise ConfigError(f"patch_weight: {self.teacher.name} gives no feature map; use 0")
        result = self._global(student, teacher)
        patches = self._patch_loss(student_map, teacher_map)
        return StepResult(
            loss=result.loss + self.config.patch_weight * patches,
            floor=0.0,
            logs={**result.logs, "patch_loss": patches.detach()},
        )

    def _patch_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        mapped = self.patch_head(student.movedim(1, 3)).movedim(3, 1)
        mapped = F.interpolate(mapped, teacher.shape[2:], mode="bilinear")
        return kl_divergence(
            _similarity_within(mapped, temperature=self.config.tau_student),
            _similarity_within(teacher, temperature=self.config.tau_teacher).softmax(1),
        )


@in_full_precision
def _similarity(rows: Tensor, bank: Tensor, *, temperature: float) -> Tensor:
    """(B, D) rows of any length against (K, D) unit rows: (B, K)."""
    return F.normalize(rows, dim=1) @ bank.T / temperature


@in_full_precision
def _similarity_within(maps: Tensor, *, temperature: float) -> Tensor:
    """Of each of the P places of (B, D, h, w) maps to all places of its photo: (B P, P)."""
    rows = F.normalize(maps.flatten(2).transpose(1, 2), dim=2)
    return (rows @ rows.transpose(1, 2) / temperature).flatten(0, 1)


def _linear(width: int, dim: int) -> nn.Linear:
    layer = nn.Linear(width, dim)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


METHOD = QueueKl
