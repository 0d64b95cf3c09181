"""SimCLR: two views of a photo find each other among all others; makes a teacher from photos.

Takes: photos alone.
Best for: making a teacher from your photos at large batches; SimCLRv2's first step.

Big Self-Supervised Models are Strong Semi-Supervised Learners (SimCLRv2, 2020), arXiv 2006.10029:
its first step. The loss is SimCLR's (2020, arXiv 2002.05709).

```text
z = norm(h(f(x)))                       h: Linear–BN–ReLU, Linear–BN–ReLU, Linear–BN
l(a, b) = − mean_i log [ exp(a_i·b_i / τ) / (Σ_j exp(a_i·b_j / τ) + Σ_{j≠i} exp(a_i·a_j / τ)) ]
L = l(z, z') + l(z', z)                 j runs over the photos of all devices; τ = 0.1
```
The trunk is kept as the student file. The head is kept in `heads.safetensors`, because SimCLRv2
fine-tunes from its first layer, `head.0` (Linear), `head.1` (BN) and ReLU.

As in the authors' code: hidden layers are as wide as the embedding, Linear layers have no bias, the
last BatchNorm has no shift, and BatchNorm sees the batch of all devices together. Unlike it:
networks come from timm (no selective kernels of our own), and normalise with the student's mean and
std.

The recipe is for batches of thousands: LARS, whose steps follow the size of the weights, hardly
moves in a few hundred steps. For small sets and batches of 128 to 512 photos use AdamW:

```text
--batch-size 256 --lr 0.001 --set recipe.optimizer=adamw --set recipe.lr_batch_size=256
--set recipe.weight_decay=0.01 --set temperature=0.2
```
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseed.distill import distributed
from edgeseed.distill.data.views import ViewPlan, simclr_crop
from edgeseed.distill.heads import mlp
from edgeseed.distill.losses import nt_xent
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, Requirements, StepResult
from edgeseed.distill.training.recipe import Recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class SimclrConfig:
    """Defaults are the authors' (SimCLRv2, appendix B, and their run.py).

    Attributes:
        temperature: τ; the published runs have 0.1 at batches of 4096, small batches like 0.2.
        projection_dim: Length of z.
        num_layers: Of the head.
    """

    temperature: float = 0.1
    projection_dim: int = 128
    num_layers: int = 3

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ValueError(f"temperature={self.temperature} must be above 0")
        for name in ("projection_dim", "num_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


class Simclr(Method[SimclrConfig]):
    """Contrast between two views within the batch; see the module's docstring."""

    Config = SimclrConfig
    REQUIREMENTS = Requirements(frozen=())
    RECIPE = Recipe(
        optimizer="lars", lr=4.8, lr_batch_size=4096, lr_scaling="sqrt", weight_decay=1e-4,
        decay_norm_and_bias=False, warmup_epochs=10, batch_size=4096, epochs=800,
    )  # fmt: skip

    def __init__(self, config: SimclrConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        width = inputs.student.embedding_dim
        self.head = mlp(
            width, *[width] * (config.num_layers - 1), config.projection_dim,
            norm="batch", output_bias=False, output_norm=True,
        )  # fmt: skip
        cast(Any, self.head[-1]).bias.requires_grad_(False)
        distributed.synchronize_batch_norm(self)

    @classmethod
    def views(cls, config: SimclrConfig, image_size: int) -> ViewPlan:
        """Two views of SimCLR's kind."""
        del config
        return ViewPlan(crops=(simclr_crop(image_size), simclr_crop(image_size)))

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """Contrasts the two views of each photo with those of all others."""
        del progress
        # One pass over both: BatchNorm, too, must not tell the first views from the second.
        embedding = self.student(torch.cat(batch.views)).embedding
        first, second = self.head(embedding).chunk(2)
        loss = nt_xent(first, second, temperature=self.config.temperature)
        return StepResult(loss=loss, logs={"found": _found(first, second)})


@torch.no_grad()
def _found(first: Tensor, second: Tensor) -> Tensor:
    """Share of photos whose second view is nearest to their first, among this rank's photos."""
    cosine = F.normalize(first.float(), dim=1) @ F.normalize(second.float(), dim=1).T
    own = torch.arange(len(first), device=first.device)
    return (cosine.argmax(1) == own).float().mean()


METHOD = Simclr
