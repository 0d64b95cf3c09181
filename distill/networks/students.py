"""Students: any timm model with fresh weights, as it is or in a form that quantizes better."""

import dataclasses
import functools
from typing import Any, Literal

import timm
import torch

from edgeseed.core.console import note
from edgeseed.core.errors import ConfigError
from edgeseed.core.network import StudentNetwork, build_student, unknown_model
from edgeseed.core.student import Architecture
from edgeseed.distill.networks.features import check_image_size, extract

FIRST_CLASS = ("efficientnet_b0", "mobilenetv3_large_100")
"""The students that every method, target and benchmark is tested with."""
_SMALL_MAP = 2

# Supervised ImageNet-1k top-1 of the same network, in %, at its own input: what labels would buy.
# timm, results/results-imagenet.csv: .ra_in1k, .ra_in1k, none, .a1_in1k, .e2400_r224_in1k,
# .e500_r224_in1k, .dist_in22k_ft_in1k, .a1_in1k.
_LISTED: dict[str, float | None] = {
    "efficientnet_b0": 77.698,
    "mobilenetv3_large_100": 75.784,
    "mobilenetv3_small_100": None,
    "mobilenetv4_conv_small": 73.756,
    "mobilenetv4_conv_medium": 79.092,
    "efficientnet_lite0": None,
    "mobilenetv2_100": None,
    "resnet18": 71.504,
    "resnet50": 80.382,
    "tiny_vit_5m_224": 80.874,
    "vit_tiny_patch16_224": None,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StudentInfo:
    """One row of `edgeseed students`, counted on the network itself but for the accuracy.

    Attributes:
        name: As timm calls it.
        first_class: Whether every method and target is tested with it.
        num_parameters: Of the trunk, without a classifier.
        size_mb: Of the weights in fp32, in 10^6 bytes; int8 weights are a quarter of it.
        embedding_dim: Length of an embedding.
        image_size: The input that it was designed for, in pixels.
        activations: Their kinds; SiLU and Hardswish quantize worse than ReLU and ReLU6.
        squeeze_excite: Whether it has squeeze-and-excitation, which quantizes badly.
        supervised_top1_percent: Published top-1 on ImageNet-1k of this network with labels, or
        None.
    """

    name: str
    first_class: bool
    num_parameters: int
    size_mb: float
    embedding_dim: int
    image_size: int
    activations: tuple[str, ...]
    squeeze_excite: bool
    supervised_top1_percent: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return dataclasses.asdict(self)


def list_students() -> tuple[StudentInfo, ...]:
    """The usual students, the first-class ones first; any other timm model works as well."""
    return tuple(describe_student(name) for name in _LISTED)


@functools.cache  # a list counts two dozen networks
def describe_student(name: str) -> StudentInfo:
    """Builds a network without memory for its weights, and counts.

    Raises:
        UnknownNameError: If timm has no such model.
    """
    config = _pretrained_config(name)
    with torch.device("meta"):
        network = build_student(Architecture(name=name))
    kinds = {type(part).__name__ for part in network.modules()}
    num_parameters = sum(parameter.numel() for parameter in network.backbone.parameters())
    return StudentInfo(
        name=name,
        first_class=name in FIRST_CLASS,
        num_parameters=num_parameters,
        size_mb=round(num_parameters * 4 / 1e6, 2),
        embedding_dim=network.embedding_dim,
        image_size=_default_size(config),
        activations=tuple(
            sorted(kinds & {"ReLU", "ReLU6", "SiLU", "Hardswish", "GELU", "GELUTanh", "PReLU"})
        ),
        squeeze_excite=bool(kinds & {"SqueezeExcite", "SEModule"}),
        supervised_top1_percent=_LISTED.get(name),
    )


def check_student_name(name: str) -> None:
    """Refuses what `create_student` cannot build, without building it.

    Raises:
        UnknownNameError: If timm has no such model; the message names the nearest.
        ConfigError: If it names pretrained weights.
    """
    if "." in name and timm.is_model(name.partition(".")[0]):
        raise ConfigError(
            f"student {name}: a student starts from fresh weights; write {name.partition('.')[0]}"
        )
    if not timm.is_model(name):
        raise unknown_model("student", name)


def _pretrained_config(name: str) -> Any:
    check_student_name(name)
    return timm.get_pretrained_cfg(name)


def _default_size(config: Any) -> int:
    return 224 if config is None else int(config.input_size[-1])


def create_student(
    name: str,
    *,
    seed: int,
    image_size: int | None = None,
    activation: Literal["keep", "relu6"] = "keep",
    drop_se: bool = False,
    reduce_stride: Literal[1, 2, 4] = 1,
    any_size: bool = False,
    width: int | None = None,
    channels: Literal[1, 3, 4] = 3,
) -> tuple[StudentNetwork, Architecture]:
    """Builds a student with fresh weights.

    Args:
        name: Any timm model, without a pretrained tag.
        seed: Of the initial weights; the global generator is left as it was.
        image_size: Height and width of its input in pixels; by default the network's own.
        activation: "relu6" puts ReLU6 where SiLU and hard-swish are.
        drop_se: Takes squeeze-and-excitation out. With `activation="relu6"` this is what
            EfficientNet-Lite does; the student is trained anyway, so it costs little accuracy.
        reduce_stride: Divides the network's total stride by this, for photos of 64 px and less,
            which the usual stride of 32 shrinks to one or two pixels. Costs 4 or 16 times the
            compute.
        any_size: Whether it must also take crops of other sizes than `image_size` (multi-crop
            training); only transformers, whose size is fixed otherwise, are built differently.
        width: Of its input in pixels; by default `image_size`, a square.
        channels: Of its input: RGB, 1 for grey, or RGB and a fourth.

    Returns:
        The network, and the architecture that rebuilds it exactly.

    Raises:
        UnknownNameError: If timm has no such model; the message names the nearest.
        ConfigError: If the network cannot be built so.
    """
    config = _pretrained_config(name)
    height = image_size or _default_size(config)
    size = (height, width or height)
    changes: dict[str, Any] = {
        "activation": activation,
        "drop_se": drop_se,
        "reduce_stride": reduce_stride,
    }
    unchanged = {"activation": "keep", "drop_se": False, "reduce_stride": 1}
    variant = {key: value for key, value in changes.items() if value != unchanged[key]}
    is_fixed = config is not None and bool(config.fixed_input_size)
    kwargs: dict[str, Any] = {}
    if is_fixed:
        # One number for a square, as files of students have had it.
        kwargs["img_size"] = height if size[0] == size[1] else size
    if channels != 3:
        kwargs["in_chans"] = channels
    architecture = Architecture(name=name, kwargs=kwargs, variant=variant)
    if is_fixed and any_size:
        architecture = _for_any_size(architecture, size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = build_student(architecture)
    _check_student(network, architecture, size, channels)
    return network, architecture


def _for_any_size(architecture: Architecture, size: tuple[int, int]) -> Architecture:
    # ViTs and Swins name the same wish differently; XCiT needs none.
    for wish in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):
        wished = dataclasses.replace(architecture, kwargs={**architecture.kwargs, **wish})
        try:
            with torch.device("meta"):
                network = build_student(wished)
                if not wish:
                    channels = architecture.kwargs.get("in_chans", 3)
                    network.eval()(torch.zeros(1, channels, 2 * size[0], 2 * size[1]))
        except (ConfigError, RuntimeError, AssertionError, ValueError):
            continue
        return wished
    raise ConfigError(
        f"student {architecture.name} takes one image size only; choose a method without small "
        "crops, or a network that takes any size"
    )


def _check_student(
    network: StudentNetwork, architecture: Architecture, size: tuple[int, int], channels: int
) -> None:
    """Runs one black photo through: what timm can build does not always fit the size."""
    for side in size:
        check_image_size(f"student {architecture.name}", network.backbone, side)
    shown = str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
    training = network.training
    try:
        with torch.no_grad():
            features = extract(network.eval().backbone, torch.zeros(1, channels, *size))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ConfigError(
            f"student {architecture.name} cannot see photos of {shown} px"
            f"{f' with {architecture.variant}' if architecture.variant else ''}: "
            f"{' '.join(str(error).split())[:160]}"
        ) from error
    finally:
        network.train(training)
    if features.map is not None and max(features.map.shape[2:]) < _SMALL_MAP <= max(size):
        note(
            f"student {architecture.name}: photos of {shown} px end as a map of one pixel; "
            "--set student.reduce_stride=2 or 4 keeps more (at 4 or 16 times the compute), larger "
            "photos do too"
        )
