"""timm's networks as teachers: built for the size that is asked for, and loaded without a gap."""

from collections.abc import Mapping
from typing import Any, cast
from urllib.error import URLError

import timm
import torch
from torch import nn

from edgeseed.core.console import note
from edgeseed.core.errors import UsageError
from edgeseed.core.network import StudentNetwork, unknown_model
from edgeseed.core.preprocess import Interpolation, Preprocess
from edgeseed.core.pretrained import (
    cannot_fetch,
    pooling_arguments,
    pooling_of,
    weights_in_cache,
)
from edgeseed.distill.networks.features import Features, check_image_size, extract
from edgeseed.distill.teachers._licences import Licence, licence_of_timm
from edgeseed.distill.teachers._table import (
    TeacherInfo,
    families_of_files,
    find_teacher,
)
from edgeseed.distill.teachers.network import Teacher


class TimmTrunk(nn.Module):
    """A timm network without its classifier."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Features:
        """Maps (B, 3, H, W) normalised images to embeddings and maps."""
        return extract(self.network, images)


def load_timm(name: str, *, image_size: int | None) -> Teacher:
    """Loads the weights that timm serves, from its cache or from the net.

    Raises:
        UnknownNameError: If there is no such network.
        UsageError: If there are no such weights.
        WorkError: If they cannot be fetched.
    """
    families = ", ".join(families_of_files(name))
    if families and not timm.is_model(name):
        raise UsageError(
            f"teacher {name} is a file ({families}), not one that timm serves: fetch it, and write "
            f"{name}=CHECKPOINT"
        )
    check_name(name)
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UsageError(f"teacher {name}: timm has no weights of it; give a file: {name}=PATH")
    full_name = f"{name.partition('.')[0]}.{config.tag}" if config.tag else name
    if families:
        note(
            f"teacher {name} is timm's {full_name}; those of {families} are files, written "
            f"{name}=CHECKPOINT"
        )
    info = find_teacher(full_name)
    # The classifier is built and taken off after loading: with it timm loads strictly.
    network = build_timm(
        full_name,
        input_size(image_size, info, config.input_size),
        pretrained=True,
        **pooling_arguments(full_name),
        **weights_in_cache(full_name, config),
    )
    return make_teacher(
        network,
        name=full_name,
        preprocess=preprocess_of_timm(network, image_size=image_size, info=info),
        licence=licence_of_timm(info, config.license),
        heads=_take_off_classifier(network, full_name),
    )


def check_name(name: str) -> None:
    """Refuses an architecture, or a tag of weights, that timm does not know."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_model("teacher", name)
    known = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in known:
        tags = ", ".join(sorted(full.partition(".")[2] for full in known)) or "none"
        raise UsageError(
            f"teacher {name}: {architecture} has no weights tagged {tag!r}; timm has: {tags}"
        )


def input_size(image_size: int | None, info: TeacherInfo | None, native: tuple[int, ...]) -> int:
    """What was asked for, or what suits the teacher."""
    if image_size is not None:
        return image_size
    return native[-1] if info is None else info.image_size


def build_timm(name: str, image_size: int, **kwargs: Any) -> nn.Module:
    """Builds a network for an input of `image_size`, whatever its class calls that."""
    wishes: tuple[dict[str, Any], ...]
    wishes = ({"img_size": image_size, "dynamic_img_size": True}, {"img_size": image_size}, {})
    for sizes in wishes:
        try:
            network: nn.Module = timm.create_model(name, **sizes, **kwargs)
        except TypeError as error:
            if not _is_refusal(error, sizes):
                raise
        except (OSError, URLError) as error:
            raise cannot_fetch(name, error) from error
        else:
            check_image_size(f"teacher {name}", network, image_size)
            return network
    raise AssertionError(f"timm.create_model({name!r}) refused arguments that it was not given")


def _is_refusal(error: TypeError, sizes: Mapping[str, Any]) -> bool:
    text = str(error)
    return "unexpected keyword argument" in text and any(f"'{key}'" in text for key in sizes)


def _take_off_classifier(network: Any, name: str) -> dict[str, nn.Module]:
    classifier = network.get_classifier()
    network.reset_classifier(0)
    # What CLIP has there is not a classifier, but its projection towards text.
    is_projection = "clip" in name and "_ft_" not in name
    return {"classifier": classifier} if _is_classifier(classifier) and not is_projection else {}


def _is_classifier(module: object) -> bool:
    return isinstance(module, nn.Linear) and module.out_features > 0


def make_teacher(
    network: nn.Module,
    *,
    name: str,
    preprocess: Preprocess,
    licence: Licence,
    heads: Mapping[str, nn.Module],
) -> Teacher:
    """Freezes a timm network without classifier."""
    return Teacher(
        TimmTrunk(network),
        name=name,
        embedding_dim=StudentNetwork(network).embedding_dim,
        preprocess=preprocess,
        pooling=pooling_of(network),
        licence=licence.text,
        commercial_ok=licence.commercial_ok,
        heads=heads,
    )


def preprocess_of_timm(
    network: nn.Module, *, image_size: int | None, info: TeacherInfo | None
) -> Preprocess:
    """The input that timm's configuration of the network states."""
    config = cast(Any, network).pretrained_cfg
    size = input_size(image_size, info, config["input_size"])
    return Preprocess(
        image_size=size,
        resize=max(size, round(size / config["crop_pct"])),
        interpolation=cast(Interpolation, config["interpolation"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
