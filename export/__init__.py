"""Student file in, proven bundle out: one program, one quantization core, a file per target."""

from edgeseed.core.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "Explanation": ".explanation:Explanation",
        "ExportResult": ".run:ExportResult",
        "VerifyResult": ".verification.run:VerifyResult",
        "explain": ".explanation:explain",
        "export": ".run:export",
        "export_each": ".run:export_each",
        "verify": ".verification.run:verify",
    },
)
