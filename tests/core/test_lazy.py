"""Public names that are imported when first used."""

import sys
from pathlib import Path

import pytest

from edgeseed.core.lazy import attach


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with one module, which counts how often it is imported."""
    (tmp_path / "lazily").mkdir()
    (tmp_path / "lazily/__init__.py").touch()
    (tmp_path / "lazily/heavy.py").write_text("weight = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("lazily", "lazily.heavy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "lazily"


def test_a_name_is_imported_when_it_is_asked_for(package: str) -> None:
    get, names = attach(package, {"b": ".heavy:weight", "a": ".heavy:weight"})
    assert names == ["a", "b"]
    assert "lazily.heavy" not in sys.modules
    assert get("a") == 7
    assert "lazily.heavy" in sys.modules


def test_an_unknown_name_is_the_error_that_python_gives(package: str) -> None:
    get, _ = attach(package, {"a": ".heavy:weight"})
    with pytest.raises(AttributeError, match="module 'lazily' has no attribute 'c'"):
        get("c")
