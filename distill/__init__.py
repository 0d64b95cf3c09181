"""Photos and a teacher become a small student: `distill`, `evaluate`, and what they are made of."""

from typing import TYPE_CHECKING

from edgeseed.core.lazy import attach

if TYPE_CHECKING:
    from edgeseed.distill.evaluation.evaluate import EvaluationResult as EvaluationResult
    from edgeseed.distill.evaluation.evaluate import evaluate as evaluate
    from edgeseed.distill.method_listing import MethodInfo as MethodInfo
    from edgeseed.distill.method_listing import list_methods as list_methods
    from edgeseed.distill.networks.students import create_student as create_student
    from edgeseed.distill.networks.students import list_students as list_students
    from edgeseed.distill.teachers import list_teachers as list_teachers
    from edgeseed.distill.teachers import load_teacher as load_teacher
    from edgeseed.distill.training.distilling import DistillResult as DistillResult
    from edgeseed.distill.training.distilling import distill as distill
    from edgeseed.distill.training.finetuning import FinetuneResult as FinetuneResult
    from edgeseed.distill.training.finetuning import finetune as finetune
    from edgeseed.distill.training.pretraining import pretrain as pretrain

__getattr__, __all__ = attach(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "DistillResult": ".training.distilling:DistillResult",
        "EvaluationResult": ".evaluation.evaluate:EvaluationResult",
        "FinetuneResult": ".training.finetuning:FinetuneResult",
        "MethodInfo": ".method_listing:MethodInfo",
        "create_student": ".networks.students:create_student",
        "distill": ".training.distilling:distill",
        "evaluate": ".evaluation.evaluate:evaluate",
        "finetune": ".training.finetuning:finetune",
        "list_methods": ".method_listing:list_methods",
        "list_students": ".networks.students:list_students",
        "list_teachers": ".teachers:list_teachers",
        "load_teacher": ".teachers:load_teacher",
        "pretrain": ".training.pretraining:pretrain",
    },
)
