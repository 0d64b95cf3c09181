"""Activation functions."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeseed.core.errors import WorkError
from edgeseed.export.targets.coreml.interpreter.operations._arguments import integer, per_channel


def clamped_relu(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """min(beta, x) where x >= 0, min(beta, alpha * x) elsewhere."""
    return torch.minimum(torch.where(x >= 0, x, alpha * x), beta)


def elu(x: Tensor, alpha: Tensor) -> Tensor:
    """X where x > 0, alpha * (e^x - 1) elsewhere."""
    return torch.where(x > 0, x, alpha * torch.expm1(torch.minimum(x, torch.zeros_like(x))))


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """The Gaussian error linear unit, exact or by one of Core ML's two approximations."""
    if mode == "EXACT":
        return F.gelu(x)
    if mode == "TANH_APPROXIMATION":
        return F.gelu(x, approximate="tanh")
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise WorkError(
        f"gelu has the mode {mode}; known: EXACT, TANH_APPROXIMATION, SIGMOID_APPROXIMATION"
    )


def leaky_relu(x: Tensor, alpha: Tensor) -> Tensor:
    """X where x >= 0, alpha * x elsewhere."""
    return torch.where(x >= 0, x, alpha * x)


def linear_activation(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Alpha * x + beta."""
    return alpha * x + beta


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """X where x > 0, alpha_c * x elsewhere. x: (B, C, ...), alpha: (C,)."""
    return torch.where(x > 0, x, per_channel(alpha, x.ndim) * x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return torch.relu(x)


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6)."""
    return torch.clamp(x, 0.0, 6.0)


def scaled_tanh(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Alpha * tanh(beta * x)."""
    return alpha * torch.tanh(beta * x)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + e^-x)."""
    return torch.sigmoid(x)


def sigmoid_hard(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """min(max(alpha * x + beta, 0), 1)."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def silu(x: Tensor) -> Tensor:
    """X * sigmoid(x)."""
    return F.silu(x)


def softmax(x: Tensor, axis: Tensor | None = None) -> Tensor:
    """e^x / sum(e^x) along an axis, the last where none is given."""
    return torch.softmax(x, dim=integer(axis, -1))


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x)."""
    return torch.logaddexp(x, torch.zeros_like(x))


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """alpha_c * log(1 + e^(beta_c * x)). x: (B, C, ...), alpha and beta: (C,)."""
    return per_channel(alpha, x.ndim) * softplus(per_channel(beta, x.ndim) * x)


def softsign(x: Tensor) -> Tensor:
    """X / (1 + |x|)."""
    return x / (1 + x.abs())


def thresholded_relu(x: Tensor, alpha: Tensor) -> Tensor:
    """X where x >= alpha, 0 elsewhere."""
    return torch.where(x >= alpha, x, torch.zeros_like(x))


OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "clamped_relu": clamped_relu,
    "elu": elu,
    "gelu": gelu,
    "leaky_relu": leaky_relu,
    "linear_activation": linear_activation,
    "prelu": prelu,
    "relu": relu,
    "relu6": relu6,
    "scaled_tanh": scaled_tanh,
    "sigmoid": sigmoid,
    "sigmoid_hard": sigmoid_hard,
    "silu": silu,
    "softmax": softmax,
    "softplus": softplus,
    "softplus_parametric": softplus_parametric,
    "softsign": softsign,
    "thresholded_relu": thresholded_relu,
}
