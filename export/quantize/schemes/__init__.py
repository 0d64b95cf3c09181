"""How a target wants its integers: one file per scheme."""

from edgeseed.core.registry import Registry

SCHEMES = Registry(__name__, attribute="SCHEME", kind="quantization scheme")
