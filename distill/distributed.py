"""The few collectives that methods need. Without a process group each is the identity.

What is gathered is in rank order, so that queues, banks and centres stay identical on all ranks.
"""

import datetime
import hashlib
import os
import time
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function

from edgeseed.core.console import note


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process writes the files and speaks to the user."""
    return rank() == 0


def gather(tensor: Tensor) -> Tensor:
    """All ranks' tensors, one after the other along the first axis. No gradient.

    Args:
        tensor: Of the same shape on every rank.
    """
    tensor = tensor.detach()
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def gather_with_grad(tensor: Tensor) -> Tensor:
    """As `gather`, with the gradient: a rank gets the sum of what all losses say of its part.

    DDP averages gradients over ranks, so a loss that is the mean over the local batch ends up as
    the mean over the global one.
    """
    if world_size() == 1:
        return tensor
    return cast(Tensor, cast(Any, _Gather).apply(tensor))


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        del ctx
        return gather(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        del ctx
        grad = grads[0].contiguous()
        dist.all_reduce(grad)
        return grad.chunk(world_size())[rank()]


def mean(tensor: Tensor) -> Tensor:
    """The mean of all ranks' tensors. No gradient."""
    tensor = tensor.detach()
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / world_size()


# ------------------------------------------------------------------ errors

_STORE_SECONDS = 5


def is_first_to_fail(message: str) -> bool:
    """Whether no other process has failed with the same message; each is for one to say.

    True as well where the store that torchrun keeps for its processes cannot be reached.
    """
    digest = hashlib.sha256(message.encode("utf-8", "surrogateescape")).hexdigest()
    try:
        store = _store()
        store.add(_FAILED, 1)
        return int(store.add(f"{_FAILED}/{digest}", 1)) == 1
    except _STORE_ERRORS:
        return True


def has_another_failed() -> bool:
    """Whether another process fails within seconds with an error of ours, and says so."""
    deadline = time.monotonic() + _STORE_SECONDS
    try:
        store = _store()
        while time.monotonic() < deadline:
            if int(store.add(_FAILED, 0)):
                return True
            time.sleep(0.1)
    except _STORE_ERRORS:
        pass
    return False


_FAILED = f"edgeseed/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
_STORE_ERRORS = (RuntimeError, ValueError, OSError)


def _store() -> Any:
    """The store of torchrun, which outlives the processes that it starts."""
    return dist.TCPStore(  # type: ignore[attr-defined]
        os.environ.get("MASTER_ADDR", "localhost"),
        int(os.environ.get("MASTER_PORT", "0")),
        is_master=False,
        timeout=datetime.timedelta(seconds=_STORE_SECONDS),
        wait_for_workers=False,
    )


def synchronize_batch_norm(network: nn.Module) -> None:
    """Makes the BatchNorm layers inside see the batch of all ranks; names of weights stay.

    For contrastive losses whose negatives come from other ranks: with statistics of its own, each
    rank leaves a mark on its photos by which they are found without looking at them.
    """
    if world_size() == 1:
        return
    if dist.get_backend() != "nccl":
        note("BatchNorm stays within each process: PyTorch synchronises it on GPUs only")
        return
    from timm.layers.norm_act import convert_sync_batchnorm

    for name, child in network.named_children():
        setattr(network, name, convert_sync_batchnorm(child))
