"""A warm-up of a twentieth of a second, for tests of all that comes after it."""

import zipfile

import pytest

from edgeseed.runtime.agent import _pack

_RULE = "min_seconds: float = 1.0"


def warm_up_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes the agents that are packed from now on; tests of the rule itself leave them alone.

    A hundred tests measure a network of microseconds through an agent, and each would keep a core
    busy for a second more.
    """
    real = _pack._add

    def add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
        if name == "edgeseed/runtime/latency.py":
            assert content.count(_RULE.encode()) == 1
            content = content.replace(_RULE.encode(), b"min_seconds: float = 0.05")
        real(archive, name, content)

    monkeypatch.setattr(_pack, "_add", add)
