"""Supervised: the method of `finetune`. A student learns classes from labels.

It is a method as those in methods/ are, but none of `edgeseed methods`: it makes no student from
photos alone, and `finetune` brings it the labels, their repeats and the network to start from.
"""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseed.distill.data.views import ViewPlan, weak_crop
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, Requirements, StepResult
from edgeseed.distill.networks.projection import fold_projection
from edgeseed.distill.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """How labels are learnt; `--set FIELD=VALUE` changes one.

    Attributes:
        train: Whether the whole network learns, or only the classifier on the frozen trunk.
        label_smoothing: Share of the target that is spread over all classes.
        min_scale: Least share of a photo's area that a random crop shows.
        min_steps: The least number of updates: few labels get more epochs, unless epochs are given.
    """

    train: Literal["all", "head"] = "all"
    label_smoothing: float = 0.0
    min_scale: float = 0.2
    min_steps: int = 500

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing={self.label_smoothing} must be from 0 to below 1")
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"min_scale={self.min_scale} must be above 0 and up to 1")


class Supervised(Method[FinetuneConfig]):
    """Cross-entropy with labels on the student's own classifier.

    Random crops and flips only, as SimCLRv2 fine-tunes (arXiv 2006.10029, appendix B); its LARS
    recipe for batches of 1024 is `recipe.optimizer=lars recipe.lr=0.16 recipe.lr_scaling=sqrt
    recipe.lr_batch_size=1024 recipe.weight_decay=0`. The default is AdamW, which suits small
    batches and small networks.

    The classifier learns on embeddings that are shifted and scaled by the labelled photos' mean and
    deviation at the start, so that one learning rate suits any student; `fold` undoes this.
    """

    mean: Tensor
    scale: Tensor

    Config = FinetuneConfig
    REQUIREMENTS = Requirements(
        frozen=(), labels="required", classifier=True, start_embeddings=True
    )
    RECIPE = Recipe(
        optimizer="adamw", lr=1e-3, lr_scaling="sqrt", weight_decay=0.05,
        decay_norm_and_bias=False, warmup_epochs=3, batch_size=256, epochs=30,
    )  # fmt: skip

    def __init__(self, config: FinetuneConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.register_buffer("mean", torch.zeros(inputs.student.embedding_dim))
        self.register_buffer("scale", torch.ones(()))
        if config.train == "head":
            self.student.network.backbone.requires_grad_(False)
        if inputs.start_embeddings is not None:
            self.standardise(inputs.start_embeddings)
        self.train()

    def standardise(self, embeddings: Tensor) -> None:
        """Takes the shift and the one scale from the (N, D) embeddings that it starts with."""
        self.mean.copy_(embeddings.mean(dim=0))
        deviation = (embeddings - embeddings.mean(dim=0)).square().mean().sqrt()
        self.scale.copy_(1 / deviation if deviation > 0 else torch.ones(()))

    def finish(self) -> None:
        """Moves shift and scale into the classifier, exactly: then it takes raw embeddings."""
        head = self.student.network.head
        assert head is not None
        with torch.no_grad():
            weight = head.weight.double() * self.scale.double()
            bias = head.bias.double() - weight @ self.mean.double()
            head.weight.copy_(weight)
            head.bias.copy_(bias)
            self.mean.zero_()
            self.scale.fill_(1.0)
        fold_projection(self.student.network)

    @classmethod
    def views(cls, config: FinetuneConfig, image_size: int) -> ViewPlan:
        """One random crop a photo."""
        return ViewPlan(crops=(weak_crop(image_size, min_scale=config.min_scale),))

    def train(self, mode: bool = True) -> Self:
        """A frozen trunk stays in eval mode: its BatchNorm keeps the statistics it came with."""
        super().train(mode)
        if self.config.train == "head":
            self.student.network.backbone.eval()
        return self

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """The mean cross-entropy of one batch."""
        del progress
        head = self.student.network.head
        assert batch.labels is not None
        assert head is not None
        embedding = self.student(batch.views[0]).embedding
        logits = head((embedding - self.mean) * self.scale)
        loss = F.cross_entropy(
            logits.float(), batch.labels, label_smoothing=self.config.label_smoothing
        )
        accuracy = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return StepResult(loss=loss, floor=None, logs={"train_accuracy": accuracy})
