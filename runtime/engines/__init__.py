"""What can execute a model, one file an engine; adding one touches nothing else."""

from edgeseed.core.registry import Registry

ENGINES = Registry("edgeseed.runtime.engines", attribute="ENGINE", kind="engine")
