"""Recipes refuse what cannot be meant."""

import pytest

from edgeseed.distill.training.recipe import Recipe


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lr", 0.0, "lr=0.0 must be above 0"),
        ("lr", float("nan"), "lr=nan must be a finite number"),
        ("final_weight_decay", float("inf"), "final_weight_decay=inf must be a finite number"),
        ("batch_size", -1, "batch_size=-1 must be above 0"),
        ("epochs", 0, "epochs=0 must be above 0"),
        ("weight_decay", -0.1, "weight_decay=-0.1 must not be negative"),
        ("clip_norm", 0.0, "clip_norm=0.0 must be above 0, or none"),
        ("milestones", (0.5, 2.0), "fractions of the run"),
        ("schedule", "step", "schedule=step needs milestones"),
    ],
)
def test_recipe_names_the_field_and_what_is_allowed(
    field: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**{"optimizer": "sgd", "lr": 0.1, field: value})  # type: ignore[arg-type]
