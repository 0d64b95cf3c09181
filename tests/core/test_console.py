"""What a person reads: words that agree with their number."""

import pytest

from edgeseed.core.console import count_of


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "epoch", "1 epoch"),
        (2, "epoch", "2 epochs"),
        (1, "pass", "1 pass"),
        (3, "pass", "3 passes"),
    ],
)
def test_a_noun_agrees_with_its_number(number: int, noun: str, text: str) -> None:
    # "1 epochs" and "1 passes" were printed.
    assert count_of(number, noun) == text
