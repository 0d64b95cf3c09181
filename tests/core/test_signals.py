import signal

import pytest

from edgeseed.cli import _main
from edgeseed.core.errors import WorkError
from edgeseed.core.signals import ending_code


def failure(first: BaseException, *, told: bool = False) -> BaseException:
    """What comes out where a library breaks as it is taken down, and we say so or not."""
    try:
        try:
            raise first
        finally:
            try:
                raise AssertionError("Trying to pop empty mode stack")
            except AssertionError as error:
                if told:
                    raise WorkError("ONNX cannot express this network") from error
                raise
    except BaseException as found:
        return found


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize(
    ("first", "code"),
    [(SystemExit(143), 143), (SystemExit(129), 129), (KeyboardInterrupt(), 130)],
)
def test_the_beginning_of_a_failure_gives_the_exit_code(
    first: BaseException, code: int, told: bool
) -> None:
    assert ending_code(failure(first, told=told)) == code


@pytest.mark.parametrize("first", [ValueError("x"), SystemExit(2), SystemExit("text")])
def test_what_no_signal_began_has_none(first: BaseException) -> None:
    assert ending_code(failure(first)) is None


@pytest.mark.parametrize("told", [False, True])
def test_a_signal_within_a_librarys_own_lines_is_no_traceback(
    told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(**_: object) -> None:
        raise failure(SystemExit(128 + signal.SIGTERM), told=told)

    monkeypatch.setattr(_main.cli, "main", work)
    with pytest.raises(SystemExit) as ended:
        _main.main(["targets"])
    assert ended.value.code == 143
    assert capsys.readouterr().err == ""


def test_what_was_kept_is_said_also_after_a_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(**_: object) -> None:
        try:
            raise SystemExit(143)
        except SystemExit as error:
            raise WorkError("the measurement is in r.measurement.json") from error

    monkeypatch.setattr(_main.cli, "main", work)
    with pytest.raises(SystemExit) as ended:
        _main.main(["targets"])
    assert ended.value.code == 143
    assert "r.measurement.json" in capsys.readouterr().err
