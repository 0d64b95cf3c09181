"""Weights of other programs: read without running code, unwrapped, every key accounted for.

Training scripts wrap a network's weights in containers (`{"state_dict": ...}`) and prefixes
(`module.`, `teacher.backbone.`). What is found below them is one state dict; what is not used is
listed with the reason.
"""

import argparse
import collections
import dataclasses
import pathlib
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from edgeseed.core.errors import ArtifactError, UsageError

Weights = Mapping[str, torch.Tensor]

# Where training scripts keep the weights, the best first: an average is better than its latest
# summand, and a teacher is the average of its students.
CONTAINERS = (
    "teacher", "state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict",
    "model_state_dict", "model", "student", "network", "net",
)  # fmt: skip
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
# What the readers raise of bytes that are no weights.
_BROKEN = (
    ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError,
    MemoryError, OSError, RuntimeError, TypeError, ValueError, SafetensorError, struct.error,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_MAX_DEPTH = 3
_AVERAGED = ("teacher", "ema", "average")
_LISTED = 6


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
        with torch.serialization.safe_globals(list(_HARMLESS)), warnings.catch_warnings():
            # torch guesses aloud about bytes that are no checkpoint, and then refuses them.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtifactError(_refusal(path, str(error))) from error
    except _BROKEN as error:
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ArtifactError(
            f"{path} is not a whole checkpoint ({reason}); it may be truncated: fetch it again"
        ) from error


def _refusal(path: Path, message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message)
    if found is None:
        return f"{path} is not a PyTorch checkpoint; .pth, .pt and .safetensors files are read"
    return (
        f"{path} holds more than weights: it wants to load {found[1]}, which can run code on this "
        "machine, so it was not opened; where you trust its origin, save its state_dict alone "
        "(better: as .safetensors)"
    )


def is_state(value: Any) -> bool:
    """Whether a value is a state dict: names of tensors, and nothing else."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) for name in value)
        and all(isinstance(item, torch.Tensor) for item in value.values())
    )


def unwrap(content: Any, *, path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Finds the state dict in what a training script saved.

    Args:
        content: What `read_weights` returned.
        path: For messages.

    Returns:
        The weights, without the prefixes of DistributedDataParallel and torch.compile; and for
        each other entry of the file why it is not used.

    Raises:
        ArtifactError: If there is no state dict.
    """
    aside: dict[str, str] = {}
    inner = content
    for _ in range(_MAX_DEPTH):
        if is_state(inner):
            return {bare_name(name): tensor for name, tensor in inner.items()}, aside
        if not isinstance(inner, Mapping):
            break
        name = next((name for name in CONTAINERS if isinstance(inner.get(name), Mapping)), None)
        if name is None:
            break
        aside |= {str(key): f"not needed beside {name!r}" for key in inner if key != name}
        inner = inner[name]
    found = (
        f"the entries {', '.join(map(str, list(content)[:8]))}"
        if isinstance(content, Mapping)
        else "no mapping"
    )
    raise ArtifactError(
        f"{path} holds {found}, but no state dict was found there; one of {', '.join(CONTAINERS)} "
        "or a bare state dict was expected"
    )


def bare_name(name: str) -> str:
    """Without the prefixes of DistributedDataParallel and torch.compile."""
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name


@dataclasses.dataclass(frozen=True, slots=True)
class Below:
    """The weights below one prefix.

    Attributes:
        prefix: Such as `teacher.backbone.`; empty if there is none.
        weights: Without the prefix.
        others: Those that are not below it, as they are called.
    """

    prefix: str
    weights: dict[str, torch.Tensor]
    others: dict[str, torch.Tensor]


def below_common_prefix(weights: Weights, expected: Collection[str]) -> Below:
    """Finds the prefix below which the names are those of a network.

    Of several that fit equally well, as `student.` and `teacher.`, averaged weights win.

    Args:
        weights: Name -> tensor.
        expected: Names of the network's own state dict.
    """
    known = set(expected)
    scores: Counter[str] = Counter()
    for name in weights:
        parts = name.split(".")
        for at in range(len(parts)):
            if ".".join(parts[at:]) in known:
                scores["".join(f"{part}." for part in parts[:at])] += 1
    best = max(
        scores,
        key=lambda prefix: (
            scores[prefix],
            any(word in prefix for word in _AVERAGED),
            -len(prefix),
        ),
        default="",
    )
    return Below(
        best,
        {
            name.removeprefix(best): value
            for name, value in weights.items()
            if name.startswith(best)
        },
        {name: value for name, value in weights.items() if not name.startswith(best)},
    )


def some_of(names: Collection[str]) -> str:
    """The first of many names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more


def describe_misfit(error: RuntimeError, *, path: Path | str, name: str) -> ArtifactError:
    """What torch says of a strict load, as one line: missing, unexpected, of another shape."""
    text = str(error)
    parts = []
    for heading in ("Missing", "Unexpected"):
        match = re.search(rf"{heading} key\(s\) in state_dict: ([^\n]*)", text)
        if match:
            keys = re.findall(r'"([^"]+)"', match[1])
            parts.append(f"{len(keys)} {heading.lower()}: {some_of(keys)}")
    shapes = re.findall(
        r"size mismatch for ([^:]+): .*?torch.Size\((\[[^]]*\]).*?torch.Size\((\[[^]]*\])", text
    )
    if shapes:
        described = [f"{key} {found} instead of {wanted}" for key, found, wanted in shapes]
        parts.append(f"{len(shapes)} of another shape: {some_of(described)}")
    found = "; ".join(parts) or " ".join(text.split())[:300]
    return ArtifactError(
        f"{path} does not fit {name}: {found}; is it another architecture, or a format that "
        "edgeseed does not know?"
    )
