"""Core ML for iPhones, iPads and Macs: an ML program in a `.mlpackage`, made on Linux or macOS."""

from edgeseed.export.targets.coreml.target import TARGET

__all__ = ["TARGET"]
