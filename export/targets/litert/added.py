"""Probabilities and the best classes, computed from a file's float logits."""

from collections.abc import Mapping

import numpy as np

from edgeseed.export.added_outputs import PROBABILITIES, added_tensors
from edgeseed.export.target import WriteRequest
from edgeseed.export.targets.litert.flatbuffer import ModelBuilder


def add_outputs(
    builder: ModelBuilder, outputs: Mapping[str, int], request: WriteRequest
) -> dict[str, int]:
    """Writes the operators, and gives the numbers of the outputs.

    Args:
        builder: Of the file.
        outputs: Numbers of the student's own, all float32.
        request: What the file is made from.
    """
    if not request.added:
        return {}
    count = len(request.spec.classes or ())
    found = {
        each.name: builder.tensor(each.name, (1, each.width), each.dtype)
        for each in added_tensors(request.added, count)
    }
    shares = found.get(PROBABILITIES)
    if shares is None:
        shares = builder.tensor(f"{PROBABILITIES}_of_logits", (1, count), "float32")
    # LiteRT's softmax is over the last axis, which the classes are.
    builder.operator("SOFTMAX", [outputs["logits"]], [shares], options="SoftmaxOptions", beta=1.0)
    for each in request.added:
        if each.k is not None:
            k = builder.constant(f"{each.name}_k", np.array(each.k, np.int32))
            results = [found[name] for name in each.outputs]
            builder.operator("TOPK_V2", [shares, k], results, options="TopKV2Options")
    return found
