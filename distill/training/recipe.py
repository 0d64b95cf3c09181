"""How a method is trained: optimiser, rates, schedule, batch and length, as its paper has them."""

import math
from dataclasses import dataclass, fields
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Training settings; each method carries its paper's. `--set recipe.FIELD=VALUE` changes one.

    Attributes:
        optimizer: The update rule.
        lr: Peak learning rate for a global batch of `lr_batch_size` photos.
        lr_batch_size: The batch for which `lr` is meant.
        lr_scaling: How the peak follows the global batch: in proportion, with its root, or not.
        momentum: Of SGD and LARS.
        weight_decay: At the start.
        final_weight_decay: At the end, along a cosine; None keeps `weight_decay`.
        decay_norm_and_bias: Whether weight decay also pulls at norms and biases.
        schedule: Of the learning rate after the warm-up.
        warmup_epochs: Linear warm-up from zero; it is part of `epochs`, the cosine has the rest.
        final_lr: Where the cosine ends; absolute, not scaled by the batch.
        milestones: For `step`: fractions of the run after which the rate is multiplied by
            `step_factor`.
        step_factor: See `milestones`.
        clip_norm: Largest norm of the gradient of all parameters together; None does not clip.
        batch_size: Photos a step, over all devices together.
        epochs: Passes over the photos.
    """

    optimizer: Literal["sgd", "adam", "adamw", "lars"]
    lr: float
    lr_batch_size: int = 256
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    momentum: float = 0.9
    weight_decay: float = 0.0
    final_weight_decay: float | None = None
    decay_norm_and_bias: bool = True
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    final_lr: float = 0.0
    milestones: tuple[float, ...] = ()
    step_factor: float = 0.1
    clip_norm: float | None = None
    batch_size: int = 256
    epochs: int = 100

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field.name}={value} must be a finite number")
        positive = ("lr", "lr_batch_size", "batch_size", "epochs")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("momentum", "weight_decay", "warmup_epochs", "final_lr"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"clip_norm={self.clip_norm} must be above 0, or none")
        if any(not 0 < milestone < 1 for milestone in self.milestones):
            raise ValueError(
                f"milestones={self.milestones} must be fractions of the run, between 0 and 1"
            )
        if self.schedule == "step" and not self.milestones:
            raise ValueError("schedule=step needs milestones, such as 0.6,0.8")

    @property
    def peak_lr(self) -> float:
        """The learning rate after the warm-up, for this recipe's batch."""
        ratio = self.batch_size / self.lr_batch_size
        factors = {"linear": ratio, "sqrt": math.sqrt(ratio), "none": 1.0}
        return self.lr * factors[self.lr_scaling]
