"""DoGo: two students learn from photos alone, and each from how the other sees the batch.

Takes: a peer; no labels.
Best for: two small networks where no teacher is to be had.

Distill on the Go: Online knowledge distillation in self-supervised learning (2021), arXiv
2104.09866.

```text
p_m, p'_m : what network m (student, peer) makes of its own two views of the photos
S_m[i, j] = cos(p_m[i], p'_m[j]) / τ                    N x N, τ = 0.1
P_m       = softmax of each row of S_m
L_1 = SSL_1 + λ KL( stopgrad(P_2) ‖ P_1 )     L_2 = SSL_2 + λ KL( stopgrad(P_1) ‖ P_2 )
SSL: NT-Xent with temperature 0.5 (`simclr`), or SimSiam's − mean of two cosines (`simsiam`)
```
Both are trained from scratch, none is frozen, and both are kept: `student.safetensors` and
`peer.safetensors`. L_1 + L_2 is minimised at once: neither has a gradient for the other's network,
so that it is the same as the two steps of the paper.

λ is for a KL that is the mean over rows, as in the paper. The authors' code has the mean over all
N x N entries (`F.kl_div`'s default), so that a weight of theirs is ours times N: their 100 at 256
photos is λ = 100 / 256 = 0.39 here.

Unlike the authors' code: log-softmax where it takes the log of a softmax; an NT-Xent that runs over
the photos of all devices; one weight for both networks unless two are given (their template has 100
for the first and 1 for the second); no learning-rate schedule (theirs ends where it starts); grey
views of SimSiam with probability 0.2 (their transform draws it twice). On several devices of theirs
the self-supervised losses are zero without a word, because the wrapped network is no longer an
instance of its class; here which loss a network has is in the settings, and all four parts are
logged.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.distill import distributed
from edgeseed.distill.data.views import Crop, ViewPlan, moco_crop, simclr_crop
from edgeseed.distill.heads import mlp
from edgeseed.distill.losses import in_full_precision, kl_divergence, nt_xent
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, Requirements, StepResult
from edgeseed.distill.networks.frozen import Student
from edgeseed.distill.training.recipe import Recipe

HIDDEN_DIM = 512
SIMSIAM_DIM = 2048

Loss = Literal["simclr", "simsiam"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DogoConfig:
    """Defaults are the authors' (config/template.yaml), and the paper's same λ for both networks.

    Attributes:
        student_loss: What the student learns by itself.
        peer_loss: What the peer learns by itself.
        kl_weight: λ; 0 trains each network alone.
        peer_kl_weight: λ of the peer; none takes `kl_weight`.
        tau: τ of the similarities that the networks share.
        temperature: Of NT-Xent.
        projection_dim: Length of p for `simclr`; SimSiam's is 2048.
    """

    student_loss: Loss = "simclr"
    peer_loss: Loss = "simclr"
    kl_weight: float = 100 / 256
    peer_kl_weight: float | None = None
    tau: float = 0.1
    temperature: float = 0.5
    projection_dim: int = 128

    def __post_init__(self) -> None:
        for name in ("tau", "temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("kl_weight", "peer_kl_weight"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}={value} must not be negative")
        if self.projection_dim < 1:
            raise ValueError(f"projection_dim={self.projection_dim} must be at least 1")


# --------------------------------------------------------------------------- losses


@in_full_precision
def mutual_kl(
    first: Tensor, second: Tensor, other_first: Tensor, other_second: Tensor, *, tau: float
) -> Tensor:
    """`KL( stopgrad(P_other) ‖ P )`, the mean over the rows of two similarity matrices.

    On several devices a row holds this rank's photo against those of all ranks.

    Args:
        first: (N, D) what a network makes of its first views, any length; normalised here.
        second: (N, D) of its second views.
        other_first: (N, D') the same of the other network, which gets no gradient.
        other_second: (N, D').
        tau: τ, the temperature of the contrast: less tells near photos apart more sharply.
    """
    first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    own = first @ distributed.gather_with_grad(second).T / tau
    with torch.no_grad():
        other_first = F.normalize(other_first, dim=1)
        other_second = distributed.gather(F.normalize(other_second, dim=1))
        target = (other_first @ other_second.T / tau).softmax(1)
    return kl_divergence(own, target)


@in_full_precision
def negative_cosine(
    first: Tensor, second: Tensor, first_target: Tensor, second_target: Tensor
) -> Tensor:
    """SimSiam (2020, arXiv 2011.10566): `− ½ mean [ cos(p, sg z') + cos(p', sg z) ]`.

    Args:
        first: (N, D) p, the prediction from the first views.
        second: (N, D) p'.
        first_target: (N, D) z, the projection of the first views; gets no gradient.
        second_target: (N, D) z'.
    """
    forward = F.cosine_similarity(first, second_target.detach(), dim=1).mean()
    backward = F.cosine_similarity(second, first_target.detach(), dim=1).mean()
    return -(forward + backward) / 2


# --------------------------------------------------------------------------- heads


class Projected(NamedTuple):
    """What a head makes of a batch of embeddings.

    Attributes:
        prediction: (N, D) p.
        projection: (N, D) z; the same as p without a predictor.
    """

    prediction: Tensor
    projection: Tensor


class SimclrHead(nn.Module):
    """`Linear – BN – ReLU – Linear`; prediction and projection are one.

    Args:
        width: Of the embedding.
        dim: Of the projection.
    """

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.projector = mlp(width, HIDDEN_DIM, dim, norm="batch")

    def forward(self, embedding: Tensor) -> Projected:
        """(N, width) -> (N, dim)."""
        projection = self.projector(embedding)
        return Projected(projection, projection)


class SimsiamHead(nn.Module):
    """SimSiam's three-layer projector, and the predictor on top of it.

    Args:
        width: Of the embedding.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        dim = SIMSIAM_DIM
        self.projector = mlp(width, dim, dim, dim, norm="batch", hidden_bias=True, output_norm=True)
        self.predictor = mlp(dim, HIDDEN_DIM, dim, norm="batch")

    def forward(self, embedding: Tensor) -> Projected:
        """(N, width) -> twice (N, 2048)."""
        projection = self.projector(embedding)
        return Projected(self.predictor(projection), projection)


# --------------------------------------------------------------------------- method


class Dogo(Method[DogoConfig]):
    """Two students that teach each other; see the module's docstring."""

    Config = DogoConfig
    REQUIREMENTS = Requirements(frozen=(), trained=("peer",))
    RECIPE = Recipe(
        optimizer="adam", lr=3e-4, lr_scaling="none", weight_decay=1e-6, schedule="constant",
        batch_size=256, epochs=1000,
    )  # fmt: skip

    def __init__(self, config: DogoConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.peer = inputs.peer
        self.student_head = _head(config.student_loss, inputs.student, config)
        self.peer_head = _head(config.peer_loss, inputs.peer, config)
        peer_weight = config.peer_kl_weight
        self.peer_kl_weight = config.kl_weight if peer_weight is None else peer_weight
        distributed.synchronize_batch_norm(self)

    @classmethod
    def views(cls, config: DogoConfig, image_size: int) -> ViewPlan:
        """Two views for the student, then two others for the peer."""
        student, peer = (
            _crop(loss, image_size) for loss in (config.student_loss, config.peer_loss)
        )
        return ViewPlan(crops=(student, student, peer, peer))

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """Both networks' own losses, and what each learns from the other."""
        del progress
        config = self.config
        student = _project(self.student, self.student_head, batch.views[:2])
        peer = _project(self.peer, self.peer_head, batch.views[2:])
        student_ssl = self._ssl(config.student_loss, student)
        peer_ssl = self._ssl(config.peer_loss, peer)
        student_kl = self._kl(student, peer)
        peer_kl = self._kl(peer, student)
        loss = student_ssl + config.kl_weight * student_kl
        peer_loss = peer_ssl + self.peer_kl_weight * peer_kl
        parts = {
            "student_ssl": student_ssl,
            "student_kl": student_kl,
            "peer_ssl": peer_ssl,
            "peer_kl": peer_kl,
        }
        return StepResult(
            loss=loss + peer_loss, logs={name: value.detach() for name, value in parts.items()}
        )

    def _ssl(self, loss: Loss, views: Sequence[Projected]) -> Tensor:
        first, second = views
        if loss == "simsiam":
            return negative_cosine(
                first.prediction, second.prediction, first.projection, second.projection
            )
        # `nt_xent` adds up its two directions; DoGo takes their mean, as SimCLR's first paper does.
        temperature = self.config.temperature
        return nt_xent(first.prediction, second.prediction, temperature=temperature) / 2

    def _kl(self, views: Sequence[Projected], other: Sequence[Projected]) -> Tensor:
        # Where both have predictors, a prediction aims at the other's projections, as in SimSiam.
        both_predict = self.config.student_loss == self.config.peer_loss == "simsiam"
        target = [view.projection if both_predict else view.prediction for view in other]
        return mutual_kl(views[0].prediction, views[1].prediction, *target, tau=self.config.tau)

    def networks(self) -> dict[str, Student]:
        """Both: which of the two ships is the user's choice."""
        return {"student": self.student, "peer": self.peer}


def _head(loss: Loss, student: Student, config: DogoConfig) -> nn.Module:
    if loss == "simsiam":
        return SimsiamHead(student.embedding_dim)
    return SimclrHead(student.embedding_dim, config.projection_dim)


def _crop(loss: Loss, size: int) -> Crop:
    """SimCLR's view at full strength whatever the size, or SimSiam's at half of it."""
    if loss == "simsiam":
        return moco_crop(size, min_scale=0.08)
    return dataclasses.replace(
        simclr_crop(size), brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2
    )


def _project(network: Student, head: nn.Module, views: Sequence[Tensor]) -> list[Projected]:
    """One pass a view, as the authors do: BatchNorm sees each kind of view by itself."""
    return [head(network(view).embedding) for view in views]


METHOD = Dogo
