"""From what a user writes behind `--teacher` to a frozen network that is certainly the right one."""

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError
from urllib.parse import urlsplit

import timm
import torch
from torch import nn

from edgeseed.core.console import say, warn
from edgeseed.core.errors import ArtifactError, ConfigError, UsageError, WorkError
from edgeseed.core.network import StudentNetwork, load_student, unknown_model
from edgeseed.core.preprocess import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocess
from edgeseed.distill.features import Features, check_image_size, extract
from edgeseed.distill.teachers._checkpoints import Checkpoint, parse_checkpoint, read_weights
from edgeseed.distill.teachers._hub import load_hub_trunk
from edgeseed.distill.teachers._network import Teacher
from edgeseed.distill.teachers._simclr import build_simclr, is_simclr_name
from edgeseed.distill.teachers._table import (
    LAYOUT_FAMILIES,
    TeacherInfo,
    find_teacher,
    list_teachers,
)
from edgeseed.distill.teachers._wide import build_wide_resnet, is_wide_name

_LISTED = 6


class TimmTrunk(nn.Module):
    """A timm network without its classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Features:
        """Maps (B, 3, H, W) normalised images to embeddings and maps."""
        return extract(self.network, images)


class StudentTrunk(nn.Module):
    """A distilled network, which now teaches."""

    def __init__(self, network: StudentNetwork) -> None:
        super().__init__()
        self.network = network.backbone

    def forward(self, images: torch.Tensor) -> Features:
        """Maps (B, 3, H, W) normalised images to embeddings and maps."""
        return extract(self.network, images)


def load_teacher(spec: str, *, image_size: int | None = None) -> Teacher:
    """Loads a frozen network.

    Args:
        spec: One of
            `NAME`, a timm model with its pretrained tag, such as `vit_base_patch14_reg4_dinov2.lvd142m`;
            `NAME=PATH`, that architecture with a checkpoint of its own: the files of DINO, DINOv2, iBOT,
            EsViT, MoCo, MoCo-v3, SwAV (`resnet50w2=...` too), SimCLRv2 (`simclrv2_r50_1x_sk0=...`), or a
            bare state dict;
            `PATH.safetensors`, a student that edgeseed trained;
            `hub:REPO:ENTRY`, from `torch.hub` or a local clone.
        image_size: Height and width of its input, in pixels. By default what suits it best; a
            transformer's position embeddings are resampled.

    Returns:
        The teacher, in eval mode and without gradients, on the CPU. Its licence was said aloud.

    Raises:
        UnknownNameError: If timm has no such model.
        ConfigError: If `image_size` does not suit it.
        UsageError: If a file does not exist.
        ArtifactError: If the file's weights do not fit, with what is missing and what is unexpected.
        WorkError: If weights had to be fetched and could not be.
    """
    teacher = load_network(spec, image_size=image_size)
    _say_licence(teacher)
    return teacher


def load_network(spec: str, *, image_size: int | None = None) -> Teacher:
    """Loads a frozen network as `load_teacher` does, for looking at it rather than learning from it."""
    if image_size is not None and image_size < 1:
        raise ConfigError(f"image_size={image_size} must be at least 1 pixel")
    if spec.startswith("hub:"):
        return _from_hub(spec, image_size)
    if "=" in spec:
        name, _, path = spec.partition("=")
        return _from_checkpoint(spec, name, Path(path).expanduser(), image_size)
    if spec.endswith(".safetensors"):
        return _from_student(spec, image_size)
    if spec.endswith((".pth", ".pt", ".pth.tar", ".bin")):
        raise UsageError(
            f"teacher {spec} is a checkpoint that does not say its architecture; write NAME={spec}"
        )
    return _from_timm(spec, image_size)


def _say_licence(teacher: Teacher) -> None:
    use = {
        True: "commercial use allowed",
        False: "NO commercial use",
        None: "whether commercial use is allowed must be read there",
    }
    line = f"teacher {teacher.name}: licence {teacher.licence}; {use[teacher.commercial_ok]}"
    (warn if teacher.commercial_ok is False else say)(line)


# --------------------------------------------------------------------------- timm's own weights


def _from_timm(name: str, image_size: int | None) -> Teacher:
    _check_name(name)
    config = timm.get_pretrained_cfg(name)
    if config is None or not (config.has_weights or config.hf_hub_id):
        raise UsageError(f"teacher {name}: timm has no weights of it; give a file: {name}=PATH")
    full_name = f"{name.partition('.')[0]}.{config.tag}" if config.tag else name
    info = find_teacher(full_name)
    # The classifier is built and dropped after loading: with it, timm loads strictly, without it not.
    network = _build_timm(
        full_name,
        _native_or(image_size, info, config),
        pretrained=True,
        **_pooling(info),
        **_source(full_name, config),
    )
    cast(Any, network).reset_classifier(0)
    licence, commercial_ok = _licence(info, config.license)
    return _timm_teacher(
        network,
        name=full_name,
        image_size=image_size,
        info=info,
        licence=licence,
        commercial_ok=commercial_ok,
    )


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise _unknown_teacher(name)
    if tag and name not in timm.list_pretrained(f"{architecture}.*"):
        tags = sorted(full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*"))
        raise UsageError(
            f"teacher {name}: {architecture} has no weights tagged {tag!r}; timm has: {', '.join(tags) or 'none'}"
        )


def _unknown_teacher(name: str) -> Exception:
    return unknown_model("teacher", name)


def _native_or(image_size: int | None, info: TeacherInfo | None, config: Any) -> int:
    if image_size is not None:
        return image_size
    return info.image_size if info is not None else int(config.input_size[-1])


def _pooling(info: TeacherInfo | None) -> dict[str, Any]:
    # timm averages the tokens of DINOv3 and its kin; their authors use the class token.
    is_vit = info is not None and info.name.startswith("vit_")
    return {"global_pool": "token"} if is_vit and info is not None and info.pooling == "cls" else {}


def _build_timm(name: str, image_size: int, **kwargs: Any) -> nn.Module:
    """Builds a network for an input of `image_size`, whatever its class calls that."""
    for sizes in ({"img_size": image_size, "dynamic_img_size": True}, {"img_size": image_size}, {}):
        try:
            network = timm.create_model(name, **sizes, **kwargs)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error) or not any(
                f"'{key}'" in str(error) for key in sizes
            ):
                raise
        except (OSError, URLError) as error:
            raise _cannot_fetch(name, error) from error
        else:
            check_image_size(f"teacher {name}", network, image_size)
            return cast(nn.Module, network)
    raise AssertionError(f"timm.create_model({name!r}) took no arguments at all")


def _source(name: str, config: Any) -> dict[str, Any]:
    """Where timm shall find the weights: a file in the local cache needs no network at all."""
    from huggingface_hub import try_to_load_from_cache

    if not config.hf_hub_id:
        return {}
    for file_name in ("model.safetensors", "pytorch_model.bin"):
        cached = try_to_load_from_cache(config.hf_hub_id, file_name)
        if isinstance(cached, str):
            return {"pretrained_cfg_overlay": {"file": cached, "custom_load": False}}
    _check_network(name)
    return {}


def _check_network(name: str) -> None:
    # Without a resolver the hub's client would retry for most of a minute, and say so each time.
    if any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise _cannot_fetch(name, error) from error


def _cannot_fetch(name: str, error: BaseException) -> WorkError:
    return WorkError(
        f"teacher {name}: its weights are not in the local cache and cannot be fetched ({' '.join(str(error).split())[:120]}); "
        f"fetch them where there is a network and give the file: --teacher {name}=PATH/model.safetensors"
    )


def _licence(info: TeacherInfo | None, stated: str | None) -> tuple[str, bool | None]:
    if info is not None:
        return info.licence, info.commercial_ok
    if stated is None:
        return "not stated by timm", None
    if any(word in stated for word in ("-nc", "noncommercial", "seer")):
        return stated, False
    return stated, True if stated in ("apache-2.0", "mit", "bsd-3-clause") else None


def _timm_teacher(
    network: nn.Module, *, name: str, image_size: int | None, info: TeacherInfo | None, licence: str,
    commercial_ok: bool | None, checkpoint: Checkpoint | None = None,
) -> Teacher:  # fmt: skip
    is_official = checkpoint is not None and checkpoint.layout != "plain"
    return Teacher(
        TimmTrunk(network),
        name=name,
        embedding_dim=_embedding_dim(network),
        preprocess=_preprocess(network, image_size=image_size, info=info, is_official=is_official),
        pooling=_pooling_of(network),
        licence=licence,
        commercial_ok=commercial_ok,
        heads=None if checkpoint is None else checkpoint.heads,
    )


def _embedding_dim(network: nn.Module) -> int:
    return StudentNetwork(network).embedding_dim


def _pooling_of(network: nn.Module) -> str:
    pool = getattr(network, "global_pool", None) or getattr(
        getattr(network, "head", None), "global_pool", None
    )
    kind = pool if isinstance(pool, str) else getattr(pool, "pool_type", "avg")
    return "cls" if kind == "token" else str(kind)


def _preprocess(
    network: nn.Module, *, image_size: int | None, info: TeacherInfo | None, is_official: bool
) -> Preprocess:
    config = cast(Any, network).pretrained_cfg
    size = _native_or(image_size, info, _Config(config))
    if is_official:  # all of the official training codes normalise with ImageNet's mean and std
        return Preprocess(image_size=size, resize=round(size * 256 / 224), interpolation="bicubic")
    return Preprocess(
        image_size=size,
        resize=max(size, round(size / config["crop_pct"])),
        interpolation=cast(Interpolation, config["interpolation"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


class _Config:
    """timm's configuration with attributes, as `get_pretrained_cfg` gives it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.input_size = values["input_size"]


# --------------------------------------------------------------------------- local checkpoints


def _from_checkpoint(spec: str, name: str, path: Path, image_size: int | None) -> Teacher:
    if not (is_simclr_name(name) or is_wide_name(name)):
        _check_name(name)
    content = read_weights(path)
    if is_simclr_name(name):
        return _from_simclr(spec, name, content, path, image_size)
    checkpoint = parse_checkpoint(content, path=path, classifiers=_classifiers(name))
    info = None if is_wide_name(name) else find_teacher(name)
    family = LAYOUT_FAMILIES.get(checkpoint.layout)
    licence, commercial_ok = _licence_of_file(family, info)
    if is_wide_name(name):
        network = build_wide_resnet(checkpoint.trunk, path=path)
        _load_strictly(network, checkpoint.trunk, path=path, name=name)
    else:
        network = _load_timm(name, checkpoint, path=path, image_size=image_size, info=info)
    if checkpoint.layout == "plain":
        config = cast(Any, network).pretrained_cfg
        say(
            f"teacher {spec}: normalised as {config['architecture']}.{config.get('tag', '')}: mean {config['mean']}, std {config['std']}"
        )
    return _timm_teacher(
        network, name=spec, image_size=image_size, info=info, licence=licence, commercial_ok=commercial_ok, checkpoint=checkpoint,
    )  # fmt: skip


def _classifiers(name: str) -> tuple[str, ...]:
    config = None if is_wide_name(name) else timm.get_pretrained_cfg(name)
    classifier = getattr(config, "classifier", None) or ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _licence_of_file(family: str | None, info: TeacherInfo | None) -> tuple[str, bool | None]:
    """A file does not say who trained it: only a tag that the user wrote does."""
    if info is not None:
        return info.licence, info.commercial_ok
    if family is None:
        return "not stated in the file", None
    published = sorted({row.licence for row in list_teachers() if row.family == family})
    return f"not stated in the file ({family}'s own weights: {', '.join(published)})", None


def _load_timm(
    name: str,
    checkpoint: Checkpoint,
    *,
    path: Path,
    image_size: int | None,
    info: TeacherInfo | None,
) -> nn.Module:
    weights = dict(checkpoint.trunk)
    if checkpoint.layout == "dinov2":
        # timm tells a DINOv2 file by its mask token; some exports leave that out.
        weights.setdefault("mask_token", torch.zeros(1))
    overlay = {"state_dict": weights, "num_classes": 0, "custom_load": False}
    size = _native_or(
        image_size, info, timm.get_pretrained_cfg(name) or _Config({"input_size": (3, 224, 224)})
    )
    pooling = (
        {"global_pool": "token"}
        if checkpoint.layout in ("dino", "dinov2") and name.startswith("vit_")
        else _pooling(info)
    )
    try:
        # timm's own loader, since it knows how each architecture's old names map to its new ones; with
        # num_classes equal on both sides it is strict.
        network = _build_timm(
            name, size, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay, **pooling
        )
    except RuntimeError as error:
        raise _misfit(error, path=path, name=name) from error
    cast(Any, network).pretrained_cfg.pop("state_dict", None)
    _check_used(network, checkpoint, path=path, name=name)
    return network


def _check_used(network: nn.Module, checkpoint: Checkpoint, *, path: Path, name: str) -> None:
    """timm's renaming may drop weights; a trunk with more weights than its network lost some."""
    expected = network.state_dict()
    given = {key for key in checkpoint.trunk if key not in ("mask_token",)}
    if len(given) > len(expected):
        unused = sorted(given - expected.keys())
        raise ArtifactError(
            f"{path} does not fit {name}: it has {len(given)} weights, the network takes {len(expected)}; "
            f"not used: {_some(unused)}; is it another architecture?"
        )


def _load_strictly(
    network: nn.Module, weights: Mapping[str, torch.Tensor], *, path: Path, name: str
) -> None:
    try:
        network.load_state_dict(dict(weights), strict=True)
    except RuntimeError as error:
        raise _misfit(error, path=path, name=name) from error


def _misfit(error: RuntimeError, *, path: Path, name: str) -> ArtifactError:
    """torch's report of a strict load, as one line: what is missing, unexpected, of another shape."""
    text = str(error)
    parts = []
    for heading, label in (("Missing", "missing"), ("Unexpected", "unexpected")):
        match = re.search(rf"{heading} key\(s\) in state_dict: ([^\n]*)", text)
        if match:
            keys = re.findall(r'"([^"]+)"', match[1])
            parts.append(f"{len(keys)} {label}: {_some(keys)}")
    shapes = re.findall(
        r"size mismatch for ([^:]+): .*?torch.Size\((\[[^]]*\]).*?torch.Size\((\[[^]]*\])", text
    )
    if shapes:
        parts.append(
            f"{len(shapes)} of another shape: {_some([f'{key} {found} instead of {wanted}' for key, found, wanted in shapes])}"
        )
    found = "; ".join(parts) or " ".join(text.split())[:300]
    return ArtifactError(
        f"{path} does not fit {name}: {found}; is it another architecture, or a format that edgeseed does not know?"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (
        f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    )


def _from_simclr(spec: str, name: str, content: Any, path: Path, image_size: int | None) -> Teacher:
    checkpoint = parse_checkpoint(content, path=path)
    network = build_simclr(name)
    _load_strictly(network, checkpoint.trunk, path=path, name=name)
    licence, commercial_ok = _licence_of_file("SimCLRv2 (converted)", None)
    size = image_size or 224
    return Teacher(
        network,
        name=spec,
        embedding_dim=network.num_features,
        preprocess=Preprocess(
            image_size=size,
            resize=round(size / 0.875),
            interpolation="bicubic",
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        ),
        pooling="avg",
        licence=licence,
        commercial_ok=commercial_ok,
        heads=checkpoint.heads,
    )


# --------------------------------------------------------------------------- students and torch.hub


def _from_student(spec: str, image_size: int | None) -> Teacher:
    network, student = load_student(spec)
    preprocess = student.preprocess
    if image_size is not None and image_size != preprocess.image_size:
        scale = preprocess.resize / preprocess.image_size
        preprocess = Preprocess(
            image_size=image_size, resize=round(image_size * scale), interpolation=preprocess.interpolation,
            mean=preprocess.mean, std=preprocess.std,
        )  # fmt: skip
    return Teacher(
        StudentTrunk(network),
        name=spec,
        embedding_dim=student.embedding_dim,
        preprocess=preprocess,
        pooling=_pooling_of(network.backbone),
        licence="not stated; a student file follows its owner's and its teacher's licence",
        commercial_ok=None,
        heads={} if network.head is None else {"classifier": network.head},
        classes=student.classes,
    )


def _from_hub(spec: str, image_size: int | None) -> Teacher:
    trunk = load_hub_trunk(spec)
    info = find_teacher(spec)
    size = image_size or (224 if info is None else info.image_size)
    with torch.no_grad():
        embedding = trunk.eval()(torch.zeros(1, 3, size, size)).embedding
    if not isinstance(embedding, torch.Tensor) or embedding.ndim != 2:
        raise ArtifactError(
            f"teacher {spec} gives no (B, D) embedding; edgeseed cannot use it as it is"
        )
    if info is None:
        say(
            f"teacher {spec} is not in edgeseed's table: its input is taken to be normalised with ImageNet's mean and std"
        )
    return Teacher(
        trunk,
        name=spec,
        embedding_dim=embedding.shape[1],
        preprocess=Preprocess(
            image_size=size,
            resize=round(size * 256 / 224),
            interpolation="bicubic",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        pooling="as its code does" if info is None else info.pooling,
        licence="not stated" if info is None else info.licence,
        commercial_ok=None if info is None else info.commercial_ok,
    )
