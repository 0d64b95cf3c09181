"""A linear probe on frozen features, at many learning rates in the same pass.

Published learning rates for small networks differ by a factor of ten (30 for ResNets, 3 for
EfficientNets), and the best one depends on the features' scale. So every feature is standardised
by the training photos' mean and deviation (as a BatchNorm without parameters would, MAE, 2021,
arXiv 2111.06377; with a floor, see `_FLOOR`), and all rates are tried at once: a probe per rate
costs one wider matrix product.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

_CONSTANT = 1e-6
_FLOOR = 0.1
"""Least deviation of a feature that is made 1, relative to the root of the mean variance."""
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearSettings:
    """SGD with momentum on the softmax cross-entropy, cosine to zero, weights start at zero.

    Attributes:
        lrs: Learning rates for a batch of `batch_size`; one probe each.
        epochs: Passes over the training features.
        min_steps: The least number of updates: small sets get more epochs.
        batch_size: Features an update.
        momentum: Of SGD.
        weight_decay: Of the weights, not the bias.
        validation_share: Of the training photos, held out to choose the rate.
    """

    lrs: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    epochs: int = 30
    min_steps: int = 1000
    batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 0.0
    validation_share: float = 0.1

    def __post_init__(self) -> None:
        if not self.lrs or min(self.lrs) <= 0:
            raise ValueError(f"lrs={self.lrs} must be at least one rate, each above 0")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share={self.validation_share} must be between 0 and 1")

    def num_epochs(self, num_photos: int) -> int:
        """Passes over a set of this size."""
        steps = math.ceil(num_photos / self.batch_size)
        return max(self.epochs, math.ceil(self.min_steps / steps))


@dataclass(frozen=True, kw_only=True)
class LinearProbes:
    """One trained probe per learning rate, on raw features.

    Attributes:
        weight: (L, C, D).
        bias: (L, C).
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """Maps (N, D) raw features to (L, N, C) logits."""
        num_lrs, num_classes, _ = self.weight.shape
        flat = F.linear(features, self.weight.flatten(0, 1), self.bias.flatten())
        logits: torch.Tensor = flat.reshape(len(features), num_lrs, num_classes).transpose(0, 1)
        return logits


def train_linear_probes(
    features: torch.Tensor,
    labels: torch.Tensor,
    *,
    num_classes: int,
    settings: LinearSettings,
    seed: int,
) -> LinearProbes:
    """Trains a probe for each learning rate of `settings`; the probes do not influence each other.

    Args:
        features: (N, D) raw features.
        labels: (N,) class indices.
        num_classes: C.
        settings: The protocol.
        seed: Of the order of the photos.

    Returns:
        The probes, with the standardisation folded into their weights.
    """
    features = features.float()
    mean = features.mean(dim=0)
    # A feature that hardly varies must not be blown up: int8, whose steps are the same for all
    # features, would drown it (seen: 41 % error of the logits from this one layer).
    variance = features.var(dim=0, correction=0)
    scale = (variance + _FLOOR**2 * variance.mean()).rsqrt()
    varies = variance.sqrt() > _CONSTANT * features.abs().amax(dim=0)
    scale = torch.where(varies, scale, 0.0)
    weight, bias = _descend((features - mean) * scale, labels, num_classes, settings, seed)
    raw_weight = weight.double() * scale.double()
    raw_bias = bias.double() - raw_weight @ mean.double()
    return LinearProbes(weight=raw_weight.float(), bias=raw_bias.float())


def _descend(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    settings: LinearSettings,
    seed: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    # L learning rates, C classes, D features, B batch
    num_lrs, (num_photos, dim) = len(settings.lrs), inputs.shape
    weight = inputs.new_zeros(num_lrs, num_classes, dim)
    bias = inputs.new_zeros(num_lrs, num_classes)
    velocities = torch.zeros_like(weight), torch.zeros_like(bias)
    lrs = inputs.new_tensor(settings.lrs)
    generator = torch.Generator().manual_seed(seed)
    epochs = settings.num_epochs(num_photos)
    num_steps = epochs * math.ceil(num_photos / settings.batch_size)
    step = 0
    for _ in range(epochs):
        for batch in torch.randperm(num_photos, generator=generator).split(settings.batch_size):
            batch = batch.to(inputs.device)
            decay = 0.5 * (1 + math.cos(math.pi * step / num_steps))
            gradients = _gradients(weight, bias, inputs[batch], labels[batch])
            gradients[0].add_(weight, alpha=settings.weight_decay)
            for parameter, velocity, gradient in zip(
                (weight, bias), velocities, gradients, strict=True
            ):
                velocity.mul_(settings.momentum).add_(gradient)
                rate = (lrs * decay).view(-1, *[1] * (parameter.ndim - 1))
                parameter.sub_(rate * velocity)
            step += 1
    return weight, bias


def _gradients(
    weight: torch.Tensor, bias: torch.Tensor, inputs: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the mean cross-entropy, for each probe: (softmax - one-hot) times the inputs."""
    num_lrs, num_classes, _ = weight.shape
    logits = F.linear(inputs, weight.flatten(0, 1), bias.flatten())  # (B, L * C)
    error = logits.unflatten(1, (num_lrs, num_classes)).softmax(dim=2)
    error -= F.one_hot(labels, num_classes).to(error.dtype)[:, None]
    error /= len(inputs)
    return (error.flatten(1).T @ inputs).unflatten(0, (num_lrs, num_classes)), error.sum(dim=0)


def score_probes(
    probes: LinearProbes, features: torch.Tensor, labels: torch.Tensor
) -> list[tuple[float, float]]:
    """Top-1 accuracy and mean cross-entropy of each probe, without holding all logits at once."""
    num_right = torch.zeros(len(probes.weight), dtype=torch.int64)
    loss = torch.zeros(len(probes.weight), dtype=torch.float64)
    for part, expected in zip(
        features.split(_ROWS_AT_ONCE), labels.split(_ROWS_AT_ONCE), strict=True
    ):
        logits = probes.logits(part)  # (L, N, C)
        num_right += (logits.argmax(dim=2) == expected).sum(dim=1).cpu()
        many = expected.expand(len(logits), -1)
        losses = F.cross_entropy(logits.transpose(1, 2), many, reduction="none")
        loss += losses.sum(dim=1).double().cpu()
    count = len(labels)
    return [
        (int(right) / count, float(total) / count)
        for right, total in zip(num_right, loss, strict=True)
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class RateResult:
    """What one learning rate came to.

    Attributes:
        lr: The rate.
        validation_top1: On the held-out slice of the training photos, when trained on the rest.
        test_top1: On the test photos, when trained on all training photos.
    """

    lr: float
    validation_top1: float
    test_top1: float


@dataclass(frozen=True, kw_only=True)
class LinearResult:
    """A probe whose learning rate was chosen without the test photos.

    Attributes:
        rates: All learning rates, in order.
        chosen: Index of the rate with the best validation accuracy (of equals, the lowest loss).
        weight: (C, D) of the chosen probe, for raw features.
        bias: (C,).
        test_logits: (Q, C) of the chosen probe.
        num_epochs: Passes that were made over the training features.
    """

    rates: tuple[RateResult, ...]
    chosen: int
    weight: torch.Tensor
    bias: torch.Tensor
    test_logits: torch.Tensor
    num_epochs: int


def probe_linearly(
    train: torch.Tensor,
    train_labels: torch.Tensor,
    test: torch.Tensor,
    test_labels: torch.Tensor,
    *,
    validation: torch.Tensor,
    num_classes: int,
    settings: LinearSettings,
    seed: int,
) -> LinearResult:
    """Chooses a learning rate on held-out training photos, trains on all of them, and tests once.

    Args:
        train: (N, D) features.
        train_labels: (N,) class indices.
        test: (Q, D) features.
        test_labels: (Q,) class indices.
        validation: (N,) bool, which training photos are held out to choose the rate.
        num_classes: C.
        settings: The protocol.
        seed: Of the order of the photos.
    """
    trial = train_linear_probes(
        train[~validation],
        train_labels[~validation],
        num_classes=num_classes,
        settings=settings,
        seed=seed,
    )
    held_out = score_probes(trial, train[validation], train_labels[validation])
    order = sorted(
        range(len(settings.lrs)), key=lambda index: (-held_out[index][0], held_out[index][1])
    )
    final = train_linear_probes(
        train, train_labels, num_classes=num_classes, settings=settings, seed=seed
    )
    tested = score_probes(final, test, test_labels)
    rates = [
        RateResult(lr=lr, validation_top1=validated[0], test_top1=test_scores[0])
        for lr, validated, test_scores in zip(settings.lrs, held_out, tested, strict=True)
    ]
    chosen = order[0]
    return LinearResult(
        rates=tuple(rates),
        chosen=chosen,
        weight=final.weight[chosen],
        bias=final.bias[chosen],
        test_logits=F.linear(test, final.weight[chosen], final.bias[chosen]),
        num_epochs=settings.num_epochs(len(train)),
    )
