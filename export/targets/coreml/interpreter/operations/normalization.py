"""Normalizations, each by the formula of Core ML's operation reference."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseed.export.targets.coreml.interpreter.operations._arguments import (
    integers_or,
    per_channel,
)


def _scale_and_shift(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    if gamma is not None:
        x = x * gamma
    return x if beta is None else x + beta


def _standardize(x: Tensor, axes: list[int], epsilon: Tensor | None) -> Tensor:
    variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    return (x - mean) / torch.sqrt(variance + (1e-5 if epsilon is None else epsilon))


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """gamma_c * (x - mean_c) / sqrt(variance_c + epsilon) + beta_c. x: (B, C, ...)."""
    deviation = torch.sqrt(variance + (1e-5 if epsilon is None else epsilon))
    scale = 1 / deviation if gamma is None else gamma / deviation
    centred = x - per_channel(mean, x.ndim)
    shift = None if beta is None else per_channel(beta, x.ndim)
    return _scale_and_shift(centred, per_channel(scale, x.ndim), shift)


def instance_norm(
    x: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """Each channel of each image to mean 0 and variance 1, then scale and shift. x: (B, C, ...)."""
    return _scale_and_shift(
        _standardize(x, list(range(2, x.ndim)), epsilon),
        None if gamma is None else per_channel(gamma, x.ndim),
        None if beta is None else per_channel(beta, x.ndim),
    )


def layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | None = None,
) -> Tensor:
    """The given axes together to mean 0 and variance 1, then scale and shift of their shape."""
    chosen = sorted(axis % x.ndim for axis in integers_or(axes, range(x.ndim)))
    shape = [size if axis in chosen else 1 for axis, size in enumerate(x.shape)]
    return _scale_and_shift(
        _standardize(x, chosen, epsilon),
        None if gamma is None else gamma.reshape(shape),
        None if beta is None else beta.reshape(shape),
    )


def l2_norm(x: Tensor, epsilon: Tensor | None = None) -> Tensor:
    """X / sqrt(sum(x^2) + epsilon), summed over the last three axes."""
    energy = x.square().sum((-3, -2, -1), keepdim=True)
    return x / torch.sqrt(energy + (1e-6 if epsilon is None else epsilon))


def local_response_norm(
    x: Tensor,
    size: Tensor,
    alpha: Tensor | None = None,
    beta: Tensor | None = None,
    k: Tensor | None = None,
) -> Tensor:
    """X / (k + alpha / size * sum over `size` neighbouring channels of x^2)^beta."""
    return F.local_response_norm(
        x,
        int(size),
        alpha=1e-4 if alpha is None else float(alpha),
        beta=0.75 if beta is None else float(beta),
        k=1.0 if k is None else float(k),
    )


OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "batch_norm": batch_norm,
    "instance_norm": instance_norm,
    "l2_norm": l2_norm,
    "layer_norm": layer_norm,
    "local_response_norm": local_response_norm,
}
