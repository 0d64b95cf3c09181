"""Commands whose lines are handed on as they come."""

import os
import sys

import pytest

from edgeseed.runtime.devices._process import stream


def python(code: str) -> list[str]:
    return [sys.executable, "-S", "-c", code]


def test_lines_code_and_errors_of_a_command_come_back() -> None:
    lines: list[str] = []
    ended = stream(
        python("import sys; print('one'); print('two'); sys.stderr.write('no'); sys.exit(3)"),
        on_line=lines.append,
    )
    assert lines == ["one\n", "two\n"]
    assert (ended.exit_code, ended.stderr) == (3, "no")


def test_a_command_that_says_much_on_stderr_does_not_stop() -> None:
    # A pipe holds 64 KiB, and its writer waits for a reader.
    ended = stream(
        python("import sys; sys.stderr.write('x' * 200_000 + 'end'); print('done')"),
        on_line=lambda line: None,
    )
    assert ended.exit_code == 0
    assert ended.stderr.endswith("xend")
    assert len(ended.stderr) == 4000


def test_bytes_that_are_no_text_do_not_stop_it() -> None:
    lines: list[str] = []
    stream(python("import os; os.write(1, b'\\xff\\n')"), on_line=lines.append)
    assert lines == ["\ufffd\n"]


def test_a_command_whose_listener_fails_is_ended() -> None:
    numbers: list[int] = []

    def fail(line: str) -> None:
        numbers.append(int(line))
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        stream(
            python("import os, time; print(os.getpid(), flush=True); time.sleep(60)"), on_line=fail
        )
    with pytest.raises(ProcessLookupError):
        os.kill(numbers[0], 0)
