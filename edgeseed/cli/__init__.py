"""The `edgeseed` command."""

from edgeseed.cli._main import main

__all__ = ["main"]
