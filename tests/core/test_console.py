"""What a person reads: words that agree with their number."""

import pytest

from edgeseed.core.console import count_of, note, quiet, say


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


def test_notes_are_said_where_progress_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet():
        say("halfway")
        note("a smaller batch")
    with quiet(notes=True):
        note("a smaller batch, says the second process")
        with quiet():
            note("and within")
    with quiet(False, notes=True):
        note("the first process")
    assert capsys.readouterr().err == "note: a smaller batch\nnote: the first process\n"
