"""Photos and a teacher become a small student: `distill`, `evaluate`, and what they are made of."""

from typing import TYPE_CHECKING

from edgeseed.core.lazy import attach

if TYPE_CHECKING:
    from edgeseed.distill.evaluation import EvaluationResult as EvaluationResult
    from edgeseed.distill.evaluation import evaluate as evaluate
    from edgeseed.distill.finetuning import FinetuneResult as FinetuneResult
    from edgeseed.distill.finetuning import finetune as finetune
    from edgeseed.distill.methods._listing import MethodInfo as MethodInfo
    from edgeseed.distill.methods._listing import list_methods as list_methods
    from edgeseed.distill.pretraining import pretrain as pretrain
    from edgeseed.distill.run import DistillResult as DistillResult
    from edgeseed.distill.run import distill as distill
    from edgeseed.distill.students import create_student as create_student
    from edgeseed.distill.students import list_students as list_students
    from edgeseed.distill.teachers import list_teachers as list_teachers
    from edgeseed.distill.teachers import load_teacher as load_teacher

__getattr__, __all__ = attach(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "DistillResult": ".run:DistillResult",
        "EvaluationResult": ".evaluation:EvaluationResult",
        "FinetuneResult": ".finetuning:FinetuneResult",
        "MethodInfo": ".methods._listing:MethodInfo",
        "create_student": ".students:create_student",
        "distill": ".run:distill",
        "evaluate": ".evaluation:evaluate",
        "finetune": ".finetuning:finetune",
        "list_methods": ".methods._listing:list_methods",
        "list_students": ".students:list_students",
        "list_teachers": ".teachers:list_teachers",
        "load_teacher": ".teachers:load_teacher",
        "pretrain": ".pretraining:pretrain",
    },
)
