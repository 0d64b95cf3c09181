"""From what a user writes behind `--teacher` to a frozen network that is the right one."""

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from edgeseed.core.console import note, warn
from edgeseed.core.errors import ArtifactError, ConfigError, UsageError
from edgeseed.core.network import load_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.pretrained import pooling_of
from edgeseed.core.student import Architecture
from edgeseed.distill.teachers._files import load_file_teacher
from edgeseed.distill.teachers._hub import load_hub_trunk
from edgeseed.distill.teachers._table import find_teacher
from edgeseed.distill.teachers._timm import TimmTrunk, load_timm
from edgeseed.distill.teachers.heads import below, dino_head_from_weights
from edgeseed.distill.teachers.network import Teacher

_STUDENT, _HEADS = "student.safetensors", "heads.safetensors"
_CHECKPOINTS = (".pth", ".pt", ".tar", ".bin", ".ckpt")


def load_teacher(spec: str, *, image_size: int | None = None) -> Teacher:
    """Loads a frozen network, and says its licence aloud.

    Args:
        spec: One of

            * `NAME`, a timm model with its pretrained tag, such as
              `vit_base_patch14_reg4_dinov2.lvd142m`;
            * `NAME=PATH`, that architecture with a checkpoint of its own: the files of DINO,
              DINOv2, iBOT, EsViT, MoCo, MoCo-v3, SwAV (also `resnet50w2=PATH`), converted SimCLRv2
              (`simclrv2_r50_1x_sk0=PATH`), or a bare state dict;
            * `PATH.safetensors`, a student that edgeseed trained; DINO heads come along if they
              are in the heads.safetensors of its run folder;
            * `hub:REPO:ENTRY`, from `torch.hub` or a local clone.
        image_size: Height and width of its input, in pixels. By default what suits it best; a
            transformer's position embeddings are resampled.

    Returns:
        The teacher, in eval mode and without gradients, on the CPU.

    Raises:
        UnknownNameError: If timm has no such model.
        ConfigError: If `image_size` does not suit it.
        UsageError: If a file or an entry does not exist.
        ArtifactError: If a file's weights do not fit, with what is missing and what is unexpected.
        WorkError: If weights had to be fetched and could not be.
    """
    teacher = load_network(spec, image_size=image_size)
    use = {
        True: "commercial use allowed",
        False: "NO commercial use",
        None: "whether commercial use is allowed must be read there",
    }
    line = f"teacher {teacher.name}: licence {teacher.licence}; {use[teacher.commercial_ok]}"
    (warn if teacher.commercial_ok is False else note)(line)
    return teacher


def load_network(spec: str, *, image_size: int | None = None) -> Teacher:
    """Loads a frozen network as `load_teacher` does, to be looked at and not learnt from."""
    if image_size is not None and image_size < 1:
        raise ConfigError(f"image_size={image_size} must be at least 1 pixel")
    if spec.startswith("hub:"):
        return _from_hub(spec, image_size)
    if "=" in spec:
        name, _, path = spec.partition("=")
        return load_file_teacher(name, Path(path).expanduser(), image_size=image_size)
    if spec.endswith(".safetensors"):
        return _from_student(spec, image_size)
    if spec.endswith(_CHECKPOINTS):
        raise UsageError(
            f"teacher {spec} is a checkpoint that does not say its architecture; write NAME={spec}"
        )
    return load_timm(spec, image_size=image_size)


def _from_student(spec: str, image_size: int | None) -> Teacher:
    network, student = load_student(spec)
    preprocess = student.preprocess
    if image_size not in (None, preprocess.image_size):
        _check_takes(spec, student.architecture, preprocess.image_size)
    if image_size is not None:
        scale = preprocess.resize / preprocess.image_size
        preprocess = dataclasses.replace(
            preprocess,
            image_size=image_size,
            resize=round(image_size * scale),
            width=None
            if preprocess.width is None
            else round(preprocess.width * image_size / preprocess.image_size),
        )
    heads = {} if network.head is None else {"classifier": network.head}
    return Teacher(
        TimmTrunk(network.backbone),
        name=spec,
        embedding_dim=student.embedding_dim,
        preprocess=preprocess,
        pooling=pooling_of(network.backbone),
        licence="not stated; a student follows its owner's licence and its teacher's",
        commercial_ok=None,
        heads={**heads, **_heads_beside(Path(spec))},
        classes=student.classes,
    )


def _heads_beside(student: Path) -> dict[str, nn.Module]:
    """The prototype heads that a run kept beside its student; they fit its last epoch only."""
    path = student.with_name(_HEADS)
    if student.name != _STUDENT or not path.is_file():
        return {}
    weights = load_file(str(path))
    kinds = {name.partition(".")[0] for name in weights} & {"dino", "region"}
    return {kind: dino_head_from_weights(below(weights, f"{kind}.")) for kind in sorted(kinds)}


def _check_takes(spec: str, architecture: Architecture, image_size: int) -> None:
    kwargs = architecture.kwargs
    is_dynamic = kwargs.get("dynamic_img_size") or kwargs.get("strict_img_size") is False
    if "img_size" in kwargs and not is_dynamic:
        raise ConfigError(f"teacher {spec} takes photos of {image_size} px only; leave its size")


def _from_hub(spec: str, image_size: int | None) -> Teacher:
    trunk = load_hub_trunk(spec)
    info = find_teacher(spec)
    size = image_size or (224 if info is None else info.image_size)
    with torch.no_grad():
        embedding = trunk.eval()(torch.zeros(1, 3, size, size)).embedding
    if not isinstance(embedding, torch.Tensor) or embedding.ndim != 2:
        raise ArtifactError(f"teacher {spec} gives no (B, D) embedding; edgeseed cannot use it")
    if info is None:
        note(f"teacher {spec} is not in edgeseed's table: it is given ImageNet's mean and std")
    return Teacher(
        trunk,
        name=spec,
        embedding_dim=embedding.shape[1],
        preprocess=Preprocess(
            image_size=size, resize=round(size * 256 / 224), interpolation="bicubic"
        ),
        pooling="as its code does" if info is None else info.pooling,
        licence="not stated" if info is None else info.licence,
        commercial_ok=None if info is None else info.commercial_ok,
    )
