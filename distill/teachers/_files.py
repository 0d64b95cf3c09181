"""Teachers from files: every weight is accounted for, or the error says which one is not."""

import contextlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import nn

from edgeseed.core.checkpoints import describe_misfit, read_weights
from edgeseed.core.console import note
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.pretrained import check_all_used, pooling_arguments, say_guessed_pooling
from edgeseed.distill.teachers._checkpoints import Checkpoint, parse_checkpoint
from edgeseed.distill.teachers._licences import licence_of_file
from edgeseed.distill.teachers._simclr import build_simclr, is_simclr_name
from edgeseed.distill.teachers._table import LAYOUT_FAMILIES, find_teacher, pooling_of_architecture
from edgeseed.distill.teachers._timm import (
    build_timm,
    check_name,
    input_size,
    make_teacher,
    preprocess_of_timm,
)
from edgeseed.distill.teachers._wide import build_wide_resnet, is_wide_name
from edgeseed.distill.teachers.network import Teacher

_USUAL_SIZE = 224
_RESIZE_SHARE = 224 / 256
_CLASS_TOKEN_LAYOUTS = ("dino", "dinov2", "mocov3")


def load_file_teacher(name: str, path: Path, *, image_size: int | None) -> Teacher:
    """Loads a checkpoint into the architecture that the user named.

    Raises:
        UnknownNameError: If there is no such architecture.
        UsageError: If there is no such file.
        ArtifactError: If the file is broken or does not fit.
    """
    if is_simclr_name(name):
        return _load_simclr(name, path, image_size)
    if is_wide_name(name):
        return _load_wide(name, path, image_size)
    check_name(name)
    config = timm.get_pretrained_cfg(name)
    with torch.device("meta"):
        expected = timm.create_model(name.partition(".")[0]).state_dict().keys()
    checkpoint = parse_checkpoint(
        read_weights(path), path=path, classifiers=_classifiers(config), expected=expected
    )
    native = (_USUAL_SIZE,) if config is None else config.input_size
    info = find_teacher(name)
    size = input_size(image_size, info, native)
    pooling = pooling_arguments(name)
    if checkpoint.layout in _CLASS_TOKEN_LAYOUTS and name.startswith("vit_"):
        pooling = {"global_pool": "token"}
    arguments = {**pooling, **_window_arguments(checkpoint)}
    network = _load_timm(name, checkpoint, path=path, image_size=size, arguments=arguments)
    if checkpoint.layout not in _CLASS_TOKEN_LAYOUTS:
        _say_guessed_pooling(name, path, network)
    if checkpoint.layout == "plain":
        preprocess = preprocess_of_timm(network, image_size=size, info=info)
        _say_normalisation(name, path, network)
    else:
        preprocess = _official_preprocess(size)
    return make_teacher(
        network,
        name=f"{name}={path}",
        preprocess=preprocess,
        licence=licence_of_file(LAYOUT_FAMILIES.get(checkpoint.layout), info),
        heads=checkpoint.heads,
    )


def _classifiers(config: Any) -> tuple[str, ...]:
    classifier = getattr(config, "classifier", None) or ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _window_arguments(checkpoint: Checkpoint) -> dict[str, Any]:
    """A Swin's window in each stage, told by its weights: EsViT's W14 have no name of their own.

    Without it, timm would resample the biases to the window of the architecture, in silence.
    """
    windows = [
        (math.isqrt(len(table)) + 1) // 2
        for name, table in sorted(checkpoint.trunk.items())
        if re.fullmatch(r"layers\.\d+\.blocks\.0\.attn\.relative_position_bias_table", name)
    ]
    return {"window_size": tuple(windows)} if windows else {}


def _say_normalisation(name: str, path: Path, network: nn.Module) -> None:
    config = cast(Any, network).pretrained_cfg
    full_name = f"{config['architecture']}.{config.get('tag', '')}".rstrip(".")
    note(
        f"teacher {name}={path}: normalised as timm's {full_name} (mean {config['mean']}, std "
        f"{config['std']}); another tag in the name chooses another normalisation"
    )


def _say_guessed_pooling(name: str, path: Path, network: nn.Module) -> None:
    """Says so where a transformer might be pooled otherwise: nothing tells how it was trained."""
    has_choice = bool(getattr(network, "num_prefix_tokens", 0))
    if has_choice and pooling_of_architecture(name) is None:
        say_guessed_pooling(f"teacher {name}={path}", network)


def _official_preprocess(size: int) -> Preprocess:
    """All the official training codes normalise with ImageNet's mean and deviation."""
    return Preprocess(image_size=size, resize=round(size / _RESIZE_SHARE), interpolation="bicubic")


def _load_timm(
    name: str, checkpoint: Checkpoint, *, path: Path, image_size: int, arguments: Mapping[str, Any]
) -> nn.Module:
    weights = dict(checkpoint.trunk)
    if checkpoint.layout == "dinov2":
        # timm tells a DINOv2 file by its mask token; some exports leave that out.
        weights.setdefault("mask_token", torch.zeros(1))
    # timm's own loader knows how each architecture's old names map to new ones; with num_classes
    # equal on both sides it is strict.
    overlay = {"state_dict": weights, "num_classes": 0, "custom_load": False}
    try:
        # Some of timm's conversions print, and stdout belongs to results.
        with contextlib.redirect_stdout(None):
            network = build_timm(
                name,
                image_size,
                pretrained=True,
                num_classes=0,
                pretrained_cfg_overlay=overlay,
                **arguments,
            )
    except RuntimeError as error:
        raise describe_misfit(error, path=path, name=name) from error
    cast(Any, network).pretrained_cfg.pop("state_dict", None)
    check_all_used(network, checkpoint.trunk, path=path, name=name)
    return network


def _load_strictly(
    network: nn.Module, weights: Mapping[str, torch.Tensor], *, path: Path, name: str
) -> None:
    try:
        network.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise describe_misfit(error, path=path, name=name) from error


def _load_wide(name: str, path: Path, image_size: int | None) -> Teacher:
    checkpoint = parse_checkpoint(read_weights(path), path=path)
    network = build_wide_resnet(checkpoint.trunk, path=path)
    _load_strictly(network, checkpoint.trunk, path=path, name=name)
    return make_teacher(
        network,
        name=f"{name}={path}",
        preprocess=_official_preprocess(image_size or _USUAL_SIZE),
        licence=licence_of_file(LAYOUT_FAMILIES.get(checkpoint.layout), None),
        heads=checkpoint.heads,
    )


def _load_simclr(name: str, path: Path, image_size: int | None) -> Teacher:
    checkpoint = parse_checkpoint(read_weights(path), path=path)
    network = build_simclr(name)
    _load_strictly(network, checkpoint.trunk, path=path, name=name)
    licence = licence_of_file(LAYOUT_FAMILIES["simclrv2"], None)
    size = image_size or _USUAL_SIZE
    return Teacher(
        network,
        name=f"{name}={path}",
        embedding_dim=network.num_features,
        preprocess=Preprocess(
            image_size=size,
            resize=round(size / _RESIZE_SHARE),
            interpolation="bicubic",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        ),
        pooling="avg",
        licence=licence.text,
        commercial_ok=licence.commercial_ok,
        heads=checkpoint.heads,
    )
