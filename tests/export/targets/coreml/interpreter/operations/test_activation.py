"""Activations: as torch has them, from a package that coremltools wrote."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from support.coreml_operations import ALPHA, BETA, Case, Interpret, check, values
from torch import Tensor


def channels(vector: Any) -> Tensor:
    return torch.from_numpy(np.asarray(vector)).reshape(1, -1, 1, 1)


ACTIVATIONS_WITH_SETTINGS: dict[str, Case] = {
    "clamped_relu": (
        lambda mb, x: mb.clamped_relu(x=x, alpha=0.3, beta=1.2),
        lambda x: torch.where(x >= 0, x, 0.3 * x).clamp(max=1.2),
    ),
    "clip": (lambda mb, x: mb.clip(x=x, alpha=-0.5, beta=1.0), lambda x: x.clamp(-0.5, 1)),
    "elu": (lambda mb, x: mb.elu(x=x, alpha=0.7), lambda x: F.elu(x, 0.7)),
    "gelu": (lambda mb, x: mb.gelu(x=x, mode="EXACT"), F.gelu),
    "gelu:tanh": (
        lambda mb, x: mb.gelu(x=x, mode="TANH_APPROXIMATION"),
        lambda x: F.gelu(x, approximate="tanh"),
    ),
    "gelu:sigmoid": (
        lambda mb, x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"),
        lambda x: x * torch.sigmoid(1.702 * x),
    ),
    "leaky_relu": (lambda mb, x: mb.leaky_relu(x=x, alpha=0.1), lambda x: F.leaky_relu(x, 0.1)),
    "linear_activation": (
        lambda mb, x: mb.linear_activation(x=x, alpha=2.0, beta=-1.0),
        lambda x: 2 * x - 1,
    ),
    "prelu": (
        lambda mb, x: mb.prelu(x=x, alpha=ALPHA),
        lambda x: F.prelu(x, torch.from_numpy(ALPHA)),
    ),
    "scaled_tanh": (
        lambda mb, x: mb.scaled_tanh(x=x, alpha=1.7, beta=0.6),
        lambda x: 1.7 * torch.tanh(0.6 * x),
    ),
    "sigmoid_hard": (
        lambda mb, x: mb.sigmoid_hard(x=x, alpha=1 / 6, beta=0.5),
        lambda x: F.hardsigmoid(x),
    ),
    "softmax": (lambda mb, x: mb.softmax(x=x, axis=1), lambda x: x.softmax(1)),
    "softmax:default": (lambda mb, x: mb.softmax(x=x), lambda x: x.softmax(-1)),
    "softplus_parametric": (
        lambda mb, x: mb.softplus_parametric(x=x, alpha=ALPHA, beta=BETA),
        lambda x: channels(ALPHA) * torch.log1p(torch.exp(channels(BETA) * x)),
    ),
    "threshold": (lambda mb, x: mb.threshold(x=x, alpha=0.2), lambda x: x.clamp(min=0.2)),
    "thresholded_relu": (
        lambda mb, x: mb.thresholded_relu(x=x, alpha=0.4),
        lambda x: torch.where(x >= 0.4, x, 0 * x),
    ),
}


def test_activations_with_settings(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, ACTIVATIONS_WITH_SETTINGS, values(2, 3, 4, 5))
