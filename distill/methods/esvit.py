"""EsViT: a network and its moving average agree on crops and regions. A teacher from photos alone.

Takes: photos alone.
Best for: making a teacher from your photos: Swin and CNNs; its heads then serve rob.

Efficient Self-supervised Vision Transformers for Representation Learning (2021), arXiv 2106.09785.
With `region_weight=0` it is DINO (2021, arXiv 2104.14294).

```text
q: the two large crops, seen by the average;  v: all crops, seen by the student;  v ≠ q
p^q      = softmax((t^q − c) / τ_T)           t, s: scores of a head with K prototypes;
L_V(q,v) = − Σ_k p^q_k log softmax(s^v / τ)_k                            c: running mean of t
match(r) = argmax_t cos( f^v_r , f^q_t )      f: features of the trunk, region by region
L_R(q,v) = − mean_r Σ_k p^q_match(r),k log softmax(s^v_r / τ)_k      a head and a c of its own
L        = mean over (q, v) of [ (1 − w) L_V + w L_R ]                              w = 1/2
after each step: average ← m average + (1 − m) student       m: a cosine from 0.996 to 1
```
What is kept is the average, as in the paper; its heads are in `heads.safetensors`, for `rob`. Any
network with a feature map will do: transformers in stages (Swin), ViTs, convolutional networks.
Transformers see the small crops too: their position embeddings and windows adapt.

Unlike the authors' code: no stochastic depth (students have none); the gradient is clipped as a
whole, not each weight by itself; scores are float32; the number of prototypes shrinks to a small
set, and the warm-up of τ_T to three tenths of a short run. The recipe's rate is theirs for 256
photos; their batch is 512, and they advise a higher momentum for small batches (DINO: 0.9995 at
256). A run of a few thousand steps wants a lower one, such as 0.99, or the average lags behind.

The temperature and the learnt gain are for long runs of transformers. For a convolutional network
take what DINO has for its ResNet-50:

```text
--lr 0.03 --set recipe.optimizer=sgd --set recipe.weight_decay=1e-4
--set recipe.final_weight_decay=1e-4 --set tau_teacher=0.04 --set learns_gain=false
--set global_scale=0.14,1 --set local_scale=0.05,0.14
```
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgeseed.core.console import note
from edgeseed.distill import distributed
from edgeseed.distill.data.views import ViewPlan
from edgeseed.distill.losses import entropy
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, Requirements, StepResult
from edgeseed.distill.methods._dino import (
    NUM_GLOBAL,
    Center,
    CropOutputs,
    DinoConfig,
    DinoHead,
    by_size,
    check_crops,
    embed_views,
    match_regions,
    multi_crop_plan,
    prototypes_used,
    region_cross_entropies,
    region_entropies,
    score_regions,
    score_views,
    view_cross_entropies,
)
from edgeseed.distill.networks.frozen import Student
from edgeseed.distill.training import schedules
from edgeseed.distill.training.recipe import Recipe

USUAL_PROTOTYPES = 65_536
_WARMUP_SHARE = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class EsvitConfig(DinoConfig):
    """Defaults are the paper's for Swin (README and main_esvit.py). See also `DinoConfig`.

    Attributes:
        region_weight: w; 0 leaves the regions out, which is DINO.
        num_prototypes: K; none takes 65 536, or a power of two that a smaller set has photos for.
        tau_teacher: τ_T after its warm-up; above 0.07 most runs are unstable.
        warmup_tau_teacher: τ_T in the first epoch.
        warmup_tau_epochs: Length of the warm-up.
        ema_momentum: m in the first step.
        freeze_epochs: Epochs in which the last layer of the heads stays as it is.
    """

    region_weight: float = 0.5
    num_prototypes: int | None = None
    tau_teacher: float = 0.07
    warmup_tau_teacher: float = 0.04
    warmup_tau_epochs: int = 30
    ema_momentum: float = 0.996
    freeze_epochs: float = 1.0

    def __post_init__(self) -> None:
        DinoConfig.__post_init__(self)
        for name in ("tau_teacher", "warmup_tau_teacher"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("region_weight", "ema_momentum"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be between 0 and 1")
        for name in ("warmup_tau_epochs", "freeze_epochs"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.num_prototypes is not None and self.num_prototypes < 2:
            raise ValueError(f"num_prototypes={self.num_prototypes} must be at least 2")


class Esvit(Method[EsvitConfig]):
    """Self-distillation over crops and regions; see the module's docstring."""

    Config = EsvitConfig
    REQUIREMENTS = Requirements(frozen=())
    RECIPE = Recipe(
        optimizer="adamw", lr=5e-4, weight_decay=0.04, final_weight_decay=0.4,
        decay_norm_and_bias=False, warmup_epochs=10, final_lr=1e-6, clip_norm=3.0,
        batch_size=256, epochs=300,
    )  # fmt: skip

    def __init__(self, config: EsvitConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.has_regions = config.region_weight > 0
        check_crops(inputs.student, config, needs_map=self.has_regions)
        size = _fit_prototypes(config.num_prototypes, inputs.num_samples)
        self.dino = DinoHead(inputs.student.embedding_dim, size, config)
        self.center = Center(size, momentum=config.center_momentum)
        if self.has_regions:
            self.region = DinoHead(inputs.student.map_dim, size, config)
            self.region_center = Center(size, momentum=config.center_momentum)
        distributed.synchronize_batch_norm(self)
        self.average = copy.deepcopy(self.student).requires_grad_(False)
        self.average_dino = copy.deepcopy(self.dino).requires_grad_(False)
        if self.has_regions:
            self.average_region = copy.deepcopy(self.region).requires_grad_(False)
        self._waiting: tuple[Tensor, Tensor | None] | None = None

    @classmethod
    def views(cls, config: EsvitConfig, image_size: int) -> ViewPlan:
        """DINO's multi-crop."""
        return multi_crop_plan(config, image_size)

    # ------------------------------------------------------------------ step

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """Cross-entropy between the average's targets and the student's scores."""
        tau = teacher_temperature(self.config, progress)
        student = [
            embed_views(self.student, views, with_regions=self.has_regions)
            for views in by_size(batch.views)
        ]
        with torch.no_grad():
            teacher = embed_views(
                self.average, batch.views[:NUM_GLOBAL], with_regions=self.has_regions
            )
            scores = score_views(self.average_dino, [teacher], num_views=NUM_GLOBAL)
            target = self.center(scores, tau=tau)
        self._waiting = (scores, None)
        student_scores = score_views(self.dino, student, num_views=len(batch.views))
        losses = view_cross_entropies(student_scores, target, tau=self.config.tau_student)
        pairs = other_views(*losses.shape).to(losses.device)
        loss, floor = losses[pairs].mean(), entropy(target.flatten(0, 1))
        logs = {"view_loss": loss.detach(), "prototypes_used": prototypes_used(target)}
        if self.has_regions:
            weight = self.config.region_weight
            region_losses, region_floors = self._regions(student, teacher, tau)
            region_loss = region_losses[pairs].mean()
            loss = (1 - weight) * loss + weight * region_loss
            floor = (1 - weight) * floor + weight * region_floors[pairs].mean()
            logs["region_loss"] = region_loss.detach()
        return StepResult(loss=loss, floor=floor, logs=logs)

    def _regions(
        self, student: list[CropOutputs], teacher: CropOutputs, tau: float
    ) -> tuple[Tensor, Tensor]:
        """Losses of the regions and their floors, both (Q, V)."""
        features = [one.regions for one in student if one.regions is not None]
        assert teacher.regions is not None
        assert self._waiting is not None
        with torch.no_grad():
            (scores,) = score_regions(self.average_region, [teacher.regions])
            target = self.region_center(scores, tau=tau)
            matches = [match_regions(one, teacher.regions) for one in features]
        self._waiting = (self._waiting[0], scores)
        losses = [
            region_cross_entropies(one, target, match, tau=self.config.tau_student)
            for one, match in zip(score_regions(self.region, features), matches, strict=True)
        ]
        floors = [region_entropies(target, match) for match in matches]
        return torch.cat(losses, dim=1), torch.cat(floors, dim=1)

    # ------------------------------------------------------------------ hooks

    def after_backward(self, progress: Progress) -> None:
        """Prototypes that move before the features mean anything end up alike."""
        if progress.epoch < self.config.freeze_epochs:
            for head in self._heads():
                for parameter in head.last_layer.parameters():
                    # None, not zero: the optimizer passes over it, and its weight decay as well.
                    parameter.grad = None

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Moves the average and the centres."""
        momentum = schedules.cosine(
            progress.step / progress.total_steps, start=self.config.ema_momentum, end=1.0
        )
        for module, average in self._averaged():
            # Buffers stay apart, as in the authors' code: the average's BatchNorm sees by itself.
            pairs = zip(average.parameters(), module.parameters(), strict=True)
            for slow, fast in pairs:
                slow.lerp_(fast, 1 - momentum)
        assert self._waiting is not None
        scores, region_scores = self._waiting
        self.center.update(scores)
        if region_scores is not None:
            self.region_center.update(region_scores)
        self._waiting = None

    def _heads(self) -> Iterator[DinoHead]:
        yield self.dino
        if self.has_regions:
            yield self.region

    def _averaged(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        yield self.student, self.average
        yield self.dino, self.average_dino
        if self.has_regions:
            yield self.region, self.average_region

    # ------------------------------------------------------------------ what is kept

    def networks(self) -> dict[str, Student]:
        """The average: better than the student all along, and what the paper evaluates."""
        return {"student": self.average}

    def heads(self) -> dict[str, nn.Module]:
        """The average's, under the names that a teacher's heads have."""
        heads: dict[str, nn.Module] = {"dino": self.average_dino}
        if self.has_regions:
            heads["region"] = self.average_region
        return heads


def other_views(num_teacher: int, num_student: int) -> Tensor:
    """(Q, V): which pairs count; a view does not learn from itself."""
    return ~torch.eye(num_teacher, num_student, dtype=torch.bool)


def teacher_temperature(config: EsvitConfig, progress: Progress) -> float:
    """τ_T, epoch by epoch: the authors' `linspace` over the warm-up, then constant."""
    epochs = progress.total_steps / progress.steps_per_epoch
    warmup = min(config.warmup_tau_epochs, int(_WARMUP_SHARE * epochs))
    fraction = int(progress.epoch) / (warmup - 1) if warmup > 1 else 1.0
    return schedules.linear(fraction, start=config.warmup_tau_teacher, end=config.tau_teacher)


def _fit_prototypes(wanted: int | None, num_samples: int) -> int:
    if wanted is not None:
        return wanted
    size = min(USUAL_PROTOTYPES, 1 << (max(num_samples, 2).bit_length() - 1))
    if size < USUAL_PROTOTYPES:
        note(f"{size} prototypes instead of {USUAL_PROTOTYPES}: there are {num_samples} photos")
    return size


METHOD = Esvit
