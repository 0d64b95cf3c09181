"""coremltools, wrapped once: quiet, late, and never on Windows."""

import logging
import sys
import warnings

import pytest

from edgeseed.core.errors import MissingDependencyError
from edgeseed.export.targets.coreml import tools


def test_what_is_printed_while_it_works_is_held_back_and_errors_pass(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logger = logging.getLogger("coremltools")
    before = logger.level
    with tools.quiet():
        print("a progress bar", file=sys.stderr)
        warnings.warn("another torch", stacklevel=1)
        assert logger.level == logging.ERROR
    assert capsys.readouterr().err == ""
    with pytest.raises(ZeroDivisionError), tools.quiet():
        _ = 1 / 0
    assert logger.level == before


def test_windows_is_told_where_to_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(MissingDependencyError, match="--target coreml needs coremltools, which"):
        tools.load_coremltools("--target coreml")


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "coremltools", None)
    with pytest.raises(MissingDependencyError, match="--target coreml"):
        tools.load_coremltools("--target coreml")


def test_looking_whether_it_is_there_does_not_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not tools.is_available()
