"""A target in one folder, for tests: a list of operators, fed with photos as bytes, NHWC."""

from support.targets.toy.target import TARGET

__all__ = ["TARGET"]
