"""ONNX for ONNX Runtime on CPUs, Android and in browsers."""

from edgeseed.export.targets.onnx.target import TARGET

__all__ = ["TARGET"]
