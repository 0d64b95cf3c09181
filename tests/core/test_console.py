"""What a person reads: words that agree with their number."""

import pytest

from edgeseed.core.console import count_of, note, printable, quiet, say, warn


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


def test_warnings_are_said_but_where_nobody_will_use_the_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with quiet():
        warn("the photos are all alike")
        with quiet(warnings=True):
            warn("the photos are all black")

    warn("the photos are all white")
    assert capsys.readouterr().err == (
        "warning: the photos are all alike\nwarning: the photos are all white\n"
    )


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


_KEPT = "\u00e9t\u00e9 \u732b \U0001f408\u200d\u2b1b\u00a0ok\n\t"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("a\u202etxt.gpj", "a\\u202etxt.gpj"),
        ("line\u2028break\x85", "line\\u2028break\\x85"),
        ("half \udce9", "half \\udce9"),
        ("\x07\x00\x7f\r", "\\x07\\x00\\x7f\\x0d"),
        (
            "\u00e9t\u00e9 \u732b \U0001f408\u200d\u2b1b\u00a0ok\n\t",
            "\u00e9t\u00e9 \u732b \U0001f408\u200d\u2b1b\u00a0ok\n\t",
        ),
    ],
)
def test_no_character_of_a_name_steers_the_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_names_are_escaped_wherever_they_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    for tell in (say, note, warn):
        tell("photo \x1b]0;title\x07.png")
    told = capsys.readouterr().err
    assert "\x1b" not in told
    assert "\x07" not in told
    assert told.count("\\x1b]0;title") == 3
