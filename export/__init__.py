"""Student file in, proven bundle out: one program, one quantization core, a file per target."""

from typing import TYPE_CHECKING

from edgeseed.core.lazy import attach

if TYPE_CHECKING:
    # What a type checker cannot see through `attach`.
    from edgeseed.export.apps.run import EmbedResult as EmbedResult
    from edgeseed.export.apps.run import embed as embed
    from edgeseed.export.apps.run import verify_module as verify_module
    from edgeseed.export.apps.teaching import GalleryResult as GalleryResult
    from edgeseed.export.apps.teaching import gallery as gallery
    from edgeseed.export.exporting import ExportResult as ExportResult
    from edgeseed.export.exporting import export as export
    from edgeseed.export.proof.explain import Explanation as Explanation
    from edgeseed.export.proof.explain import explain as explain
    from edgeseed.export.proof.verify import VerifyResult as VerifyResult
    from edgeseed.export.proof.verify import verify as verify

__getattr__, __all__ = attach(
    __name__,
    {
        "EmbedResult": ".apps.run:EmbedResult",
        "Explanation": ".proof.explain:Explanation",
        "ExportResult": ".exporting:ExportResult",
        "GalleryResult": ".apps.teaching:GalleryResult",
        "VerifyResult": ".proof.verify:VerifyResult",
        "embed": ".apps.run:embed",
        "explain": ".proof.explain:explain",
        "export": ".exporting:export",
        "gallery": ".apps.teaching:gallery",
        "verify": ".proof.verify:verify",
        "verify_module": ".apps.run:verify_module",
    },
)
