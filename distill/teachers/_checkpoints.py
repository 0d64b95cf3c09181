"""Reads the files that the authors of self-supervised methods publish, and sorts their weights.

Every weight ends in one of three places: the trunk, a head, or `set_aside` with the reason. What is
in the trunk must then fit the network exactly (`_loading.py`).
"""

import argparse
import collections
import pathlib
import pickle
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from edgeseed.core.errors import ArtifactError, UsageError
from edgeseed.distill.teachers.heads import (
    Weights,
    below,
    dino_head_from_weights,
    mlp_from_weights,
    prototypes_from_weights,
)

Layout = Literal["dino", "dinov2", "esvit", "moco", "mocov3", "swav", "simclrv2", "plain"]
"""Whose code wrote a file; "plain" is a bare state dict, as timm and torchvision write it."""

# Where training scripts keep the weights, the best first: a teacher is the average of its students.
_CONTAINERS = ("teacher", "state_dict_ema", "model_ema", "state_dict", "model", "student")
# What else training scripts save: options and counters. None of them runs code when it is read.
_HARMLESS: tuple[Any, ...] = (
    argparse.Namespace,
    collections.OrderedDict,
    pathlib.PosixPath,
    pathlib.WindowsPath,
    np.dtype,
    np._core.multiarray.scalar,  # type: ignore[attr-defined]  # numpy's stubs leave it out
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
)


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


def read_weights(path: Path) -> Any:
    """Reads a `.safetensors` file, or a pickle that holds nothing but weights and plain values.

    Raises:
        UsageError: If there is no such file.
        ArtifactError: If it is broken, or wants to run code.
    """
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist or is not a file; a checkpoint (.pth, .pt, .safetensors) was "
            "expected"
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(str(path))
        with torch.serialization.safe_globals(list(_HARMLESS)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(_refusal(path, str(error))) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ArtifactError(
            f"{path} is not a whole checkpoint ({_one_line(error)}); it may be truncated: fetch "
            "it again"
        ) from error


def _refusal(path: Path, message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found is None:
        return f"{path} is not a PyTorch checkpoint; .pth, .pt and .safetensors files are read"
    return (
        f"{path} holds more than weights: it wants to load {found[1]}, which can run code on this "
        "machine, "
        "so it was not opened; where you trust its origin, save its state_dict alone (better: as "
        ".safetensors)"
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def parse_checkpoint(content: Any, *, path: Path, classifiers: Iterable[str] = ()) -> Checkpoint:
    """Recognises a checkpoint's format and sorts its weights.

    Args:
        content: What `read_weights` returned.
        path: For messages.
        classifiers: Names of the layers that are the network's classifier, beside the usual ones.

    Raises:
        ArtifactError: If it holds no weights, or a head that cannot be rebuilt.
    """
    if (
        isinstance(content, Mapping)
        and _is_state(content.get("resnet"))
        and _is_state(content.get("head"))
    ):
        return _simclr(content)
    weights, set_aside = _unwrap(content, path=path)
    weights = {_bare(name): tensor for name, tensor in weights.items()}
    if any(name.startswith("encoder_q.") for name in weights):
        return _two_encoders(weights, "encoder_q.", layout="moco", classifiers=classifiers)
    if any(name.startswith("base_encoder.") for name in weights):
        return _two_encoders(weights, "base_encoder.", layout="mocov3", classifiers=classifiers)
    trunk, heads, more_aside = _split(weights, classifiers)
    layout = _layout_of(trunk, heads)
    return Checkpoint(
        layout=layout,
        trunk=_unchunk(trunk) if layout == "dinov2" else trunk,
        heads=_rebuild(heads),
        set_aside={**set_aside, **more_aside},
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(item, torch.Tensor) for item in value.values())
    )


def _unwrap(content: Any, *, path: Path) -> tuple[Mapping[str, torch.Tensor], dict[str, str]]:
    if _is_state(content):
        return content, {}
    if isinstance(content, Mapping):
        for name in _CONTAINERS:
            if _is_state(content.get(name)):
                others = {key: f"not needed beside {name!r}" for key in content if key != name}
                return content[name], others
    found = (
        f"the entries {', '.join(map(str, list(content)[:8]))}"
        if isinstance(content, Mapping)
        else "no mapping"
    )
    raise ArtifactError(
        f"{path} holds {found}, but no state dict was found there; one of {', '.join(_CONTAINERS)} "
        "or a bare state dict was expected"
    )


def _bare(name: str) -> str:
    """Without the prefixes of DistributedDataParallel and torch.compile."""
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name


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
