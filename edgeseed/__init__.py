"""edgeseed: from unlabelled photos and a big teacher to a small model, proven on your device."""

from typing import Any


def __getattr__(name: str) -> Any:
    # importlib.metadata costs a tenth of the time that `edgeseed --help` may take.
    if name == "__version__":
        from edgeseed.core.environment import edgeseed_version

        return edgeseed_version()
    raise AttributeError(f"module 'edgeseed' has no attribute {name!r}")
