"""Reads the files that the authors of self-supervised methods publish, and sorts their weights.

Every weight ends in one of three places: the trunk, a head, or `set_aside` with the reason. What is
in the trunk must then fit the network exactly (`_loading.py`).
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from edgeseed.core.checkpoints import below_common_prefix, is_state, unwrap
from edgeseed.core.errors import ArtifactError
from edgeseed.distill.teachers.heads import (
    Weights,
    below,
    dino_head_from_weights,
    mlp_from_weights,
    prototypes_from_weights,
)

Layout = Literal["dino", "dinov2", "esvit", "moco", "mocov3", "swav", "simclrv2", "plain"]
"""Whose code wrote a file; "plain" is a bare state dict, as timm and torchvision write it."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A file's weights, sorted.

    Attributes:
        layout: Whose format it is.
        trunk: Weights of the network below its heads, named as its own code names them.
        heads: The heads, rebuilt; see `Teacher.heads`.
        set_aside: Name -> why a weight is not used.
    """

    layout: Layout
    trunk: dict[str, torch.Tensor]
    heads: dict[str, nn.Module] = field(default_factory=dict)
    set_aside: dict[str, str] = field(default_factory=dict)


def parse_checkpoint(
    content: Any,
    *,
    path: Path,
    classifiers: Iterable[str] = (),
    expected: Collection[str] = (),
) -> Checkpoint:
    """Recognises a checkpoint's format and sorts its weights.

    Args:
        content: What `read_weights` returned.
        path: For messages.
        classifiers: Names of the layers that are the network's classifier, beside the usual ones.
        expected: Names of the network's own weights, by which a common prefix is known.

    Raises:
        ArtifactError: If it holds no weights, or a head that cannot be rebuilt.
    """
    if (
        isinstance(content, Mapping)
        and is_state(content.get("resnet"))
        and is_state(content.get("head"))
    ):
        return _simclr(content)
    weights, set_aside = unwrap(content, path=path)
    if any(name.startswith("encoder_q.") for name in weights):
        return _two_encoders(weights, "encoder_q.", layout="moco", classifiers=classifiers)
    if any(name.startswith("base_encoder.") for name in weights):
        return _two_encoders(weights, "base_encoder.", layout="mocov3", classifiers=classifiers)
    weights, copies = _without_prefix(weights, expected)
    set_aside |= copies
    trunk, heads, more_aside = _split(weights, classifiers)
    layout = _layout_of(trunk, heads)
    return Checkpoint(
        layout=layout,
        trunk=_unchunk(trunk) if layout == "dinov2" else trunk,
        heads=_rebuild(heads),
        set_aside={**set_aside, **more_aside},
    )


def _without_prefix(
    weights: Weights, expected: Collection[str]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The weights without a prefix such as `teacher.backbone.`, and why others are not used.

    What lies elsewhere is kept, as a head or to be reported, unless it is the same network again.
    """
    found = below_common_prefix(weights, expected)
    if not found.prefix:
        return dict(weights), {}
    copies = {
        name: f"another copy of the network; {found.prefix} is used"
        for name in found.others
        if any(name.endswith(f".{known}") for known in found.weights)
    }
    others = {name: value for name, value in found.others.items() if name not in copies}
    return {**others, **found.weights}, copies


def _two_encoders(
    weights: Weights, prefix: str, *, layout: Layout, classifiers: Iterable[str]
) -> Checkpoint:
    reasons = {
        "encoder_k.": "MoCo's momentum encoder; the query encoder is used, as its authors "
        "evaluate it",
        "queue": "MoCo's queue of negatives",
        "momentum_encoder.": "MoCo-v3's momentum encoder; the base encoder is used, as its "
        "authors evaluate it",
        "predictor.": "MoCo-v3's predictor, which sits on one branch of its loss only",
    }
    used = below(weights, prefix)
    set_aside = {
        name: reason
        for name in weights
        for start, reason in reasons.items()
        if name.startswith(start)
    }
    trunk, heads, more_aside = _split(used, classifiers)
    # Whatever is in neither namespace stays in the trunk, where it will be reported as unexpected.
    trunk |= {
        name: weights[name]
        for name in weights
        if not name.startswith(prefix) and name not in set_aside
    }
    if (
        "classifier" in heads
    ):  # MoCo v1 projects with a single layer, under the name of the classifier
        heads["projection"] = heads.pop("classifier")
    return Checkpoint(
        layout=layout, trunk=trunk, heads=_rebuild(heads), set_aside={**set_aside, **more_aside}
    )


_HEAD_PREFIXES = (
    (re.compile(r"(?:dino_head\.|head\.(?=mlp\.|last_layer\.))"), "dino"),
    (re.compile(r"head_dense\."), "region"),
    (re.compile(r"projection_head\."), "projection"),
    (re.compile(r"prototypes\."), "prototypes"),
    (re.compile(r"(?:fc|head)\.(?=\d+\.)"), "projection"),
)
_ASIDE = (
    (re.compile(r"ibot_head\.|head\.(?:mlp2|last_layer2)\."), "iBOT's head for masked patches"),
    (
        re.compile(r"(?:.*\.)?(?:relative_position_index|attn_mask)"),
        "computed from the window size, not learnt",
    ),
    (re.compile(r"masked_embed"), "iBOT's mask token, used in its training only"),
)  # fmt: skip
_USUAL_CLASSIFIERS = ("fc", "head", "head.fc", "classifier")


def _split(
    weights: Weights, classifiers: Iterable[str]
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, torch.Tensor]], dict[str, str]]:
    trunk: dict[str, torch.Tensor] = {}
    heads: dict[str, dict[str, torch.Tensor]] = {}
    set_aside: dict[str, str] = {}
    for name, tensor in weights.items():
        reason = next((why for pattern, why in _ASIDE if pattern.match(name)), None)
        kind, rest = _head_of(name, (*_USUAL_CLASSIFIERS, *classifiers))
        if reason is not None:
            set_aside[name] = reason
        elif kind is not None:
            heads.setdefault(kind, {})[rest] = tensor
        else:
            trunk[_without_wrapper(name)] = tensor
    return trunk, heads, set_aside


def _head_of(name: str, classifiers: Iterable[str]) -> tuple[str | None, str]:
    for pattern, kind in _HEAD_PREFIXES:
        match = pattern.match(name)
        if match:
            return kind, name[match.end() :]
    layer, _, last = name.rpartition(".")
    return (
        ("classifier", last)
        if layer in classifiers and last in ("weight", "bias")
        else (None, name)
    )


def _without_wrapper(name: str) -> str:
    """Without the names of DINO's multi-crop wrapper (and EsViT's second one around a ResNet)."""
    return name.removeprefix("backbone.").removeprefix("backbone.")


def _layout_of(trunk: Weights, heads: Mapping[str, Any]) -> Layout:
    if "mask_token" in trunk or "register_tokens" in trunk:
        return "dinov2"
    if "region" in heads:
        return "esvit"
    if "dino" in heads:
        return "dino"
    if "projection" in heads or "prototypes" in heads:
        return "swav"
    return "plain"


def _unchunk(trunk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """DINOv2 trains its blocks in chunks, `blocks.CHUNK.BLOCK.`; BLOCK counts through."""
    return {
        re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name): value
        for name, value in trunk.items()
    }


def _mlp_with_relu(weights: Weights) -> nn.Module:
    return mlp_from_weights(weights, activation=nn.ReLU)


_REBUILD: dict[str, Callable[[Weights], nn.Module]] = {
    "dino": dino_head_from_weights,
    "region": dino_head_from_weights,
    "projection": _mlp_with_relu,
    "prototypes": prototypes_from_weights,
    "classifier": _mlp_with_relu,
}


def _rebuild(heads: Mapping[str, Weights]) -> dict[str, nn.Module]:
    return {kind: _REBUILD[kind](weights) for kind, weights in heads.items()}


def _simclr(content: Mapping[str, Any]) -> Checkpoint:
    trunk, heads, set_aside = _split(content["resnet"], ())
    heads["projection"] = below(content["head"], "layers.")
    set_aside |= {
        name: "not needed beside 'resnet' and 'head'"
        for name in content
        if name not in ("resnet", "head")
    }
    left = [name for name in content["head"] if not name.startswith("layers.")]
    if left:
        raise ArtifactError(f"SimCLRv2's head holds {', '.join(left)}; only layers.* was expected")
    return Checkpoint(layout="simclrv2", trunk=trunk, heads=_rebuild(heads), set_aside=set_aside)
