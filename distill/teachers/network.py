"""The frozen network that a teacher is, with what one must know to use it rightly."""

import hashlib
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import nn

from edgeseed.core.preprocess import Preprocess


class TeacherOutput(NamedTuple):
    """What a teacher says of a batch.

    Attributes:
        embedding: (B, D) pooled features of the trunk, not normalised.
        features: (B, C, h, w) last feature map, or None where the network has none.
    """

    embedding: torch.Tensor
    features: torch.Tensor | None


class Teacher(nn.Module):
    """A frozen network: in eval mode for ever, without gradients.

    Attributes:
        name: The spec that it was loaded by.
        embedding_dim: D, the length of an embedding.
        preprocess: The input that it was trained on; its images are normalised by *this* mean and
        std.
        pooling: How the embedding is made of the map: "cls", "avg", ...
        licence: Of the weights.
        commercial_ok: Whether the licence allows commercial use; None where that must be read in
        it.
        heads: The heads that came with the weights, each a module on top of the embedding:
            "projection" (MoCo, MoCo-v3, SwAV, SimCLRv2: embedding -> un-normalised projection),
            "prototypes" (SwAV: normalised projection -> scores), "dino" (embedding -> scores),
            "region" (EsViT: region feature -> scores), "classifier" (embedding -> logits).
        head_kind: Which of `heads` is `head`, or None.
        classes: What the classifier's outputs mean, where it says so.
        digest: SHA-256 of all weights, trunk and heads.
    """

    def __init__(
        self,
        trunk: nn.Module,
        *,
        name: str,
        embedding_dim: int,
        preprocess: Preprocess,
        pooling: str,
        licence: str,
        commercial_ok: bool | None,
        heads: Mapping[str, nn.Module] | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict(dict(heads or {}))
        self.name = name
        self.embedding_dim = embedding_dim
        self.preprocess = preprocess
        self.pooling = pooling
        self.licence = licence
        self.commercial_ok = commercial_ok
        self.classes = classes
        self.head_kind = next(
            (kind for kind in ("dino", "projection", "classifier") if kind in self.heads), None
        )
        self.requires_grad_(False)
        self.train(False)
        self.digest = weights_digest(self)

    @property
    def head(self) -> nn.Module | None:
        """The head that the teacher was trained with, where the weights brought one."""
        return None if self.head_kind is None else self.heads[self.head_kind]

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode: a teacher whose BatchNorm follows the batch is another teacher."""
        del mode
        return super().train(False)

    def forward(self, images: torch.Tensor) -> TeacherOutput:
        """Looks at (B, 3, H, W) images that are normalised with `self.preprocess`."""
        with torch.no_grad():
            embedding, features = self.trunk(images)
        return TeacherOutput(embedding, features)


def weights_digest(network: nn.Module) -> str:
    """The hex SHA-256 of a network's whole state: names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
