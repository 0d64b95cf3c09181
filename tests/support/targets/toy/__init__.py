"""A target in one folder, for tests: a program as a list of operators, fed with bytes, NHWC."""

from support.targets.toy.target import TARGET

__all__ = ["TARGET"]
