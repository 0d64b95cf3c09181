"""`pretrain`: one call from photos alone to a network that can teach."""

from edgeseed.core.errors import UsageError
from edgeseed.core.options import takes
from edgeseed.distill.methods import METHODS, load_method
from edgeseed.distill.training.distilling import DistillResult, train
from edgeseed.distill.training.options import PretrainOptions


@takes(PretrainOptions)
def pretrain(options: PretrainOptions) -> DistillResult:
    """Trains a network on unlabelled photos without a teacher, so that it can be one.

    The run folder is that of `distill`: `student.safetensors` is the pre-trained trunk, which
    `distill(teacher="RUN/student.safetensors", ...)` takes; `heads.safetensors` has the projection
    head, for fine-tuning from its first layer.

    Returns:
        Where the network is (`student`), and how the run went.

    Raises:
        UsageError: If the call is wrong: a method that needs a teacher, unknown names, settings
            that do not fit, too few photos, or photos that are not those of the run to resume.
        WorkError: If training diverges, is interrupted, or the disk is full.
    """
    roles = load_method(options.method).REQUIREMENTS.roles
    if roles:
        raise UsageError(
            f"method {options.method} does not pre-train: it learns from a {roles[0]}; use "
            "`edgeseed distill`, or one of the methods that pre-train: "
            f"{', '.join(pretraining_methods())}"
        )
    return train(options, method=options.method, student=options.model)


def pretraining_methods() -> tuple[str, ...]:
    """Names of the methods that need no network beside the student."""
    return tuple(name for name in METHODS.names() if not load_method(name).REQUIREMENTS.roles)
