"""KD: Hinton's distillation, the student imitates a classifier's softened answers.

Takes: a teacher with a classifier; labels if there are.
Best for: copying a classifier into a smaller network.

Distilling the Knowledge in a Neural Network (2015), arXiv 1503.02531.

```text
p = softmax(l_T / T)
L = − α T² mean_x Σ_y p_y log softmax(l_S / T)_y + γ CE(labels, softmax(l_S))
```
One view for both networks. T² keeps the two terms in proportion when T changes. The student gets
the teacher's classes, and its classifier ships with it. Without labels the second term is left out:
the teacher's answers are all that is learnt, as the paper found to be most of the gain.

Settings are those of "Contrastive Representation Distillation" (2019, arXiv 1910.10699), whose
tables everyone compares with: α = 0.9, γ = 0.1, T = 4. Unlike there, photos are cropped by area,
where CIFAR's are padded by 4 pixels and cut to size.
"""

from dataclasses import dataclass

from torch import Tensor

from edgeseed.core.console import note
from edgeseed.core.errors import ConfigError
from edgeseed.distill.data.views import ViewPlan, weak_crop
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, Requirements, StepResult
from edgeseed.distill.methods._soft_labels import classifying_teacher, imitate
from edgeseed.distill.training.recipe import Recipe

USUAL_LABEL_WEIGHT = 0.1
_SMALL_IMAGE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class KdConfig:
    """Settings of `kd`.

    Attributes:
        temperature: T, by which both networks' answers are softened.
        soft_weight: α, of the soft labels.
        label_weight: γ, of the photos' own labels; none takes 0.1 where they have any.
    """

    temperature: float = 4.0
    soft_weight: float = 0.9
    label_weight: float | None = None

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")
        for name in ("soft_weight", "label_weight"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.soft_weight == 0 and self.label_weight in (None, 0):
            raise ValueError("soft_weight=0 and label_weight=0 leave nothing to learn")


class Kd(Method[KdConfig]):
    """Soft labels, and labels if there are any; see the module's docstring."""

    Config = KdConfig
    REQUIREMENTS = Requirements(labels="optional", classifier=True)
    RECIPE = Recipe(
        optimizer="sgd", lr=0.05, lr_batch_size=64, weight_decay=5e-4, schedule="step",
        milestones=(150 / 240, 180 / 240, 210 / 240), batch_size=64, epochs=240,
    )  # fmt: skip

    def __init__(self, config: KdConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.teacher = classifying_teacher(inputs, method="kd")
        self.label_weight = _choose_label_weight(config.label_weight, inputs.labels)

    @classmethod
    def views(cls, config: KdConfig, image_size: int) -> ViewPlan:
        """Crop and flip; most of a small photo, as CIFAR's padded crops show it."""
        del config
        min_scale = 0.08 if image_size >= _SMALL_IMAGE else 0.6
        return ViewPlan(crops=(weak_crop(image_size, min_scale=min_scale),))

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """α times the soft labels' cross-entropy + γ times the labels'."""
        return imitate(
            self.student,
            self.teacher,
            batch,
            progress,
            temperature=self.config.temperature,
            soft_weight=self.config.soft_weight,
            label_weight=self.label_weight,
        )


def _choose_label_weight(wanted: float | None, labels: Tensor | None) -> float:
    has_labels = labels is not None and bool((labels >= 0).any())
    if wanted and not has_labels:
        raise ConfigError(
            f"label_weight={wanted} needs labels of the teacher's classes, and the photos have "
            "none; sort them into class folders, or use label_weight=0"
        )
    if wanted is None and has_labels:
        note(f"kd: labels with weight {USUAL_LABEL_WEIGHT}; label_weight=0 uses the teacher alone")
        return USUAL_LABEL_WEIGHT
    return wanted or 0.0


METHOD = Kd
