"""RoB: learn which prototypes a frozen DINO or EsViT teacher, with its head, sees in crops.

Takes: a teacher with its DINO or EsViT head; no labels.
Best for: full checkpoints of DINO, iBOT and EsViT, and what esvit made.

A Simple Recipe for Competitive Low-compute Self supervised Vision Models (RoB, 2023), arXiv
2301.09451: a self-supervised loss whose moving-average branch is a frozen teacher. Here it is
DINO's, and EsViT's where the teacher brought a head for regions.

```text
q: the two large crops, seen by the teacher;  v: all crops, seen by the student
p^q      = softmax(t^q / τ_T)         t: the teacher's scores, of its own head with K prototypes
L_V(q,v) = − Σ_k p^q_k log softmax(s^v / τ)_k             s: the student's, of a new head like it
L_R(q)   = − mean_r Σ_k p^q_rk log softmax(s^q_r / τ)_k   r: places of the student's map
L        = (1 − w) mean over (q, v) of L_V + w mean over q of L_R
(q, v)   : each large crop with itself, each small crop with both          (`pairs=own`)
```
As in the authors' code (VISSL, dino_distillation_loss): both networks look at the same large crop,
and there is no centre, which a target that does not move has no need of. `pairs=swapped` and
`centering=true` make it EsViT's loss with the average frozen.

Unlike it: regions, which RoB has not. EsViT finds partners by the cosine of features, but features
of two unlike networks have no cosine; so regions learn from the same place of the same crop, where
the teacher's map is brought to the student's grid. Crops are DINO's, which have half of VISSL's
change of saturation. The rate is theirs for 1024 photos, scaled to 256.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseed.core.errors import ConfigError
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
    multi_crop_plan,
    region_cross_entropies,
    region_entropies,
    score_regions,
    score_views,
    to_regions,
    view_cross_entropies,
)
from edgeseed.distill.networks.frozen import FrozenTeacher
from edgeseed.distill.training.recipe import Recipe

Pairs = Literal["own", "swapped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RobConfig(DinoConfig):
    """Defaults are VISSL's (dino_distill_deit_s16_to_deit_s16). See also `DinoConfig`.

    Attributes:
        region_weight: w; none takes 0.5 where the teacher has a head for regions, else 0.
        pairs: Whether a large crop learns from the teacher's view of itself, or of the other one.
        centering: Whether the running mean of the teacher's scores is taken off, as in DINO.
        tau_teacher: τ_T, the temperature of the teacher's scores; less sharpens them.
    """

    region_weight: float | None = None
    pairs: Pairs = "own"
    centering: bool = False
    tau_teacher: float = 0.07

    def __post_init__(self) -> None:
        DinoConfig.__post_init__(self)
        if self.tau_teacher <= 0:
            raise ValueError(f"tau_teacher={self.tau_teacher} must be above 0")
        if self.region_weight is not None and not 0 <= self.region_weight <= 1:
            raise ValueError(f"region_weight={self.region_weight} must be between 0 and 1")
        if self.region_weight and self.pairs == "swapped":
            raise ValueError(
                f"region_weight={self.region_weight} compares places of the same crop, "
                "which pairs=swapped leaves out; use region_weight=0 or pairs=own"
            )


class Rob(Method[RobConfig]):
    """Distillation through a frozen teacher's prototypes; see the module's docstring."""

    Config = RobConfig
    REQUIREMENTS = Requirements()
    RECIPE = Recipe(
        optimizer="adamw", lr=2e-3, lr_batch_size=1024, weight_decay=0.04, final_weight_decay=0.4,
        decay_norm_and_bias=False, warmup_epochs=10, final_lr=1e-5, batch_size=256, epochs=300,
    )  # fmt: skip

    def __init__(self, config: RobConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.teacher = inputs.teacher
        _check_head(inputs.teacher, "dino")
        self.region_weight = _choose_region_weight(config, inputs.teacher)
        self.has_regions = self.region_weight > 0
        check_crops(inputs.student, config, needs_map=self.has_regions)
        size = inputs.teacher.head_dim("dino")
        self.dino = DinoHead(inputs.student.embedding_dim, size, config)
        self.center = Center(size, momentum=config.center_momentum)
        if self.has_regions:
            size = _num_region_prototypes(inputs.teacher)
            self.region = DinoHead(inputs.student.map_dim, size, config)
            self.region_center = Center(size, momentum=config.center_momentum)
        self._waiting: tuple[Tensor, Tensor | None] | None = None

    @classmethod
    def views(cls, config: RobConfig, image_size: int) -> ViewPlan:
        """DINO's multi-crop."""
        return multi_crop_plan(config, image_size)

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """Cross-entropy between the teacher's and the student's prototypes."""
        del progress
        student = [
            embed_views(self.student, views, with_regions=self.has_regions)
            for views in by_size(batch.views)
        ]
        teacher, maps = self._look(batch)
        scores = self.teacher.project(teacher, "dino").unflatten(0, (NUM_GLOBAL, -1))
        target = self.center(scores, tau=self.config.tau_teacher)
        student_scores = score_views(self.dino, student, num_views=len(batch.views))
        losses = view_cross_entropies(student_scores, target, tau=self.config.tau_student)
        pairs = view_pairs(*losses.shape, kind=self.config.pairs).to(losses.device)
        loss, floor = losses[pairs].mean(), entropy(target.flatten(0, 1))
        logs = {"view_loss": loss.detach(), "agreement": _agreement(student_scores, target)}
        self._waiting = (scores, None)
        if maps is not None:
            region_loss, region_floor, region_scores = self._regions(student[0], maps)
            self._waiting = (scores, region_scores)
            loss = (1 - self.region_weight) * loss + self.region_weight * region_loss
            floor = (1 - self.region_weight) * floor + self.region_weight * region_floor
            logs["region_loss"] = region_loss.detach()
        return StepResult(loss=loss, floor=floor, logs=logs)

    def _look(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """The teacher on the large crops: (2 B, D), and (2 B, D', h, w) for regions."""
        if not self.has_regions:
            views = [self.teacher(batch, view).embedding for view in range(NUM_GLOBAL)]
            return torch.cat(views), None
        output = self.teacher.answer(torch.cat(batch.views[:NUM_GLOBAL]))
        return output.embedding, output.features

    def _regions(self, student: CropOutputs, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss and floor of the large crops' places, and the teacher's scores of them.

        Args:
            student: Its features of the large crops.
            maps: (2 B, D', h, w) the teacher's.
        """
        assert student.regions is not None
        places = student.regions.shape[2]
        maps = F.interpolate(maps, student.map_size, mode="bilinear", antialias=True)
        rows = to_regions(maps, num_views=NUM_GLOBAL)
        scores = self.teacher.project(rows.flatten(0, 2), "region").unflatten(0, rows.shape[:3])
        target = self.region_center(scores, tau=self.config.tau_teacher)
        (student_scores,) = score_regions(self.region, [student.regions])
        same_place = torch.arange(places, device=rows.device)[:, None]
        match = same_place.expand(*student.regions.shape[:3], NUM_GLOBAL)
        losses = region_cross_entropies(student_scores, target, match, tau=self.config.tau_student)
        return losses.diagonal().mean(), region_entropies(target, match).diagonal().mean(), scores

    def after_step(self, progress: Progress) -> None:
        """Moves the centres, if there are to be any."""
        del progress
        assert self._waiting is not None
        scores, region_scores = self._waiting
        if self.config.centering:
            self.center.update(scores)
            if region_scores is not None:
                self.region_center.update(region_scores)
        self._waiting = None


def view_pairs(num_teacher: int, num_student: int, *, kind: Pairs) -> Tensor:
    """(Q, V): which of the teacher's and the student's views are compared."""
    same = torch.eye(num_teacher, num_student, dtype=torch.bool)
    if kind == "swapped":
        return ~same
    is_small = torch.arange(num_student) >= num_teacher
    return same | is_small


def _agreement(student: Tensor, target: Tensor) -> Tensor:
    """Share of large crops in which both see the same prototype first."""
    seen = student.detach()[: len(target)].argmax(-1)
    return (seen == target.argmax(-1)).float().mean()


def _check_head(teacher: FrozenTeacher, kind: str) -> None:
    if kind not in teacher.heads:
        found = ", ".join(teacher.heads) or "none"
        raise ConfigError(
            f"rob needs a teacher with its {kind} head, and {teacher.name} brought: {found}; use "
            "the full checkpoint of DINO, iBOT or EsViT (NAME=PATH), a student.safetensors of "
            "`pretrain --method esvit`, or a method that needs no head: regress, queue-kl"
        )


def _choose_region_weight(config: RobConfig, teacher: FrozenTeacher) -> float:
    if config.region_weight is None:
        return 0.5 if "region" in teacher.heads and config.pairs == "own" else 0.0
    if config.region_weight > 0:
        _check_head(teacher, "region")
    return config.region_weight


def _num_region_prototypes(teacher: FrozenTeacher) -> int:
    features = torch.zeros(1, teacher.map_dim(), device=teacher.device)
    return teacher.project(features, "region").shape[1]


METHOD = Rob
