"""Photos and a teacher become a small student: `distill`, `evaluate`, and what they are made of."""

from typing import TYPE_CHECKING

from edgeseed.core.lazy import attach

if TYPE_CHECKING:
    from edgeseed.distill.evaluation import evaluate as evaluate
    from edgeseed.distill.pretraining import pretrain as pretrain
    from edgeseed.distill.run import DistillResult as DistillResult
    from edgeseed.distill.run import distill as distill

__getattr__, __all__ = attach(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "DistillResult": ".run:DistillResult",
        "distill": ".run:distill",
        "evaluate": ".evaluation:evaluate",
        "pretrain": ".pretraining:pretrain",
    },
)
