"""One line for what coremltools does not convert: which operator, why, and what to do."""

import logging
from typing import Any

import pytest

from edgeseed.export.targets.coreml.refusals import refusal
from edgeseed.export.targets.coreml.tools import errors_logged

START = "Core ML cannot express this network: "
END = "; export it to another target, such as onnx"


@pytest.mark.parametrize(
    ("error", "log", "reason"),
    [
        (
            NotImplementedError("Unsupported fx node lstm, kind lstm.input"),
            "",
            "coremltools has no lstm.input",
        ),
        (
            NotImplementedError("PyTorch convert function for op 'addcmul' not implemented."),
            "\n\nERROR - converting 'addcmul' op (located at: ''):\n",
            "coremltools has no addcmul",
        ),
        (
            ValueError(
                'Core ML only supports tensors with rank <= 5. Layer "view_6_cast_fp16", with type '
                '"reshape", outputs a rank 6 tensor. '
            ),
            "",
            "its reshape view_6_cast_fp16 has 6 axes, and Core ML has 5 at most",
        ),
        (
            NotImplementedError("Only supports stride >= kernel_size for col2im (fold)."),
            "\n\nERROR - converting 'col2im' op (located at: 'network/0'):\n",
            "coremltools does not convert its col2im "
            "(Only supports stride >= kernel_size for col2im (fold))",
        ),
        (
            AttributeError("'NoneType' object has no attribute 'dtype'"),
            "\n\nERROR - 'common::fuse_conv_bias' graph pass produces the following error:\n",
            "coremltools fails in its pass common::fuse_conv_bias "
            "(AttributeError: 'NoneType' object has no attribute 'dtype')",
        ),
        (AssertionError(), "", "coremltools fails on it (AssertionError)"),
        (RuntimeError(), "", "coremltools fails on it (RuntimeError)"),
        (
            ValueError("first line.\nand a second"),
            "",
            "coremltools fails on it (first line)",
        ),
    ],
)
def test_the_line_names_the_operator_and_what_helps(
    error: Exception, log: str, reason: str
) -> None:
    assert refusal(error, [log]) == f"{START}{reason}{END}"


def test_what_is_logged_meanwhile_is_heard_and_nothing_behind_it(caplog: Any) -> None:
    logger = logging.getLogger("coremltools")
    with errors_logged() as log:
        logger.error("converting %s", "this")
        logger.warning("not an error")
    logger.error("later")
    assert log == ["converting this"]
