"""Any timm network as a student: `NAME[.tag]`, `NAME=CHECKPOINT`, or a student file.

The network's classifier becomes the student's head, its configuration the preprocess block. Every
weight of a checkpoint is used, or named as not used, or an error.
"""

import contextlib
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError
from urllib.parse import urlsplit

import timm
import torch
from timm.data.imagenet_info import ImageNetInfo
from torch import nn

from edgeseed.core.checkpoints import (
    below_common_prefix,
    describe_misfit,
    read_weights,
    some_of,
    unwrap,
)
from edgeseed.core.console import note
from edgeseed.core.environment import environment
from edgeseed.core.errors import ArtifactError, ConfigError, UsageError, WorkError
from edgeseed.core.files import sha256_file
from edgeseed.core.network import (
    StudentNetwork,
    build_student,
    load_student,
    save_student,
    unknown_model,
)
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.scratch import scratch_folder
from edgeseed.core.student import Architecture, StudentSpec

_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
# Names under which programs keep the last, linear layer.
_CLASSIFIERS = ("classifier", "fc", "head", "head.fc", "last_linear", "linear", "heads.head")
# Weights of official files that are computed or used in training only; timm leaves them out too.
_COMPUTED = (
    "mask_token", ".periods", ".bias_mask", "relative_position_index", "attn_mask",
    "num_batches_tracked",
)  # fmt: skip
_TRAINING_ONLY = ("local_cls_norm.", "projectors.", "dino_head.", "ibot_head.")
# Transformers whose authors embed by the class token, where timm's own default is the average of
# the patches: DINOv3, and EUPE, which has its architectures.
_CLASS_TOKEN_ARCHITECTURES = re.compile(r"vit_.*_dinov3(_|$)")
# timm's defaults are the authors' for the others of DINO, and I-JEPA's names say what they do.
_KNOWN_POOLING = re.compile(r"vit_.*(_dinov[23]|_gap_|_siglip_|_clip_)")
_NUM_IMAGENET = 1000
_CLOSE = 1e-4
"""Largest difference between two ways to compute the same logits, of their largest value."""


def is_student_file(source: str | Path) -> bool:
    """Whether a student is named by its file, as opposed to a timm network."""
    # `NAME=folder/weights.safetensors` names none, `runs/lr=0.1/student.safetensors` does.
    name, equals, _ = str(source).partition("=")
    is_checkpoint = bool(equals) and os.sep not in name and not Path(source).is_file()
    return str(source).endswith(".safetensors") and not is_checkpoint


def is_pretrained_name(source: str) -> bool:
    """Whether a name stands for weights of another program: `NAME.tag` or `NAME=CHECKPOINT`."""
    name, equals, _ = source.partition("=")
    if equals:
        return timm.is_model(name.partition(".")[0])
    architecture, _, tag = name.partition(".")
    return bool(tag) and timm.is_model(architecture)


def is_trained(source: str) -> bool:
    """Whether a student comes with weights, as opposed to a name that is built afresh."""
    return is_student_file(source) or is_pretrained_name(source)


def architecture_name(source: str) -> str:
    """The timm name in `NAME`, `NAME.tag` and `NAME=CHECKPOINT`."""
    return source.partition("=")[0].partition(".")[0]


@contextlib.contextmanager
def student_file(source: str | Path) -> Iterator[Path]:
    """Yields a student file: `source` itself, or one made of a timm network for the while.

    Args:
        source: `PATH.safetensors`, `NAME[.tag]` or `NAME=CHECKPOINT`.

    Raises:
        As `load_model`.
    """
    if is_student_file(source) or Path(source).is_file():
        yield Path(source)
        return
    with scratch_folder() as folder:
        path = folder / "student.safetensors"
        save_student(path, *load_model(source))
        yield path


def load_model(
    source: str | Path, *, image_size: int | None = None
) -> tuple[StudentNetwork, StudentSpec]:
    """Loads a student from its file, from timm's weights, or from a checkpoint.

    Args:
        source: `PATH.safetensors`, `NAME[.tag]` or `NAME=CHECKPOINT`.
        image_size: Side of the input of a timm network, in pixels; by default that of its weights.
            A student file has its own.

    Returns:
        The network in eval mode, on the CPU, and its specification.

    Raises:
        UnknownNameError: If timm has no such network.
        UsageError: If it has no such weights, or there is no such file.
        WorkError: If weights cannot be fetched.
        ArtifactError: If a file is broken or does not fit.
    """
    if is_student_file(source) or Path(source).is_file():
        return load_student(source)
    name, equals, path = str(source).partition("=")
    check_model_name(str(source))
    arguments = _build_arguments(name, image_size)
    network = (
        _from_checkpoint(name, Path(path), arguments) if equals else _from_timm(name, arguments)
    )
    return _as_student(
        network.eval(), name=name, checkpoint=Path(path) if equals else None, image_size=image_size
    )


def check_model_name(source: str) -> None:
    """Refuses a network or tag that timm does not know, and a file that is not there.

    Raises:
        UnknownNameError: If timm has no such network.
        UsageError: If it has no such weights, or there is no such file.
    """
    name, equals, path = source.partition("=")
    if equals and not Path(path).is_file():
        raise UsageError(f"{path} does not exist or is not a file; a checkpoint was expected")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        if Path(name).is_dir():
            raise unknown_model("student", name)
        if os.sep in name or name.endswith((".pth", ".pt", ".onnx", ".ckpt")):
            raise UsageError(
                f"{name} is not a student file; give a student.safetensors, or a checkpoint with "
                f"its architecture, as NAME={name}"
            )
        raise unknown_model("student", name)
    known = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in known:
        tags = ", ".join(sorted(full.partition(".")[2] for full in known)) or "none"
        raise UsageError(f"{name}: {architecture} has no weights tagged {tag!r}; timm has: {tags}")


# --------------------------------------------------------------------------- timm's own weights


def pooling_arguments(name: str) -> dict[str, Any]:
    """What makes timm pool an architecture as its authors do; empty where timm does so by itself.

    Args:
        name: Of the architecture. A tag behind it changes nothing: the same weights are pooled
            alike, however they are named.
    """
    is_cls = _CLASS_TOKEN_ARCHITECTURES.match(name.partition(".")[0])
    return {"global_pool": "token"} if is_cls else {}


def pooling_of(network: nn.Module) -> str:
    """How a timm network makes its embedding: "cls", "avg", "map", ..."""
    head = getattr(network, "head", None)
    pool = getattr(network, "global_pool", None) or getattr(head, "global_pool", None)
    kind = pool if isinstance(pool, str) else getattr(pool, "pool_type", "avg")
    return "cls" if kind == "token" else str(kind)


def say_guessed_pooling(source: str, network: nn.Module) -> None:
    """Says how a transformer's embedding is made, where nothing tells how it was trained.

    Args:
        source: The network and its file, as the user wrote them.
        network: timm's.
    """
    kinds = {"cls": "its class token", "avg": "the average of its patches"}
    kind = pooling_of(network)
    note(
        f"{source}: its embedding is {kinds.get(kind, kind)}, as timm has it for this "
        "architecture; that is a guess, the file does not say how it was trained"
    )


def _build_arguments(name: str, image_size: int | None) -> dict[str, Any]:
    """Arguments of timm: pooling, and the size of a network that must be told it."""
    config = timm.get_pretrained_cfg(name)
    is_fixed = config is not None and bool(config.fixed_input_size)
    size = {"img_size": image_size} if is_fixed and image_size is not None else {}
    return {**pooling_arguments(name), **size}


def _from_timm(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UsageError(f"{name}: timm has no weights of it; give a file: {name}=CHECKPOINT")
    full_name = f"{name.partition('.')[0]}.{config.tag}" if config.tag else name
    if full_name != name:
        note(f"{name} is timm's {full_name}")
    try:
        return timm.create_model(
            full_name, pretrained=True, **arguments, **weights_in_cache(full_name, config)
        )
    except (OSError, URLError) as error:
        raise cannot_fetch(full_name, error) from error


def weights_in_cache(name: str, config: Any) -> dict[str, Any]:
    """Arguments that make timm load from the local cache; a file there needs no network at all.

    Raises:
        WorkError: If there is neither a file nor a network.
    """
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
    if any(os.environ.get(variable) for variable in _PROXIES):
        return
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co")).hostname
    try:
        socket.getaddrinfo(host, 443)
    except OSError as error:
        raise cannot_fetch(name, error) from error


def cannot_fetch(name: str, error: BaseException) -> WorkError:
    """The error for weights that are neither in the cache nor within reach."""
    reason = " ".join(str(error).split())[:120]
    return WorkError(
        f"{name}: its weights are not in the local cache and cannot be fetched ({reason}); fetch "
        "them where there is a network, and write the file behind the name: "
        f"{name}=PATH/model.safetensors"
    )


# --------------------------------------------------------------------------- checkpoints


def _from_checkpoint(name: str, path: Path, arguments: Mapping[str, Any]) -> nn.Module:
    weights, aside = unwrap(read_weights(path), path=path)
    with torch.device("meta"):
        plain = timm.create_model(name.partition(".")[0])
    expected = plain.state_dict()
    below = below_common_prefix(weights, expected)
    others = dict(below.others)
    used = _with_renamed_head(below.weights, others, expected, plain)
    head = used.get(f"{_classifier_of(plain)}.weight")
    num_classes = 0 if head is None else int(head.shape[0])
    network = load_into_timm(name, used, path=path, num_classes=num_classes, **arguments)
    # A tag says which weights they are, and so who pools how.
    has_choice = bool(getattr(network, "num_prefix_tokens", 0))
    if has_choice and "." not in name and not _KNOWN_POOLING.match(name):
        say_guessed_pooling(f"{name}={path}", network)
    unused = [*aside, *others]
    if below.prefix:
        note(f"{path}: the weights below {below.prefix} are used")
    if unused:
        note(f"{path}: {len(unused)} entries are not used: {some_of(unused)}")
    return network


def _classifier_of(network: nn.Module) -> str:
    name = cast(Any, network).pretrained_cfg.get("classifier", "")
    return name if isinstance(name, str) else name[0]


def _with_renamed_head(
    weights: Mapping[str, torch.Tensor],
    others: dict[str, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    network: nn.Module,
) -> dict[str, torch.Tensor]:
    """The weights with their classifier under the network's own name for it.

    It may also lie beside the prefix, as in `backbone.*` and `fc.*`; it is taken from `others`.
    """
    used = dict(weights)
    ours = _classifier_of(network)
    wanted = expected.get(f"{ours}.weight")
    if wanted is None or f"{ours}.weight" in used:
        return used
    for place in (used, others):
        for name in _CLASSIFIERS:
            found = place.get(f"{name}.weight")
            if found is None or found.shape[1:] != wanted.shape[1:]:
                continue
            if f"{name}.weight" in expected:  # a layer of the trunk that has such a name
                continue
            for last in ("weight", "bias"):
                if f"{name}.{last}" in place:
                    used[f"{ours}.{last}"] = place.pop(f"{name}.{last}")
            return used
    return used


def load_into_timm(
    name: str,
    weights: Mapping[str, torch.Tensor],
    *,
    path: Path,
    num_classes: int,
    **kwargs: Any,
) -> nn.Module:
    """Builds a timm network around weights, named by timm or by their authors.

    timm's own loader knows how official files (DINOv2, DINOv3, torchvision, ...) map to its names;
    with `num_classes` equal on both sides it is strict.

    Raises:
        ArtifactError: If the weights do not fit, or some of them would be dropped.
    """
    given = dict(weights)
    for key in weights:
        # Old files lack this counter, which only training uses.
        counter = key.removesuffix("running_mean") + "num_batches_tracked"
        if key.endswith("running_mean") and counter not in given:
            given[counter] = torch.tensor(0)
    overlay = {"state_dict": given, "num_classes": num_classes, "custom_load": False}
    try:
        # Some of timm's conversions print, and stdout belongs to results.
        with contextlib.redirect_stdout(None):
            network = timm.create_model(
                name, pretrained=True, num_classes=num_classes, pretrained_cfg_overlay=overlay,
                **kwargs,
            )  # fmt: skip
    except (RuntimeError, KeyError, AttributeError) as error:
        raise describe_misfit(RuntimeError(str(error)), path=path, name=name) from error
    # timm keeps what it was given, here all weights once more, in the network's configuration.
    cast(Any, network).pretrained_cfg.pop("state_dict", None)
    check_all_used(network, weights, path=path, name=name)
    return network


def check_all_used(
    network: nn.Module, weights: Mapping[str, torch.Tensor], *, path: Path, name: str
) -> None:
    """Refuses weights of which timm's renaming dropped some in silence.

    Raises:
        ArtifactError: If there are more weights than the network takes, or biases were dropped.
    """
    state = network.state_dict()
    has_biases = any(key.endswith("q_bias") for key in state)
    dropped = [
        key
        for key, value in weights.items()
        if key.endswith("qkv.bias") and key not in state and not has_biases and bool(value.any())
    ]
    if dropped:
        raise ArtifactError(
            f"{path} does not fit {name}: {len(dropped)} biases of attention layers would be lost "
            f"({some_of(dropped)}); use the architecture that has them, {name.partition('.')[0]}"
            "_qkvb"
        )
    given = {
        key
        for key, value in weights.items()
        if not key.endswith(_COMPUTED)
        and not key.startswith(_TRAINING_ONLY)
        and not (key.endswith("qkv.bias") and key not in state and not value.any())
    }
    taken = {key for key in state if not key.endswith(_COMPUTED)}
    # A fused bias becomes two in some networks; fewer weights than the network takes are an error
    # of torch already.
    if len(given) > len(taken):
        raise ArtifactError(
            f"{path} does not fit {name}: it has {len(given)} weights, the network takes "
            f"{len(taken)}; not used: {some_of(sorted(given - taken))}; is it another architecture?"
        )


# --------------------------------------------------------------------------- as a student


def _as_student(
    network: nn.Module, *, name: str, checkpoint: Path | None, image_size: int | None
) -> tuple[StudentNetwork, StudentSpec]:
    config = cast(Any, network).pretrained_cfg
    size = image_size or _image_size(name, config)
    kwargs = {"img_size": size} if config.get("fixed_input_size") else {}
    architecture = Architecture(
        name=name.partition(".")[0], kwargs={**pooling_arguments(name), **kwargs}
    )
    head = cast(Any, network).get_classifier()
    is_linear = isinstance(head, nn.Linear) and head.out_features > 0
    student = build_student(architecture, num_classes=head.out_features if is_linear else None)
    state = network.state_dict()
    trunk = {key: state.pop(key) for key in student.backbone.state_dict() if key in state}
    try:
        student.backbone.load_state_dict(trunk, strict=True)
    except RuntimeError as error:
        raise describe_misfit(error, path=name, name=architecture.name) from error
    if student.head is not None:
        student.head.weight = nn.Parameter(head.weight.detach().clone())
        bias = torch.zeros(head.out_features) if head.bias is None else head.bias.detach().clone()
        student.head.bias = nn.Parameter(bias)
    elif not isinstance(head, nn.Identity):
        note(f"{name}: its classifier is no linear layer and is left out; embeddings remain")
    student.eval()
    _check_same(network, student, size, name=name)
    spec = StudentSpec(
        architecture=architecture,
        preprocess=_preprocess(config, size),
        embedding_dim=student.embedding_dim,
        classes=None
        if student.head is None
        else class_names(student.head.out_features, is_timms=checkpoint is None),
        provenance=_provenance(name, config, checkpoint),
    )
    return student, spec


def _image_size(name: str, config: Mapping[str, Any]) -> int:
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise ConfigError(
            f"{name} takes {channels} channels of {height}x{width} pixels; students take square "
            "RGB photos"
        )
    return int(width)


def _preprocess(config: Mapping[str, Any], size: int) -> Preprocess:
    interpolation = config["interpolation"]
    if interpolation not in _INTERPOLATIONS:
        note(f"interpolation {interpolation} of the weights' configuration becomes bicubic")
        interpolation = "bicubic"
    return Preprocess(
        image_size=size,
        resize=max(size, round(size / config["crop_pct"])),
        interpolation=interpolation,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


@torch.inference_mode()
def _check_same(network: nn.Module, student: StudentNetwork, size: int, *, name: str) -> None:
    """Compares the two on one photo of noise: some networks do more between pool and classifier.

    Raises:
        ArtifactError: If the student computes something else.
    """
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = network(noise)
    embedding, logits = student(noise)
    found = embedding if logits is None else logits
    if found.shape != expected.shape:
        return  # a network whose classifier was left out
    if not torch.allclose(found, expected, rtol=0, atol=_CLOSE * float(expected.abs().max())):
        raise ArtifactError(
            f"{name}: what lies between its features and its classifier is not part of a student; "
            "its logits would be others"
        )


def class_names(num_classes: int, *, is_timms: bool) -> tuple[str, ...]:
    """Names of a network's outputs: ImageNet's for timm's own weights, else their numbers."""
    if not is_timms or num_classes != _NUM_IMAGENET:
        return tuple(str(index) for index in range(num_classes))
    info = ImageNetInfo("imagenet-1k")
    names = [info.index_to_description(index).partition(",")[0] for index in range(num_classes)]
    # ImageNet has two cranes, a bird and a machine.
    repeated = {name for name in names if names.count(name) > 1}
    return tuple(
        f"{name} ({info.index_to_label_name(index)})" if name in repeated else name
        for index, name in enumerate(names)
    )


def _provenance(name: str, config: Mapping[str, Any], checkpoint: Path | None) -> dict[str, Any]:
    tag = config.get("tag") or ""
    origin: dict[str, Any] = {"model": name if "." in name or not tag else f"{name}.{tag}"}
    if checkpoint is None:
        origin["licence"] = config.get("license") or "not stated by timm"
    else:
        origin |= {"checkpoint": checkpoint.name, "sha256": sha256_file(checkpoint)}
        note(
            f"{checkpoint}: normalised as timm's {origin['model']} (mean {tuple(config['mean'])}, "
            f"std {tuple(config['std'])}); another tag in the name chooses another normalisation"
        )
    return {"imported": origin, "environment": environment()}
