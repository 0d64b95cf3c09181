"""MoCo: a view finds the other view of its photo in a queue of keys; SEED's own baseline.

Takes: photos alone.
Best for: the baseline: what a student learns by itself; also at small batches.

Improved Baselines with Momentum Contrastive Learning (MoCo v2, 2020), arXiv 2003.04297, after
Momentum Contrast (2019), arXiv 1911.05722.

```text
q = norm(h(f(x)))    k = norm(h'(f'(x')))    two views; f', h' follow f, h: θ' ← m θ' + (1 − m) θ
L = − mean_i log [ exp(q_i·k_i / τ) / (exp(q_i·k_i / τ) + Σ_j exp(q_i·d_j / τ)) ]
```
d is the queue of past keys; k enters it only after the step. The trunk f is kept.

Unlike the authors' code: no shuffling of photos between GPUs. It is there to keep BatchNorm from
telling which query and key were computed together. On one device there is nothing to shuffle. On
several, or to be sure on one, use `key_norm=moving`: keys are normalised by the student's running
statistics, so that no key depends on the photos beside it (EMAN, 2021, arXiv 2101.08482, but with
the statistics as they are, not averaged again). Dropout in the trunk is off.

θ' needs a few times 1 / (1 − m) steps to become anything: a run of a few hundred steps wants
`momentum=0.99`, as the authors' own CIFAR-10 demo has it (with `tau=0.1` and 4096 keys).
"""

import copy
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from edgeseed.distill.data.views import ViewPlan, moco_crop
from edgeseed.distill.heads import mlp
from edgeseed.distill.losses import info_nce
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, Requirements, StepResult
from edgeseed.distill.queues import EmbeddingQueue, fit_queue_size
from edgeseed.distill.training.recipe import Recipe

USUAL_QUEUE_SIZE = 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class MocoConfig:
    """Defaults are MoCo v2's (its section 3, and the authors' code).

    Attributes:
        tau: τ, the temperature of the contrast: less tells near photos apart more sharply.
        momentum: m, how much of the key networks stays in a step.
        queue_size: Keys; none takes 65 536, or what a smaller set of photos can fill.
        projection_dim: Length of q and k.
        key_norm: Whether BatchNorm of the key networks uses the batch, or what the student has
            averaged over past batches.
    """

    tau: float = 0.2
    momentum: float = 0.999
    queue_size: int | None = None
    projection_dim: int = 128
    key_norm: Literal["batch", "moving"] = "batch"

    def __post_init__(self) -> None:
        if self.tau <= 0:
            raise ValueError(f"tau={self.tau} must be above 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} must be at least 0 and below 1")
        if self.projection_dim < 1:
            raise ValueError(f"projection_dim={self.projection_dim} must be at least 1")


class Moco(Method[MocoConfig]):
    """Contrast with a queue of keys; see the module's docstring."""

    Config = MocoConfig
    REQUIREMENTS = Requirements(frozen=())
    RECIPE = Recipe(optimizer="sgd", lr=0.03, weight_decay=1e-4, batch_size=256, epochs=200)

    def __init__(self, config: MocoConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        width = inputs.student.embedding_dim
        self.head = mlp(width, width, config.projection_dim)
        self.key_student = copy.deepcopy(self.student).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        size = fit_queue_size(
            config.queue_size,
            usual=USUAL_QUEUE_SIZE,
            batch_size=inputs.batch_size,
            num_samples=inputs.num_samples,
        )
        self.queue = EmbeddingQueue(
            size=size,
            dim=config.projection_dim,
            batch_size=inputs.batch_size,
            generator=inputs.generator,
        )
        self._waiting: Tensor | None = None

    @classmethod
    def views(cls, config: MocoConfig, image_size: int) -> ViewPlan:
        """Two views of MoCo v2's kind."""
        del config
        return ViewPlan(crops=(moco_crop(image_size), moco_crop(image_size)))

    def train(self, mode: bool = True) -> Self:
        """As any module; with moving statistics the key networks stay in eval mode."""
        super().train(mode)
        if self.config.key_norm == "moving":
            self.key_student.eval()
        return self

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """Contrasts the first view with the key of the second and with past keys."""
        del progress
        query = self.head(self.student(batch.views[0]).embedding)
        with torch.no_grad():
            key = self.key_head(self.key_student(batch.views[1]).embedding).float()
        loss, logits = info_nce(query, key, self.queue.entries, temperature=self.config.tau)
        self._waiting = key
        found = (logits.detach().argmax(1) == 0).float().mean()
        return StepResult(loss=loss, logs={"found": found})

    @torch.no_grad()
    def after_step(self, progress: Progress) -> None:
        """Enqueues the keys, then lets the key networks follow the trained ones."""
        del progress
        assert self._waiting is not None
        self.queue.enqueue(self._waiting)
        self._waiting = None
        self._follow(self.key_student, self.student)
        self._follow(self.key_head, self.head)

    def _follow(self, key: nn.Module, trained: nn.Module) -> None:
        for slow, fast in zip(key.parameters(), trained.parameters(), strict=True):
            slow.lerp_(fast, 1 - self.config.momentum)
        if self.config.key_norm == "moving":
            for kept, current in zip(key.buffers(), trained.buffers(), strict=True):
                kept.copy_(current)


METHOD = Moco
