"""TensorRT for NVIDIA Jetsons and servers: an ONNX that says every type, and how to build it."""

from edgeseed.export.targets.tensorrt.target import TARGET

__all__ = ["TARGET"]
