"""Student file in, proven bundle out: one exported program, one quantization core, one file per target."""

from edgeseed.core.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "ExportResult": ".run:ExportResult",
        "VerifyResult": ".verification.run:VerifyResult",
        "export": ".run:export",
        "verify": ".verification.run:verify",
    },
)
