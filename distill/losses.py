"""Losses that methods share: pure functions of tensors, in the paper's order of symbols.

All of them compute in float32 (float64 stays), whatever precision the networks ran in: at a
temperature of 0.01 similarities become logits of ±100, where bfloat16 steps by a half.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from edgeseed.distill import distributed

_P = ParamSpec("_P")
_R = TypeVar("_R")


def in_full_precision(loss: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorates a loss: half-precision tensors become float32, and autocast is off inside."""

    @functools.wraps(loss)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        with torch.autocast(device, enabled=False):
            return loss(  # pyright: ignore[reportCallIssue]  # the same arguments, widened
                *map(_widen, args),
                **{name: _widen(value) for name, value in kwargs.items()},
            )

    return wrapped


def _widen(value: Any) -> Any:
    is_narrow = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if is_narrow else value


@in_full_precision
def soft_cross_entropy(student_logits: Tensor, teacher_probabilities: Tensor) -> Tensor:
    """`− mean_b Σ_j p_bj log softmax(l_b)_j`.

    Args:
        student_logits: (B, C) l, already divided by the temperature.
        teacher_probabilities: (B, C) p, rows sum to one.
    """
    return -(teacher_probabilities * student_logits.log_softmax(1)).sum(1).mean()


@in_full_precision
def entropy(probabilities: Tensor) -> Tensor:
    """`− mean_b Σ_j p_bj log p_bj`: the floor of a cross-entropy against these targets.

    Args:
        probabilities: (B, C) p, rows sum to one.
    """
    return cast(Tensor, torch.special.entr(probabilities)).sum(1).mean()


@in_full_precision
def queue_similarity(
    student: Tensor, teacher: Tensor, queue: Tensor, *, tau_student: float, tau_teacher: float
) -> tuple[Tensor, Tensor]:
    """SEED's two rows of similarities, `l_S` and `l_T` (arXiv 2101.04731, eq. 2 and 3).

    ```text
    l_S = [ z_S·z_T , z_S·d_1 , … , z_S·d_K ] / τ_S
    l_T = [ z_T·z_T , z_T·d_1 , … , z_T·d_K ] / τ_T
    ```
    Column 0 is the photo's own teacher embedding.

    Args:
        student: (B, D) z_S, any length; normalised here.
        teacher: (B, D) z_T, any length; normalised here.
        queue: (K, D) d, unit rows.
        tau_student: τ_S.
        tau_teacher: τ_T.

    Returns:
        l_S and l_T, both (B, K + 1).
    """
    student, teacher = F.normalize(student, dim=1), F.normalize(teacher, dim=1)
    own_student = (student * teacher).sum(1, keepdim=True)
    own_teacher = (teacher * teacher).sum(1, keepdim=True)
    return (
        torch.cat([own_student, student @ queue.T], dim=1) / tau_student,
        torch.cat([own_teacher, teacher @ queue.T], dim=1) / tau_teacher,
    )


@in_full_precision
def cosine_and_smooth_l1(
    prediction: Tensor, target: Tensor, *, cosine_weight: float, smooth_l1_weight: float
) -> Tensor:
    """`mean_b [ α (1 − cos(p_b, t_b)) + β mean_d smoothL1(p_bd − t_bd) ]` (arXiv 2603.22387).

    Args:
        prediction: (B, D) p.
        target: (B, D) t.
        cosine_weight: α.
        smooth_l1_weight: β.
    """
    angle = (1 - F.cosine_similarity(prediction, target, dim=1)).mean()
    return cosine_weight * angle + smooth_l1_weight * F.smooth_l1_loss(prediction, target)


@in_full_precision
def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """NT-Xent (arXiv 2002.05709, eq. 1) of two views, both directions added up (arXiv 2006.10029).

    ```text
    l(a, b) = − mean_i log [ exp(a_i·b_i / τ) / (Σ_j exp(a_i·b_j / τ) + Σ_{j≠i} exp(a_i·a_j / τ)) ]
    L = l(z, z') + l(z', z)
    ```
    i runs over this rank's photos, j over those of all ranks, with the gradient through both.
    SimCLR's first paper halves L.

    Args:
        first: (B, D) z of this rank, any length; normalised here.
        second: (B, D) z' of the same photos.
        temperature: τ.
    """
    first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
    all_first = distributed.gather_with_grad(first)
    all_second = distributed.gather_with_grad(second)
    own = torch.arange(len(first), device=first.device) + distributed.rank() * len(first)
    return _find(own, first, all_second, all_first, temperature) + _find(
        own, second, all_first, all_second, temperature
    )


def _find(own: Tensor, views: Tensor, others: Tensor, same: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding the other view of each photo; its own view is no candidate."""
    # B photos of this rank, N of all
    itself = F.one_hot(own, len(same)).bool()  # (B, N)
    rivals = (views @ same.T).masked_fill(itself, -torch.inf)
    logits = torch.cat([views @ others.T, rivals], dim=1) / temperature  # (B, 2 N)
    return F.cross_entropy(logits, own)


@in_full_precision
def info_nce(
    query: Tensor, key: Tensor, queue: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """InfoNCE with a queue of negatives (MoCo, arXiv 1911.05722, eq. 1).

    ```text
    l_i = [ q_i·k_i , q_i·d_1 , … , q_i·d_K ] / τ        L = − mean_i log softmax(l_i)_0
    ```

    Args:
        query: (B, D) q, any length; normalised here.
        key: (B, D) k, any length; normalised here.
        queue: (K, D) d, unit rows.
        temperature: τ.

    Returns:
        L, and the logits l, (B, K + 1).
    """
    query, key = F.normalize(query, dim=1), F.normalize(key, dim=1)
    own = (query * key).sum(1, keepdim=True)
    logits = torch.cat([own, query @ queue.T], dim=1) / temperature
    return -logits.log_softmax(1)[:, 0].mean(), logits


@in_full_precision
def kl_divergence(student_logits: Tensor, teacher_probabilities: Tensor) -> Tensor:
    """`mean_b Σ_j p_bj (log p_bj − log softmax(l_b)_j)`: zero where the student agrees.

    The mean is over rows. PyTorch's default is over rows and classes, which makes the loss C times
    smaller; DoGo's weight of 100 comes from that.

    Args:
        student_logits: (B, C) l, already divided by the temperature.
        teacher_probabilities: (B, C) p, rows sum to one.
    """
    return F.kl_div(student_logits.log_softmax(1), teacher_probabilities, reduction="batchmean")


@in_full_precision
def soft_label_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """Hinton's soft labels (arXiv 1503.02531): `− T² mean_b Σ_y p_by log softmax(l_b / T)_y`.

    T² keeps the size of the gradient, which goes with 1 / T².

    Args:
        student_logits: (B, C) l.
        teacher_logits: (B, C); p is their softmax at T.
        temperature: T.

    Returns:
        The loss, and its floor: T² times the entropy of p. Their difference is T² KL(p ∥ student).
    """
    target = (teacher_logits / temperature).softmax(1)
    loss = soft_cross_entropy(student_logits / temperature, target)
    return temperature**2 * loss, temperature**2 * entropy(target)


@in_full_precision
def labelled_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the photos that have a label; 0 if none has.

    Args:
        logits: (B, C).
        labels: (B,) class of each photo, -1 where it has none.
    """
    total = F.cross_entropy(logits, labels, ignore_index=-1, reduction="sum")
    return total / (labels >= 0).sum().clamp(min=1)
