"""Our own passes over Core ML's programs, for what coremltools leaves as it was.

Imported once coremltools is there: a pass is a class of its own.
"""

from typing import Any

import numpy as np
from coremltools.converters.mil.mil import Builder, Program
from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.helper import block_context_manager
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

PADDING = "edgeseed::fold_padding"
# Untyped: what these have is made as coremltools is imported.
_Block = Any
_Operation = Any
_builder: Any = Builder
_SPATIAL = 4
"""Amounts of two spatial axes, before and after each."""


@register_pass(namespace="edgeseed")
class fold_padding(AbstractGraphPass):  # type: ignore[misc]  # noqa: N801  # named after the pass
    """`pad` with zeros in front of `conv` becomes the convolution's own padding. Exact.

    TensorFlow's `same` pads one side more than the other, which torch's convolution cannot, so that
    the padding of EfficientNet-Lite and its like is an operator. Between `dequantize` and `conv` it
    is more than slow: a convolution that does not read integers is none of integers.
    """

    def apply(self, prog: Program) -> None:
        """Edits all functions of a program."""
        for function in prog.functions.values():
            _fold(function)


@block_context_manager  # type: ignore[untyped-decorator]
def _fold(block: _Block) -> None:
    for pad in list(block.operations):
        if pad.op_type != "pad" or not _is_plain(pad) or pad.outputs[0] in block.outputs:
            continue
        readers = list(pad.outputs[0].child_ops)
        if not readers or not all(_takes_padding(reader, pad) for reader in readers):
            continue
        for conv in readers:
            _give(block, conv, pad)
        block.remove_ops([pad])


def _is_plain(pad: _Operation) -> bool:
    """Whether it puts zeros around images, and nothing else."""
    amounts = pad.inputs["pad"].val
    return (
        amounts is not None
        and pad.inputs["mode"].val == "constant"
        and not np.any(pad.inputs["constant_val"].val)
        and pad.inputs["x"].rank == _SPATIAL
        and not np.any(amounts[:-_SPATIAL])
    )


def _takes_padding(reader: _Operation, pad: _Operation) -> bool:
    return (
        reader.op_type == "conv"
        and reader.inputs["x"] is pad.outputs[0]
        and reader.inputs["pad_type"].val in ("valid", "custom")
    )


def _give(block: _Block, conv: _Operation, pad: _Operation) -> None:
    amounts = np.asarray(pad.inputs["pad"].val[-_SPATIAL:], np.int32)
    if conv.inputs["pad_type"].val == "custom":
        amounts = amounts + conv.inputs["pad"].val
    inputs: dict[str, Any] = {name: value for name, value in conv.inputs.items() if value}
    inputs |= {"x": pad.inputs["x"], "pad_type": "custom", "pad": amounts.astype(np.int32)}
    result = _builder.conv(**inputs, before_op=conv, name=conv.name)
    block.replace_uses_of_var_after_op(anchor_op=conv, old_var=conv.outputs[0], new_var=result)
    block.remove_ops([conv])
