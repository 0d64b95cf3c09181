"""Where a run computes, in which precision, and together with which other processes."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from edgeseed.core.errors import UsageError

Precision = Literal["auto", "fp32", "bf16"]

_BIG_TEACHER = 5_000_000
"""Parameters from which a bfloat16 teacher pays on a CPU that multiplies it in hardware."""


@dataclass(frozen=True, slots=True)
class Dtypes:
    """Precision of matrix products; weights, losses and statistics are float32 always."""

    student: torch.dtype
    teacher: torch.dtype


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Joins the processes that torchrun started, if it did."""
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or dist.is_initialized():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def choose_device(devices: str | int) -> torch.device:
    """The device of this process.

    Args:
        devices: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1`, `mps`, or how many
            processes torchrun was asked for.

    Raises:
        UsageError: If there is no such device, or a count that torchrun did not start.
    """
    text = str(devices)
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if text.isdigit():
        if int(text) != world_size:
            raise UsageError(_wrong_count(int(text), world_size))
        text = "auto"
    if text == "auto":
        text = _best_device()
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", text):
        raise UsageError(f"--devices {devices}: give auto, cpu, cuda, cuda:N, mps or a number")
    return _checked(torch.device(text), world_size)


def prefers_channels_last(device: torch.device, image_size: int) -> bool:
    """Whether a student of this size learns faster with channels last in memory.

    On a CPU it is 0.95 times as fast at 32 pixels, 1.3 to 1.8 times at 64; a Mac's GPU, where
    nobody has measured, is treated like one. An NVIDIA GPU computes less with channels last, but
    the host has more to do to start its kernels, and small students wait for the host: at 64
    pixels, in bfloat16, a step of 512 photos took 39 ms (MobileNetV3-L) and 63 ms
    (EfficientNet-Lite0) on an H100, and 34 and 35 ms with channels first. At 82 and 88 pixels the
    GPU's own work would take as long, reckoned from that; smaller batches wait longer.
    """
    return image_size >= (96 if device.type == "cuda" else 48)


def send(values: npt.NDArray[np.generic] | Tensor, device: torch.device) -> Tensor:
    """A host's values on a device, of their type.

    A plain copy to a GPU waits until it has done all that it was given before; from pinned memory
    the copy takes its place in that queue, and the host goes on.
    """
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(values)
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _wrong_count(wanted: int, started: int) -> str:
    if started == 1:
        return (
            f"--devices {wanted}: several devices need one process each; "
            f"start it as `torchrun --nproc-per-node {wanted} -m edgeseed distill ...`"
        )
    return f"--devices {wanted}: torchrun started {started} processes; use the same number, or auto"


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _checked(device: torch.device, world_size: int) -> torch.device:
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--devices mps: this machine or this torch has no Metal device; use cpu")
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count()
    index = int(os.environ.get("LOCAL_RANK", "0")) if world_size > 1 else device.index or 0
    if index >= count:
        raise UsageError(f"--devices {device}: torch sees {count} CUDA devices; use cpu or another")
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def choose_dtypes(
    precision: Precision, *, device: torch.device, teacher: nn.Module | None
) -> Dtypes:
    """Which precision the networks run in.

    `auto` is bfloat16 on GPUs that have it. On CPUs it is float32 for the student, whose small
    convolutions gain nothing (measured: 0.8 to 1.2 times as fast), and bfloat16 for a big teacher
    where the CPU multiplies it in hardware (measured: 6 times as fast).

    Raises:
        UsageError: If the precision is not known.
    """
    full, half = torch.float32, torch.bfloat16
    if precision == "fp32":
        return Dtypes(full, full)
    if precision == "bf16":
        return Dtypes(half, half)
    if precision != "auto":
        raise UsageError(f"--precision {precision}: give auto, fp32 or bf16")
    if device.type == "cuda":
        dtype = half if torch.cuda.is_bf16_supported(including_emulation=False) else full
        return Dtypes(dtype, dtype)
    if device.type == "cpu" and teacher is not None and _multiplies_bf16():
        size = sum(parameter.numel() for parameter in teacher.parameters())
        return Dtypes(full, half if size >= _BIG_TEACHER else full)
    return Dtypes(full, full)


def _multiplies_bf16() -> bool:
    # Not public in torch, and absent in some builds: then the answer is the safe one.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)
