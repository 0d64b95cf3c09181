"""Normalizations: as torch has them, from a package that coremltools wrote."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from support.coreml_operations import ALPHA, BETA, Case, Interpret, check, values

GAMMA = np.array([1.5, 0.5, -1.0], np.float32)
VARIANCE = np.array([0.5, 1.0, 2.0], np.float32)


NORMALIZATIONS: dict[str, Case] = {
    "batch_norm": (
        lambda mb, x: mb.batch_norm(
            x=x, mean=ALPHA, variance=VARIANCE, gamma=GAMMA, beta=BETA, epsilon=1e-3
        ),
        lambda x: F.batch_norm(
            x,
            torch.from_numpy(ALPHA),
            torch.from_numpy(VARIANCE),
            torch.from_numpy(GAMMA),
            torch.from_numpy(BETA),
            eps=1e-3,
        ),
    ),
    "batch_norm:plain": (
        lambda mb, x: mb.batch_norm(x=x, mean=ALPHA, variance=VARIANCE),
        lambda x: F.batch_norm(x, torch.from_numpy(ALPHA), torch.from_numpy(VARIANCE)),
    ),
    "instance_norm": (
        lambda mb, x: mb.instance_norm(x=x, gamma=GAMMA, beta=BETA, epsilon=1e-3),
        lambda x: F.instance_norm(
            x, weight=torch.from_numpy(GAMMA), bias=torch.from_numpy(BETA), eps=1e-3
        ),
    ),
    "layer_norm": (
        lambda mb, x: mb.layer_norm(
            x=x, axes=[-1], gamma=np.arange(5, dtype=np.float32), epsilon=1e-3
        ),
        lambda x: F.layer_norm(x, [5], torch.arange(5.0), eps=1e-3),
    ),
    "layer_norm:channels": (
        lambda mb, x: mb.layer_norm(x=x, axes=[1], gamma=GAMMA, beta=BETA),
        lambda x: F.layer_norm(
            x.movedim(1, -1), [3], torch.from_numpy(GAMMA), torch.from_numpy(BETA)
        ).movedim(-1, 1),
    ),
    "l2_norm": (
        lambda mb, x: mb.l2_norm(x=x, epsilon=1e-3),
        lambda x: x / (x.square().sum((1, 2, 3), keepdim=True) + 1e-3).sqrt(),
    ),
    "local_response_norm": (
        lambda mb, x: mb.local_response_norm(x=x, size=3, alpha=0.5, beta=0.6, k=1.5),
        lambda x: F.local_response_norm(x, 3, 0.5, 0.6, 1.5),
    ),
}


def test_normalizations(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, NORMALIZATIONS, values(2, 3, 4, 5))
