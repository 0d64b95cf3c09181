"""Heads are read from weights."""

import pytest
import torch
from torch import nn

from edgeseed.core.errors import (
    ArtifactError,
)
from edgeseed.distill.teachers.heads import mlp_from_weights


def test_a_head_that_is_no_mlp_is_refused() -> None:
    with pytest.raises(ArtifactError, match="no MLP"):
        mlp_from_weights({"attention.weight": torch.zeros(2, 2)}, activation=nn.ReLU)
