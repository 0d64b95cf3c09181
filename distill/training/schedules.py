"""Values that change along a run: the learning rate, weight decay, momenta and temperatures."""

import math

from edgeseed.distill.training.recipe import Recipe


def cosine(fraction: float, *, start: float, end: float) -> float:
    """Half a cosine from `start` (fraction 0) to `end` (fraction 1)."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * min(max(fraction, 0.0), 1.0)))


def linear(fraction: float, *, start: float, end: float) -> float:
    """A straight line from `start` (fraction 0) to `end` (fraction 1), then `end`."""
    return start + (end - start) * min(max(fraction, 0.0), 1.0)


def learning_rate(recipe: Recipe, *, step: int, total_steps: int, steps_per_epoch: int) -> float:
    """The learning rate of one step.

    The warm-up rises to the peak at its last step, and the cosine has the steps that are left:
    SEED's code lets the cosine run under the warm-up, so that its peak is never reached.

    Args:
        recipe: Peak, schedule and warm-up.
        step: Steps done before this one.
        total_steps: Steps of the whole run.
        steps_per_epoch: Steps of an epoch.
    """
    warmup = min(round(recipe.warmup_epochs * steps_per_epoch), total_steps - 1)
    if step < warmup:
        return recipe.peak_lr * (step + 1) / warmup
    if recipe.schedule == "constant":
        return recipe.peak_lr
    if recipe.schedule == "step":
        passed = sum(step >= round(share * total_steps) for share in recipe.milestones)
        return recipe.peak_lr * recipe.step_factor**passed
    fraction = (step - warmup) / max(total_steps - warmup, 1)
    return cosine(fraction, start=recipe.peak_lr, end=min(recipe.final_lr, recipe.peak_lr))


def weight_decay(recipe: Recipe, *, step: int, total_steps: int) -> float:
    """The weight decay of one step."""
    if recipe.final_weight_decay is None:
        return recipe.weight_decay
    fraction = step / max(total_steps, 1)
    return cosine(fraction, start=recipe.weight_decay, end=recipe.final_weight_decay)
