"""What a student can be exported to: one file per target."""

from edgeseed.core.registry import Registry

TARGETS = Registry(__name__, attribute="TARGET", kind="target")
