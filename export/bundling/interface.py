"""The inputs and outputs of a model, as its manifest lists them."""

from collections.abc import Mapping, Sequence
from typing import Any

from edgeseed.core.bundle import TensorSpec
from edgeseed.core.preprocess import COLORS
from edgeseed.core.student import StudentSpec
from edgeseed.export.added_outputs import AddedOutput, added_tensors
from edgeseed.export.call import Batch
from edgeseed.export.program import INPUT_NAME
from edgeseed.export.target import Target


def tensor_specs(
    spec: StudentSpec,
    target: Target,
    *,
    batch: Batch,
    outputs: tuple[str, ...],
    options: Mapping[str, Any],
    added: Sequence[AddedOutput] = (),
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the manifest lists them.

    Args:
        spec: The student's.
        target: Of the bundle.
        batch: Of the model.
        outputs: Names of the outputs, in order.
        options: The target's own.
        added: Outputs besides.
    """
    channels, height, width = spec.preprocess.shape
    channels_first = (channels, height, width)
    free: int | str = "batch" if batch == "dynamic" else batch
    widths = {"embedding": spec.embedding_dim, "logits": len(spec.classes or ())}
    image = TensorSpec(
        name=INPUT_NAME,
        shape=(free, *(channels_first if target.layout == "NCHW" else (height, width, channels))),
        dtype=target.input_type_of(options),
        semantics=f"{COLORS[channels]} pixels 0..255",
    )
    results = tuple(
        TensorSpec(name=name, shape=(free, widths[name]), dtype="float32", semantics=name)
        for name in outputs
    )
    more = tuple(
        TensorSpec(
            name=each.name, shape=(free, each.width), dtype=each.dtype, semantics=each.semantics
        )
        for each in added_tensors(added, len(spec.classes or ()))
    )
    return (image,), (*results, *more)
