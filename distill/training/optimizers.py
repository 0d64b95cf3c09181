"""Optimisers by name, with the parameters that weight decay spares in a group of their own."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from edgeseed.distill.method import Method
from edgeseed.distill.training.recipe import Recipe


def build_optimizer(method: Method[Any], recipe: Recipe) -> Optimizer:
    """Makes the recipe's optimiser for all parameters of a method that are trained.

    Each group carries `decays`: whether the schedule of weight decay moves it.
    """
    groups = _groups(method, recipe)
    lr, momentum = recipe.peak_lr, recipe.momentum
    # Fused kernels update all tensors in one call; small students have hundreds of tiny ones.
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    if recipe.optimizer == "sgd":
        return _with_momentum(SGD(groups, lr=lr, momentum=momentum, fused=fused))
    if recipe.optimizer == "adam":
        return Adam(groups, lr=lr, fused=fused)
    if recipe.optimizer == "adamw":
        return AdamW(groups, lr=lr, fused=fused)
    return LARS(groups, lr=lr, momentum=momentum)


def _with_momentum(optimizer: SGD) -> SGD:
    """Gives every parameter its buffer of zeros at once: the same steps as when torch makes them.

    The fused kernel fails on weights that get their first gradient later than others, as those do
    that a method keeps frozen for an epoch.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if group["momentum"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _groups(method: Method[Any], recipe: Recipe) -> list[dict[str, Any]]:
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            decays = recipe.decay_norm_and_bias or method.decays(name, parameter)
            (decayed if decays else spared).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": recipe.weight_decay, "decays": True},
        {"params": spared, "weight_decay": 0.0, "decays": False},
    ]
    return [group for group in groups if group["params"]]


def set_rates(optimizer: Optimizer, *, lr: float, weight_decay: float) -> None:
    """Sets the step's learning rate and weight decay in every group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if group["decays"]:
            group["weight_decay"] = weight_decay


class LARS(Optimizer):
    """LARS: Large Batch Training of Convolutional Networks, 2017, arXiv 1708.03888.

    ```text
    g = ∇w + λ w
    r = η |w| / |g|         1 where either is 0, or where λ spares w
    v = μ v + r lr g
    w = w − v
    ```
    As SimCLR's code has it: the rate is inside the momentum, and groups that weight decay spares
    get plain momentum.

    Args:
        params: Parameters, or groups of them; `decays=False` in a group spares it.
        lr: Learning rate.
        momentum: μ.
        weight_decay: λ.
        trust: η.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust": trust,
            "decays": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates all parameters once."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        rate: Tensor | float = group["lr"]
        if group["decays"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
            size, steepness = parameter.norm(), gradient.norm()
            ratio = torch.where(
                (size > 0) & (steepness > 0),
                group["trust"] * size / steepness,
                torch.ones_like(size),
            )
            rate = ratio * group["lr"]
        state = self.state[parameter]
        velocity = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
        velocity.mul_(group["momentum"]).add_(gradient * rate)
        parameter.sub_(velocity)
