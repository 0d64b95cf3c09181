"""Teachers from `torch.hub`: each repository has its own way to say embedding and feature map."""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from edgeseed.core.console import warn
from edgeseed.core.errors import ArtifactError, UsageError, WorkError
from edgeseed.core.registry import unknown_name
from edgeseed.distill.networks.features import Features


class HubTrunk(nn.Module):
    """A network that gives (B, D) embeddings, and a map where its family keeps one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> Features:
        """Maps (B, 3, H, W) normalised images to embeddings and maps."""
        network: Any = self.network
        if hasattr(network, "get_intermediate_layers"):  # DINO's and DINOv2's transformers
            return self._transformer(images)
        if hasattr(network, "layer4"):  # torchvision's ResNets
            hidden = images
            for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
                hidden = getattr(network, name)(hidden)
            return Features(hidden.mean(dim=(2, 3)), hidden)
        return Features(network(images), None)

    def _transformer(self, images: torch.Tensor) -> Features:
        network: Any = self.network
        patch_size = network.patch_embed.patch_size
        side = patch_size[0] if isinstance(patch_size, tuple) else patch_size
        grid = (images.shape[2] // side, images.shape[3] // side)
        features = (
            network.forward_features(images) if hasattr(network, "forward_features") else None
        )
        if isinstance(
            features, dict
        ):  # DINOv2 normalises class and patch tokens apart from the registers
            embedding, patches = features["x_norm_clstoken"], features["x_norm_patchtokens"]
        else:
            tokens = network.get_intermediate_layers(images, n=1)[0]
            embedding, patches = tokens[:, 0], tokens[:, 1:]
        return Features(embedding, patches.transpose(1, 2).unflatten(2, grid))


def load_hub_trunk(spec: str) -> HubTrunk:
    """Loads `hub:REPO:ENTRY`; REPO is `owner/name[:ref]` on GitHub, or a local clone.

    Raises:
        UsageError: If the spec is not of that form or the repository has no such entry.
        WorkError: If it cannot be fetched.
        ArtifactError: If the entry is no network that gives embeddings.
    """
    repo, _, entry = spec.removeprefix("hub:").rpartition(":")
    if not repo or not entry:
        raise UsageError(
            f"teacher {spec!r} is not of the form hub:OWNER/REPO[:REF]:ENTRY or hub:FOLDER:ENTRY"
        )
    source = "local" if Path(repo).is_dir() else "github"
    warn(f"teacher {spec} runs the code of {repo} on this machine")
    try:
        network = torch.hub.load(
            repo,
            entry,
            source=source,
            trust_repo=True,  # pyright: ignore[reportArgumentType]  # bools are documented
            verbose=False,
        )
    except (URLError, OSError) as error:
        raise _unreachable(spec, error) from error
    except (RuntimeError, ValueError) as error:
        if "Cannot find callable" in str(error):
            raise _no_such_entry(repo, entry, source) from error
        raise WorkError(f"teacher {spec}: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(network, nn.Module):
        raise ArtifactError(
            f"teacher {spec}: {entry} returned a {type(network).__name__}; a network was expected"
        )
    # SwAV's and others' entries are torchvision ResNets whose classifier was never trained.
    if isinstance(getattr(network, "fc", None), nn.Linear):
        network.fc = nn.Identity()
    return HubTrunk(network)


def _no_such_entry(repo: str, entry: str, source: str) -> UsageError:
    if source == "local":
        return UsageError(f"{repo}/hubconf.py has no entry {entry!r}; look there for their names")
    entries = torch.hub.list(
        repo,
        trust_repo=True,  # pyright: ignore[reportArgumentType]  # bools are documented
        verbose=False,
    )
    return unknown_name(f"entry of {repo}", entry, entries)


def _unreachable(spec: str, error: BaseException) -> WorkError:
    return WorkError(
        f"teacher {spec} cannot be fetched ({error}); without a network, give a local clone with "
        "its weights "
        "(hub:FOLDER:ENTRY), or the weights alone with their architecture (NAME=PATH)"
    )
