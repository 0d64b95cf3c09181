"""Learning rates and weight decay along a run."""

import math

import pytest

from edgeseed.distill.training.recipe import Recipe
from edgeseed.distill.training.schedules import cosine, learning_rate, linear, weight_decay


def rates(recipe: Recipe, *, steps_per_epoch: int = 10) -> list[float]:
    total = recipe.epochs * steps_per_epoch
    return [
        learning_rate(recipe, step=s, total_steps=total, steps_per_epoch=steps_per_epoch)
        for s in range(total)
    ]


def test_warm_up_is_taken_off_the_cosine() -> None:
    # SEED's code runs the cosine under the warm-up: it never reaches its peak and bends twice.
    recipe = Recipe(optimizer="sgd", lr=1.0, warmup_epochs=2, epochs=10)
    values = rates(recipe)
    assert values[19] == values[20] == max(values) == 1.0
    assert values[0] == pytest.approx(1 / 20)
    assert values[20 + 40] == pytest.approx(0.5)
    assert values[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 79 / 80)))


def test_rates_rise_then_fall() -> None:
    values = rates(Recipe(optimizer="sgd", lr=0.3, warmup_epochs=1.5, epochs=4))
    peak = values.index(max(values))
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)


def test_warm_up_longer_than_the_run_leaves_one_step_at_the_peak() -> None:
    values = rates(Recipe(optimizer="sgd", lr=1.0, warmup_epochs=9, epochs=1))
    assert values[-1] == 1.0


def test_steps_fall_at_their_share_of_the_run() -> None:
    # CRD's 150, 180 and 210 of 240 epochs.
    recipe = Recipe(
        optimizer="sgd", lr=1.0, schedule="step", milestones=(0.625, 0.75, 0.875), epochs=8
    )
    values = rates(recipe)
    assert (values[49], values[50], values[60], values[70]) == pytest.approx((1, 0.1, 0.01, 0.001))


def test_constant_stays() -> None:
    assert set(rates(Recipe(optimizer="sgd", lr=0.2, schedule="constant", epochs=2))) == {0.2}


@pytest.mark.parametrize(("scaling", "factor"), [("linear", 4.0), ("sqrt", 2.0), ("none", 1.0)])
def test_peak_follows_the_batch(scaling: str, factor: float) -> None:
    recipe = Recipe(optimizer="sgd", lr=0.03, lr_scaling=scaling, batch_size=1024)  # type: ignore[arg-type]
    assert recipe.peak_lr == pytest.approx(0.03 * factor)


def test_weight_decay_follows_its_cosine_or_stays() -> None:
    moving = Recipe(optimizer="adamw", lr=1, weight_decay=0.04, final_weight_decay=0.4)
    assert weight_decay(moving, step=0, total_steps=100) == pytest.approx(0.04)
    assert weight_decay(moving, step=50, total_steps=100) == pytest.approx(0.22)
    assert weight_decay(moving, step=100, total_steps=100) == pytest.approx(0.4)
    still = Recipe(optimizer="adamw", lr=1, weight_decay=0.04)
    assert weight_decay(still, step=50, total_steps=100) == 0.04


def test_cosine_and_line_end_where_they_should_and_stay_there() -> None:
    assert (cosine(0, start=1, end=3), cosine(1, start=1, end=3)) == pytest.approx((1, 3))
    assert cosine(2, start=1, end=3) == pytest.approx(3)
    assert linear(0.25, start=0.04, end=0.08) == pytest.approx(0.05)
    assert linear(7, start=0.04, end=0.07) == pytest.approx(0.07)
