"""Regress: the student's features, through a small MLP, become the teacher's. The default.

Takes: a teacher; no labels.
Best for: the first try: any teacher, any number of photos, any batch.

After SimReg (2021, arXiv 2201.05131) and EUPE (2026, arXiv 2603.22387), with the patience and the
mixup of "a good teacher is patient and consistent" (2021, arXiv 2106.05237).

```text
t̂ = (f_T(x) − μ) / σ          per dimension; μ, σ over the first photos of the run, then fixed
L = (1 − cos(g(f_S(x)), t̂)) + β smoothL1(g(f_S(x)), t̂)                      β = 0.1
  + w · mean over places [ 0.9 (1 − cos) + 0.1 smoothL1 ]                    w = 0 by default
x: one view, blended within the batch (mixup), the same pixels for both networks
g: Linear(d, 2d) – norm – GELU – Linear(2d, D_T)
```
Needs no queue, labels or teacher heads, and works at any batch size. The head is thrown away.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.core.errors import ConfigError
from edgeseed.distill import distributed
from edgeseed.distill.data.views import ViewPlan, regression_crop
from edgeseed.distill.heads import mlp
from edgeseed.distill.losses import cosine_and_smooth_l1
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, StepResult
from edgeseed.distill.training.recipe import Recipe

PATCH_COSINE_WEIGHT = 0.9
PATCH_SMOOTH_L1_WEIGHT = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class RegressConfig:
    """Settings of `regress`.

    Attributes:
        smooth_l1_weight: β, beside a cosine term of weight one.
        patch_weight: w of the term on feature maps; 0 leaves it out. Needs a map from both
            networks.
        head_norm: In the MLP; `layer` for batches of a few photos.
        mixup: Whether photos of a batch are blended, for teacher and student alike.
        standardize_steps: Steps over which μ and σ are gathered before they are fixed (EUPE: 500),
            but at most a tenth of the run or one epoch, whichever is longer.
    """

    smooth_l1_weight: float = 0.1
    patch_weight: float = 0.0
    head_norm: Literal["batch", "layer"] = "batch"
    mixup: bool = True
    standardize_steps: int = 500

    def __post_init__(self) -> None:
        for name in ("smooth_l1_weight", "patch_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.standardize_steps < 1:
            raise ValueError(f"standardize_steps={self.standardize_steps} must be at least 1")


class Standardizer(nn.Module):
    """Gives each dimension mean 0 and variance 1 by statistics that are gathered, then fixed.

    The statistics are the exact mean and variance of all rows taken in so far, over all ranks
    (Chan, Golub, LeVeque 1979). Dimensions that hardly vary are not blown up: a ten-thousandth of
    the mean variance is added to each.

    Args:
        dim: D.
    """

    mean: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("squares", torch.zeros(dim))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def update(self, rows: Tensor) -> None:
        """Takes (N, D) rows of every rank into the statistics."""
        rows = distributed.gather(rows)
        batch_mean = rows.mean(0)
        total = self.count + len(rows)
        shift = batch_mean - self.mean
        self.squares += (rows - batch_mean).square().sum(0)
        self.squares += shift.square() * (self.count * len(rows) / total)
        self.mean += shift * (len(rows) / total)
        self.count.copy_(total)

    def forward(self, rows: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        variance = self.squares / self.count.clamp(min=1)
        return (rows - self.mean) / (variance + 1e-4 * variance.mean() + 1e-12).sqrt()


class Regress(Method[RegressConfig]):
    """Regression of standardised teacher features; see the module's docstring."""

    Config = RegressConfig
    RECIPE = Recipe(
        optimizer="adamw", lr=5e-4, weight_decay=0.05, decay_norm_and_bias=False, warmup_epochs=5,
        clip_norm=3.0, batch_size=256, epochs=100,
    )  # fmt: skip

    def __init__(self, config: RegressConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.teacher = inputs.teacher
        width, dim = inputs.student.embedding_dim, inputs.teacher.embedding_dim
        self.gathering_steps = min(
            config.standardize_steps, max(inputs.total_steps // 10, inputs.steps_per_epoch)
        )
        self.head = mlp(width, 2 * width, dim, activation="gelu", norm=config.head_norm)
        self.standardize = Standardizer(dim)
        if config.patch_weight > 0:
            map_dim = inputs.teacher.map_dim()
            self.patch_head = mlp(
                inputs.student.map_dim,
                2 * inputs.student.map_dim,
                map_dim,
                activation="gelu",
                norm="layer",
            )
            self.standardize_patches = Standardizer(map_dim)

    @classmethod
    def views(cls, config: RegressConfig, image_size: int) -> ViewPlan:
        """One mildly coloured view, blended within the batch."""
        return ViewPlan(crops=(regression_crop(image_size),), mixup=config.mixup)

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """Distance between the mapped student feature and the standardised teacher feature."""
        gathers = progress.step < self.gathering_steps
        if self.config.patch_weight > 0:
            return self._step_with_patches(batch, gathers=gathers)
        student = self.student(batch.views[0]).embedding
        return self._global(student, self.teacher(batch).embedding, gathers=gathers)

    def _global(self, student: Tensor, teacher: Tensor, *, gathers: bool) -> StepResult:
        if gathers:
            self.standardize.update(teacher)
        target = self.standardize(teacher)
        prediction = self.head(student)
        loss = cosine_and_smooth_l1(
            prediction, target, cosine_weight=1.0, smooth_l1_weight=self.config.smooth_l1_weight
        )
        similarity = F.cosine_similarity(prediction.detach().float(), target, dim=1).mean()
        return StepResult(loss=loss, floor=0.0, logs={"cosine": similarity})

    def _step_with_patches(self, batch: Batch, *, gathers: bool) -> StepResult:
        student, student_map = self.student.embed_with_map(batch.views[0])
        teacher, teacher_map = self.teacher.answer(batch.views[0])
        if teacher_map is None:
            raise ConfigError(f"patch_weight: {self.teacher.name} gives no feature map; use 0")
        result = self._global(student, teacher, gathers=gathers)
        patches = self._patch_loss(student_map, teacher_map, gathers=gathers)
        return StepResult(
            loss=result.loss + self.config.patch_weight * patches,
            floor=0.0,
            logs={**result.logs, "patch_loss": patches.detach()},
        )

    def _patch_loss(self, student: Tensor, teacher: Tensor, *, gathers: bool) -> Tensor:
        # A teacher of 16 x 16 patches and a student of 7 x 7 features meet on the student's grid.
        teacher = F.interpolate(teacher, student.shape[2:], mode="bilinear", antialias=True)
        rows = teacher.flatten(2).transpose(1, 2).flatten(0, 1)
        if gathers:
            self.standardize_patches.update(rows)
        return cosine_and_smooth_l1(
            self.patch_head(student.flatten(2).transpose(1, 2).flatten(0, 1)),
            self.standardize_patches(rows),
            cosine_weight=PATCH_COSINE_WEIGHT,
            smooth_l1_weight=PATCH_SMOOTH_L1_WEIGHT,
        )


METHOD = Regress
