"""CRD: contrast with banks of past features. Made for labels: without, not a recommended default.

Takes: a teacher; labels if there are.
Best for: labels on every photo; without labels it is not a recommended default.

Without labels some of the "others" show the same thing, and the paper's figures are all with
labels. `regress` and `seed` need none.

Contrastive Representation Distillation (2019), arXiv 1910.10699.

```text
v_S = norm(W_S f_S)    v_T = norm(W_T f_T)         linear, D = 128; W_T learns, the teacher does not
M_S, M_T : banks of past v_S and v_T, a row for each of the n photos
P_S[k] = exp( v_S · M_T[k] / τ ) / Z_S             P_T[k] = exp( v_T · M_S[k] / τ ) / Z_T
Z      = n · mean of the first batch's exp( … ), fixed from then on
h(P)   = P / (P + K / n)
L_dir  = − mean_batch [ log h(P[own]) + Σ_{k=1..K} log( 1 − h(P[k]) ) ]      L_CRD = L_S + L_T
L      = γ CE(labels) + α 4² KL(teacher ‖ student at temperature 4) + β L_CRD
M[own] = norm( ½ M[own] + ½ v )                    after the batch was scored
```
With labels (`negatives=exact`, the paper's CIFAR protocol) the K others come from other classes,
and the student gets a linear classifier that ships with it; `relax` also takes the photo to be
found from the own class. Without labels (`uniform`) they are any other photos, and the loss is
β L_CRD alone.

Unlike the authors' code: the others are drawn with replacement (as there for ImageNet; for CIFAR
without), never the photo itself, and no more than there are photos; Z, the banks and their order
are saved and restored; on several devices, all update all banks, and Z is their mean. Views are
crops and flips of the whole photo, where CIFAR's are padded by 4 pixels and cut to size.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from edgeseed.core.console import note, warn
from edgeseed.core.errors import ConfigError
from edgeseed.distill import distributed
from edgeseed.distill.data.views import ViewPlan, weak_crop
from edgeseed.distill.losses import in_full_precision, labelled_cross_entropy, soft_label_loss
from edgeseed.distill.method import Batch, Method, MethodInputs, Progress, Requirements, StepResult
from edgeseed.distill.training.recipe import Recipe

USUAL_NEGATIVES = 16_384
EPSILON = 1e-7
UNLABELLED = -1
_CHUNK_NUMBERS = 2**24
"""Numbers of a bank that are copied at once: 64 MiB in float32."""
_SMALL_BANK = 64
"""Rows of a bank over K up to which all of its products are cheaper than looking rows up: on a CPU
20 to 56 times for 3 to 12 times K, 4.5 times for 49, and the same for 313."""
_MOST_PRODUCTS = 2**27
"""No more of all products at once: 512 MiB in float32."""
_SMALL_IMAGE = 64

Negatives = Literal["auto", "uniform", "exact", "relax"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CrdConfig:
    """Defaults are the paper's "CRD" rows (scripts/run_cifar_distill.sh); `kd_weight=1` its CRD+KD.

    Attributes:
        negatives: Which photos are the others: of other classes (`exact`, `relax`) or any
            (`uniform`); `auto` is `exact` where the photos have labels.
        num_negatives: K; none takes 16 384, or as many as a smaller set has.
        tau: τ, the temperature of the contrast: less tells near photos apart more sharply.
        dim: D, the length of the vectors that are contrasted.
        bank_momentum: Share of a bank's row that stays at an update.
        crd_weight: β, the weight of the contrast.
        label_weight: γ, of the cross-entropy with the labels; without labels it is left out.
        kd_weight: α; needs labels, and a teacher with a classifier over the same classes.
        kd_temperature: Of that term.
    """

    negatives: Negatives = "auto"
    num_negatives: int | None = None
    tau: float = 0.07
    dim: int = 128
    bank_momentum: float = 0.5
    crd_weight: float = 0.8
    label_weight: float = 1.0
    kd_weight: float = 0.0
    kd_temperature: float = 4.0

    def __post_init__(self) -> None:
        for name in ("tau", "kd_temperature", "crd_weight", "dim"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        for name in ("label_weight", "kd_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.num_negatives is not None and self.num_negatives < 1:
            raise ValueError(f"num_negatives={self.num_negatives} must be at least 1")
        if not 0 <= self.bank_momentum < 1:
            raise ValueError(f"bank_momentum={self.bank_momentum} must be from 0 up to below 1")


# --------------------------------------------------------------------------- loss


@in_full_precision
def contrast_loss(probabilities: Tensor, *, num_samples: int) -> Tensor:
    """`− mean_b [ log h(P_b0) + Σ_{k≥1} log(1 − h(P_bk)) ]` (arXiv 1910.10699, eq. 18).

    As the authors compute it, with m = K / n: `h(P) = P / (P + m + 1e-7)` and
    `1 − h(P) = m / (P + m + 1e-7)`.

    Args:
        probabilities: (B, K + 1) P; column 0 is the photo itself.
        num_samples: n.
    """
    noise = (probabilities.shape[1] - 1) / num_samples
    own, others = probabilities[:, 0], probabilities[:, 1:]
    found = torch.log(own / (own + noise + EPSILON))
    refused = torch.log(noise / (others + noise + EPSILON)).sum(1)
    return -(found + refused).mean()


def bank_products(anchors: Tensor, bank: Tensor, indices: Tensor) -> Tensor:
    """`a_b · M[index_bk]`, without ever holding all (B, K + 1, D) rows: 2.1 GB at 256 photos.

    Args:
        anchors: (B, D) a.
        bank: (N, D) M; gets no gradient.
        indices: (B, K + 1) rows of the bank.

    Returns:
        (B, K + 1).
    """
    is_small = len(bank) <= _SMALL_BANK * indices.shape[1]
    if is_small and len(anchors) * len(bank) <= _MOST_PRODUCTS:
        return (anchors @ bank.T).gather(1, indices)
    return cast(Tensor, cast(Any, _ChunkedProducts).apply(anchors, bank, indices))


class _ChunkedProducts(Function):
    """Looks rows up again for the gradient instead of keeping them."""

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, bank: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(bank, indices)
        parts = [
            torch.bmm(bank[part], anchors[:, :, None]).squeeze(2)
            for part in _column_chunks(indices, bank.shape[1])
        ]
        return torch.cat(parts, dim=1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        bank, indices = ctx.saved_tensors
        chunks = _column_chunks(indices, bank.shape[1])
        widths = [part.shape[1] for part in chunks]
        total = grads[0].new_zeros(len(indices), bank.shape[1])
        for part, grad in zip(chunks, grads[0].split(widths, dim=1), strict=True):
            total += torch.bmm(grad[:, None], bank[part]).squeeze(1)
        return total, None, None


def _column_chunks(indices: Tensor, dim: int) -> tuple[Tensor, ...]:
    return torch.split(indices, max(1, _CHUNK_NUMBERS // (len(indices) * dim)), dim=1)


# --------------------------------------------------------------------------- banks


class ContrastMemory(nn.Module):
    """What student and teacher made of each photo when it was last seen, and the fixed Z.

    Rows start uniform in ±√(3 / D), so that their expected length is one.

    Args:
        num_samples: n.
        dim: D.
        tau: τ, the temperature of the contrast: less tells near photos apart more sharply.
        momentum: Share of a row that stays at an update.
        generator: For the first rows; the same on every rank.
    """

    student: Tensor
    teacher: Tensor
    normalizers: Tensor

    def __init__(
        self,
        num_samples: int,
        *,
        dim: int,
        tau: float,
        momentum: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.num_samples, self.tau, self.momentum = num_samples, tau, momentum
        bound = math.sqrt(3 / dim)
        for name in ("student", "teacher"):
            rows = torch.rand(num_samples, dim, generator=generator) * 2 * bound - bound
            self.register_buffer(name, rows)
        # Z_S and Z_T; 0 until the first batch. What a resumed run loads is as fixed as its own.
        self.register_buffer("normalizers", torch.zeros(2))
        # A flag of Python's: to look into the buffer at each step would wait for the GPU.
        self._is_fixed = False

    @in_full_precision
    def forward(self, student: Tensor, teacher: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
        """P_S, the student against the teacher's bank, and P_T, the other way.

        Args:
            student: (B, D) v_S, unit rows.
            teacher: (B, D) v_T, unit rows.
            indices: (B, K + 1) photos; column 0 is the one to be found.

        Returns:
            Both (B, K + 1).
        """
        raw_student = torch.exp(bank_products(student, self.teacher, indices) / self.tau)
        raw_teacher = torch.exp(bank_products(teacher, self.student, indices) / self.tau)
        self._fix_normalizers(raw_student, raw_teacher)
        z_student, z_teacher = self.normalizers
        return raw_student / z_student, raw_teacher / z_teacher

    @torch.no_grad()
    def _fix_normalizers(self, *raw: Tensor) -> None:
        if self._is_fixed:
            return
        if not bool(self.normalizers.all()):
            means = torch.stack([distributed.mean(values.mean()) for values in raw])
            self.normalizers.copy_(means * self.num_samples)
        self._is_fixed = True

    @torch.no_grad()
    def update(self, student: Tensor, teacher: Tensor, own: Tensor) -> None:
        """Moves all ranks' photos in both banks.

        Args:
            student: (B, D) v_S of this rank.
            teacher: (B, D) v_T.
            own: (B,) which photos these are.
        """
        own = distributed.gather(own)
        for bank, rows in ((self.student, student), (self.teacher, teacher)):
            rows = distributed.gather(rows.to(bank.dtype))
            moved = self.momentum * bank[own] + (1 - self.momentum) * rows
            bank[own] = F.normalize(moved, dim=1)


# --------------------------------------------------------------------------- negatives


class NegativeSampler(nn.Module):
    """Draws, for each photo, K others: of other classes, or of all where it has no label.

    Photos are kept sorted by class, so that "another class" is a range with a gap: drawing costs
    one random number whatever the number of classes. Nothing in it is saved: labels come with the
    data.

    Args:
        num_samples: n.
        labels: (n,) classes, -1 for none; None where there are no labels at all.
    """

    order: Tensor
    starts: Tensor
    counts: Tensor

    def __init__(self, num_samples: int, labels: Tensor | None) -> None:
        super().__init__()
        # Without a label a photo is a class of its own: all others are other.
        classes = torch.arange(num_samples) if labels is None else _lone_classes(labels)
        counts = torch.bincount(classes)
        self.register_buffer("order", torch.argsort(classes, stable=True), persistent=False)
        starts, counts = (counts.cumsum(0) - counts)[classes], counts[classes]
        self.register_buffer("starts", starts, persistent=False)
        self.register_buffer("counts", counts, persistent=False)

    def draw(self, own: Tensor, *, count: int, generator: torch.Generator) -> Tensor:
        """(B, count) photos that are not of the class of `own`, with replacement.

        Args:
            own: (B,) photos.
            count: K.
            generator: On the CPU.
        """
        starts, counts = self.starts[own, None], self.counts[own, None]
        place = self._bits(len(own), count, generator) % (len(self.order) - counts)
        return self.order[place + counts * (place >= starts)]

    def draw_same(self, own: Tensor, *, generator: torch.Generator) -> Tensor:
        """(B,) photos of the class of `own`, itself possibly among them."""
        place = self._bits(len(own), 1, generator)[:, 0] % self.counts[own]
        return self.order[self.starts[own] + place]

    def _bits(self, rows: int, count: int, generator: torch.Generator) -> Tensor:
        # Far more than photos, so that the remainder is as good as uniform.
        bits = torch.randint(2**62, (rows, count), generator=generator)
        return bits.to(self.order.device)


def _lone_classes(labels: Tensor) -> Tensor:
    alone = labels == UNLABELLED
    first_free = int(labels.max()) + 1
    return torch.where(alone, first_free + alone.long().cumsum(0) - 1, labels)


# --------------------------------------------------------------------------- method


class Crd(Method[CrdConfig]):
    """Contrast with memory banks, and labels if there are any; see the module's docstring."""

    Config = CrdConfig
    REQUIREMENTS = Requirements(labels="optional", classifier="labels")
    RECIPE = Recipe(
        optimizer="sgd", lr=0.05, lr_batch_size=64, weight_decay=5e-4, schedule="step",
        milestones=(150 / 240, 180 / 240, 210 / 240), batch_size=64, epochs=240,
    )  # fmt: skip

    def __init__(self, config: CrdConfig, inputs: MethodInputs) -> None:
        super().__init__(config, inputs)
        self.teacher = inputs.teacher
        self.has_labels = inputs.labels is not None
        self.negatives = _choose_negatives(config.negatives, self.has_labels)
        if config.kd_weight > 0:
            _check_classifiers(inputs)
        self.student_embedding = nn.Linear(inputs.student.embedding_dim, config.dim)
        self.teacher_embedding = nn.Linear(inputs.teacher.embedding_dim, config.dim)
        self.memory = ContrastMemory(
            inputs.num_samples,
            dim=config.dim,
            tau=config.tau,
            momentum=config.bank_momentum,
            generator=inputs.generator,
        )
        labels = None if self.negatives == "uniform" else inputs.labels
        _check_classes(labels)
        self.sampler = NegativeSampler(inputs.num_samples, labels)
        self.num_negatives = _fit_negatives(config.num_negatives, inputs.num_samples)
        self._waiting: tuple[Tensor, Tensor, Tensor] | None = None

    @classmethod
    def views(cls, config: CrdConfig, image_size: int) -> ViewPlan:
        """Crop and flip; of small photos, which the paper pads by an eighth, nearly all is seen."""
        del config
        # CIFAR's padded crop shows 28 of 32 pixels of a side or more, ImageNet's .08 of the area.
        if image_size >= _SMALL_IMAGE:
            return ViewPlan(crops=(weak_crop(image_size, min_scale=0.08),))
        crop = weak_crop(image_size, min_scale=(7 / 8) ** 2)
        return ViewPlan(crops=(dataclasses.replace(crop, ratio=(7 / 8, 8 / 7)),))

    def step(self, batch: Batch, progress: Progress) -> StepResult:
        """γ CE + α KD + β CRD, as far as there are labels for it."""
        del progress
        output = self.student(batch.views[0])
        teacher = self.teacher(batch).embedding
        crd = self._contrast(output.embedding, teacher, batch)
        loss, logs = self.config.crd_weight * crd, {"crd_loss": crd.detach()}
        if self.has_labels:
            assert output.logits is not None
            assert batch.labels is not None
            label_loss = labelled_cross_entropy(output.logits, batch.labels)
            loss = loss + self.config.label_weight * label_loss
            logs["label_loss"] = label_loss.detach()
            logs["label_accuracy"] = _accuracy(output.logits, batch.labels)
            if self.config.kd_weight > 0:
                targets = self.teacher.project(teacher, "classifier")
                temperature = self.config.kd_temperature
                kd, floor = soft_label_loss(output.logits, targets, temperature=temperature)
                loss = loss + self.config.kd_weight * (kd - floor)
                logs["kd_loss"] = (kd - floor).detach()
        return StepResult(loss=loss, logs=logs)

    def _contrast(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        student = _unit(self.student_embedding(student))
        teacher = _unit(self.teacher_embedding(teacher))
        own, generator = batch.indices, batch.generator
        found = own
        if self.negatives == "relax":
            found = self.sampler.draw_same(own, generator=generator)
        others = self.sampler.draw(own, count=self.num_negatives, generator=generator)
        indices = torch.cat([found[:, None], others], dim=1)
        p_student, p_teacher = self.memory(student, teacher, indices)
        self._waiting = (student.detach(), teacher.detach(), own)
        n = self.memory.num_samples
        return contrast_loss(p_student, num_samples=n) + contrast_loss(p_teacher, num_samples=n)

    def after_step(self, progress: Progress) -> None:
        """Updates the banks only now: the gradient has looked at their old rows."""
        del progress
        assert self._waiting is not None
        self.memory.update(*self._waiting)
        self._waiting = None


@in_full_precision
def _unit(rows: Tensor) -> Tensor:
    return F.normalize(rows, dim=1)


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    known = labels != UNLABELLED
    right = (logits.detach().argmax(1) == labels) & known
    return right.sum() / known.sum().clamp(min=1)


def _choose_negatives(wanted: Negatives, has_labels: bool) -> Negatives:
    if wanted in ("exact", "relax") and not has_labels:
        raise ConfigError(
            f"negatives={wanted} draws photos of other classes, and these photos have no labels; "
            "sort them into class folders, or use negatives=uniform"
        )
    if wanted == "auto":
        wanted = "exact" if has_labels else "uniform"
    if not has_labels:
        warn(
            "crd without labels is not the recommended default: some of the photos that it pushes "
            "apart show the same thing; regress and seed need no labels"
        )
    return wanted


def _check_classes(labels: Tensor | None) -> None:
    if labels is not None and len(labels.unique()) < 2:
        raise ConfigError(
            "negatives come from other classes, and all photos are of one; use negatives=uniform"
        )


def _check_classifiers(inputs: MethodInputs) -> None:
    """The KD term compares logits: they must be of the same classes."""
    teacher = inputs.teacher
    if inputs.labels is None:
        raise ConfigError("kd_weight compares classifiers, which need labels; use kd_weight=0")
    if "classifier" not in teacher.heads:
        raise ConfigError(
            f"kd_weight needs a teacher with a classifier, and {teacher.name} has none; "
            "use kd_weight=0, or fine-tune the teacher first"
        )
    names, classes = teacher.network.classes, inputs.student.classes
    dim = teacher.head_dim("classifier")
    if dim != inputs.num_classes or (names is not None and names != classes):
        raise ConfigError(
            f"kd_weight needs a teacher over the photos' {inputs.num_classes} classes, and "
            f"{teacher.name} tells {dim} {'others' if dim == inputs.num_classes else ''} apart; "
            "use kd_weight=0"
        )


def _fit_negatives(wanted: int | None, num_samples: int) -> int:
    if wanted is not None:
        return wanted
    count = min(USUAL_NEGATIVES, num_samples - 1)
    if count < USUAL_NEGATIVES:
        note(f"{count} negatives instead of {USUAL_NEGATIVES}: there are {num_samples} photos")
    return count


METHOD = Crd
