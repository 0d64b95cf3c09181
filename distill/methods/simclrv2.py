"""SimCLRv2: a teacher that saw a few labels gives soft ones to photos without; its third step.

Takes: a teacher with a classifier; labels if there are.
Best for: few labels: a teacher that was fine-tuned on them labels all other photos.

Big Self-Supervised Models are Strong Semi-Supervised Learners (2020), arXiv 2006.10029. The three
steps: `pretrain --method simclr`, `finetune --labels 1% --projection`, and this one.

```text
p(x) = softmax(l_T(x) / T)
L = − α T² mean_x Σ_y p_y(x) log softmax(l_S(x) / T)_y
  − (1 − α) mean over labelled x of log softmax(l_S(x))_label
```
One view for both networks, cropped and flipped, never coloured. With α = 1 no label is used: the
paper finds that labels add next to nothing.

Means, not sums, are over the photos, and T² is that of the authors' code: so neither α nor the
learning rate depend on the batch or on T.

The recipe is the paper's, for a batch of 4096. For small sets and batches use AdamW:

```text
--batch-size 256 --lr 0.001 --set recipe.optimizer=adamw --set recipe.lr_batch_size=256
--set recipe.weight_decay=0.05
```
"""

from dataclasses import dataclass

from edgeseed.core.errors import ConfigError
from edgeseed.distill.data.views import ViewPlan, weak_crop
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, Requirements, StepResult
from edgeseed.distill.methods._soft_labels import classifying_teacher, imitate
from edgeseed.distill.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Simclrv2Config:
    """Defaults are the paper's for a student that is smaller than its teacher (section 3.3).

    Attributes:
        temperature: T; the paper has 0.1 where a network teaches one of its own size.
        alpha: α, the weight of the soft labels; below 1, labels get the rest.
        min_scale: Least share of the area that a crop shows.
    """

    temperature: float = 1.0
    alpha: float = 1.0
    min_scale: float = 0.08

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha} must be from 0 to 1")
        if not 0 < self.min_scale <= 1:
            raise ValueError(f"min_scale={self.min_scale} must be above 0 and up to 1")


class Simclrv2(Method[Simclrv2Config]):
    """Soft labels of a fine-tuned teacher; see the module's docstring."""

    Config = Simclrv2Config
    REQUIREMENTS = Requirements(labels="optional", classifier=True)
    RECIPE = Recipe(
        optimizer="lars", lr=4.8, lr_batch_size=4096, lr_scaling="sqrt", weight_decay=1e-4,
        decay_norm_and_bias=False, warmup_epochs=20, batch_size=4096, epochs=400,
    )  # fmt: skip

    def __init__(self, config: Simclrv2Config, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.teacher = classifying_teacher(inputs, method="simclrv2")
        has_labels = inputs.labels is not None and bool((inputs.labels >= 0).any())
        if config.alpha < 1 and not has_labels:
            raise ConfigError(
                f"alpha={config.alpha} gives the photos' labels the weight {1 - config.alpha:g}, "
                "and there are none of the teacher's classes; use alpha=1, or class folders"
            )

    @classmethod
    def views(cls, config: Simclrv2Config, image_size: int) -> ViewPlan:
        """One view, cropped and flipped."""
        return ViewPlan(crops=(weak_crop(image_size, min_scale=config.min_scale),))

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """α times the soft labels' cross-entropy + (1 − α) times the labels'."""
        return imitate(
            self.student,
            self.teacher,
            batch,
            progress,
            temperature=self.config.temperature,
            soft_weight=self.config.alpha,
            label_weight=1 - self.config.alpha,
        )


METHOD = Simclrv2
