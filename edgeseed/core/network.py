"""A student as a torch module: a timm trunk and, where there are classes, one linear head.

The only part of the core that imports torch. Every stage that needs the network imports it from
here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.core.errors import ArtifactError, ConfigError, UsageError
from edgeseed.core.registry import unknown_name
from edgeseed.core.student import Architecture, StudentSpec, read_spec, write_student


class StudentOutput(NamedTuple):
    """What a student says of a batch."""

    embedding: Tensor
    """(B, D) pooled features of the trunk."""
    logits: Tensor | None
    """(B, C), or None for a student without a head."""


class StudentNetwork(nn.Module):
    """A timm trunk without classifier, and an optional linear head on its embedding.

    State-dict keys are `backbone.*`, `head.weight` and `head.bias`.
    """

    def __init__(self, backbone: nn.Module, *, num_classes: int | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding_dim = _embedding_dim(backbone)
        self.head = None if num_classes is None else nn.Linear(self.embedding_dim, num_classes)

    def forward(self, images: Tensor) -> StudentOutput:
        """Embeds a batch.

        Args:
            images: (B, 3, H, W), normalised.
        """
        embedding = self.backbone(images)
        return StudentOutput(embedding, None if self.head is None else self.head(embedding))


def _embedding_dim(backbone: nn.Module) -> int:
    # MobileNetV3 and its kin have a head conv after the pool: what leaves the trunk is
    # head_hidden_size.
    return int(
        cast(Any, getattr(backbone, "head_hidden_size", None) or cast(Any, backbone).num_features)
    )


# What timm's classes raise of arguments that make no sense, and torch of sizes beyond any memory.
_BUILD_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError,
)  # fmt: skip


def build_student(architecture: Architecture, *, num_classes: int | None = None) -> StudentNetwork:
    """Builds a student with fresh weights.

    Args:
        architecture: What to build.
        num_classes: Size of the head; None for none.

    Raises:
        UnknownNameError: If timm has no such model.
        ConfigError: If the model does not take the arguments.
    """
    if not timm.is_model(architecture.name):
        raise unknown_model("student", architecture.name)
    try:
        backbone = timm.create_model(
            architecture.name, pretrained=False, num_classes=0, **_kwargs(architecture)
        )
        return StudentNetwork(apply_variant(backbone, architecture), num_classes=num_classes)
    except ConfigError:
        raise
    except _BUILD_ERRORS as error:
        raise ConfigError(
            f"{architecture.name} cannot be built with {architecture.kwargs}: "
            f"{' '.join(str(error).split())[:300] or type(error).__name__}"
        ) from error


def _kwargs(architecture: Architecture) -> dict[str, Any]:
    """As timm takes them: a pair of sizes is a list once it has been JSON."""
    size = architecture.kwargs.get("img_size")
    pair = {"img_size": tuple(size)} if isinstance(size, list) else {}
    return {**architecture.kwargs, **pair}


class ProjectedTrunk(nn.Module):
    """A trunk whose embedding is `relu(projection(pooled features))`.

    The first layer of a SimCLRv2 projection head (arXiv 2006.10029, section 3.1) that was kept as
    part of the network. Everything else of the trunk is reached through it.
    """

    def __init__(self, trunk: nn.Module, dim: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.projection: nn.Module = nn.Linear(_embedding_dim(trunk), dim)
        self.head_hidden_size = dim

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # By way of `super()`: while there is no trunk, `self.trunk` would come here again.
            return getattr(super().__getattr__("trunk"), name)

    def forward(self, images: Tensor) -> Tensor:
        """Maps (B, 3, H, W) normalised images to (B, dim) embeddings."""
        return F.relu(self.projection(self.trunk(images)))

    def forward_head(self, features: Tensor, *, pre_logits: bool) -> Tensor:
        """Pools the trunk's features to the (B, dim) embedding that `forward` gives."""
        pooled = cast(Any, self.trunk).forward_head(features, pre_logits=pre_logits)
        return F.relu(self.projection(pooled))


# timm builds these under several names, by age and by whether they save memory in training.
_KINDS = {
    "SiLU or hard-swish": {"SiLU", "Swish", "SwishMe", "Hardswish", "HardSwish", "HardSwishMe"},
    "squeeze-and-excitation": {
        "SqueezeExcite", "SqueezeExciteCl", "SEModule", "EffectiveSEModule",
        "EffectiveSqueezeExcite",
    },
}  # fmt: skip
_VARIANTS = ("activation", "drop_se", "reduce_stride", "projection")


def apply_variant(backbone: nn.Module, architecture: Architecture) -> nn.Module:
    """Changes a fresh trunk as `architecture.variant` says, so that its weights fit it again.

    `activation: "relu6"` puts ReLU6 where SiLU and hard-swish were, and `drop_se: true` takes
    squeeze-and-excitation out, as in EfficientNet-Lite: both quantize badly. `reduce_stride: 2`
    or `4` sets the first one or two layers of stride 2 to stride 1, for photos of 64 px and less.
    `projection: N` puts a layer of N units behind the pool (see `ProjectedTrunk`).

    Raises:
        ConfigError: If a change is unknown, or the network has nothing to change.
    """
    for name, value in architecture.variant.items():
        if name == "activation" and value == "relu6":
            _replace(backbone, architecture, "SiLU or hard-swish", lambda: nn.ReLU6(inplace=True))
        elif name == "drop_se" and value is True:
            _replace(backbone, architecture, "squeeze-and-excitation", nn.Identity)
        elif name == "reduce_stride" and value in (2, 4):
            _reduce_stride(backbone, architecture, num_layers={2: 1, 4: 2}[value])
        elif name == "projection" and isinstance(value, int) and value > 0:
            backbone = ProjectedTrunk(backbone, value)
        else:
            raise ConfigError(
                f"{architecture.name}: variant {name}={value!r} is unknown; known: "
                f"{', '.join(_VARIANTS)}"
            )
    return backbone


def _replace(
    backbone: nn.Module, architecture: Architecture, kind: str, make: Callable[[], nn.Module]
) -> None:
    names = [name for name, part in backbone.named_modules() if type(part).__name__ in _KINDS[kind]]
    if not names:
        raise ConfigError(
            f"{architecture.name} has no {kind} to replace; leave that out of "
            f"{architecture.variant}"
        )
    for name in names:
        backbone.set_submodule(name, make())


def _reduce_stride(backbone: nn.Module, architecture: Architecture, *, num_layers: int) -> None:
    layers = [
        part
        for part in backbone.modules()
        if isinstance(part, nn.Conv2d | nn.MaxPool2d) and part.stride in (2, (2, 2))
    ]
    if len(layers) < num_layers:
        raise ConfigError(
            f"{architecture.name} has {len(layers)} layers of stride 2; "
            f"reduce_stride={2**num_layers} needs {num_layers}"
        )
    for layer in layers[:num_layers]:
        if isinstance(layer, nn.MaxPool2d):
            layer.stride = 1
        else:
            layer.stride = (1, 1)


def unknown_model(kind: str, name: str) -> Exception:
    """The error for a name that timm does not know: the nearest, and how to list the usual.

    A folder, which is often that of a run, is said to be one.
    """
    if Path(name).is_dir():
        inside = Path(name) / "student.safetensors"
        advice = f"give {inside}" if inside.is_file() else "give a student file in it"
        return UsageError(f"{name} is a folder, no {kind}; {advice}")
    message = str(unknown_name(kind, name, timm.list_models()))
    return type(unknown_name(kind, name, ()))(
        f"{message.partition(' known:')[0].rstrip(';')}; `edgeseed {kind}s` lists the usual "
        "ones, any timm model works"
    )


def load_student(path: str | Path) -> tuple[StudentNetwork, StudentSpec]:
    """Loads a student file; every key must be accounted for.

    Returns:
        The network in eval mode, on the CPU, and its specification.

    Raises:
        UsageError: If there is no such file.
        ArtifactError: If the file is broken or its weights do not fit its architecture.
    """
    spec = read_spec(path)
    network = build_student(
        spec.architecture, num_classes=None if spec.classes is None else len(spec.classes)
    )
    try:
        network.load_state_dict(load_file(str(path)), strict=True)
        if network.embedding_dim != spec.embedding_dim:
            raise RuntimeError(
                f"embeddings have {network.embedding_dim} numbers, not {spec.embedding_dim}"
            )
    except (RuntimeError, SafetensorError) as error:
        raise ArtifactError(
            f"{path}: its weights do not fit its architecture {spec.architecture.name}: "
            + " ".join(str(error).split())[:400]
        ) from error
    return network.eval(), spec


def save_student(path: str | Path, network: StudentNetwork, spec: StudentSpec) -> None:
    """Writes a student file, whole or not at all."""
    if (network.head is None) != (spec.classes is None):
        raise ValueError("a student has class names exactly when its network has a head")
    write_student(path, network.state_dict(), spec)
