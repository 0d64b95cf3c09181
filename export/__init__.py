"""Student file in, proven bundle out: one program, one quantization core, a file per target."""

from edgeseed.core.lazy import attach

__getattr__, __all__ = attach(
    __name__,
    {
        "EmbedResult": ".apps.run:EmbedResult",
        "GalleryResult": ".apps.teaching:GalleryResult",
        "Explanation": ".proof.explain:Explanation",
        "ExportResult": ".exporting:ExportResult",
        "VerifyResult": ".proof.verify:VerifyResult",
        "embed": ".apps.run:embed",
        "explain": ".proof.explain:explain",
        "export": ".exporting:export",
        "export_each": ".exporting:export_each",
        "gallery": ".apps.teaching:gallery",
        "verify": ".proof.verify:verify",
        "verify_module": ".apps.run:verify_module",
    },
)
