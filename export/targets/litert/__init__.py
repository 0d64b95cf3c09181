"""LiteRT (TensorFlow Lite's successor) for Android apps, boards and CPUs."""

from edgeseed.export.targets.litert.target import TARGET

__all__ = ["TARGET"]
