"""Each operation of the interpreter has a test in the folder `operations`."""

import re
from pathlib import Path

from support.coreml_operations import (
    BINARY,
    REDUCTIONS,
    UNARY,
)

from edgeseed.export.targets.coreml.interpreter.operations import OPERATIONS


def test_every_operation_of_the_interpreter_is_tested_in_the_folder_beside() -> None:
    files = (Path(__file__).parent / "operations").glob("test_*.py")
    texts = [file.read_text(encoding="utf-8") for file in files]
    called = {name for text in texts for name in re.findall(r"(\w+)\(", text)}
    assert set(OPERATIONS) <= called | UNARY.keys() | BINARY.keys() | REDUCTIONS.keys()
