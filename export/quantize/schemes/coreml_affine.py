"""Core ML from iOS 17 on, with a free zero point: finer steps where values lie on one side of zero.

SiLU and hard-swish give at most -0.28 and -0.38 below zero and anything above: around a zero in the
middle, nearly half of the integers are never used. Core ML's `quantize` takes any zero point.
Whether the Neural Engine is as fast with it as with `coreml` could not be measured here (no Mac).
"""

import dataclasses

import torch

from edgeseed.export.quantize.scheme import INT8
from edgeseed.export.quantize.schemes.coreml import SCHEME as SYMMETRIC

_ACTIVATION = dataclasses.replace(INT8, scale_dtype=torch.float16)

SCHEME = dataclasses.replace(SYMMETRIC, name="coreml-affine", activation=_ACTIVATION)
