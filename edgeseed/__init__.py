"""edgeseed: from unlabelled photos and a big teacher to a small model, proven right and fast on a device."""

from importlib.metadata import version as _version

__version__ = _version("edgeseed")
