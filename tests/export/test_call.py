"""The arguments of `export`, stated once."""

import dataclasses
import subprocess
import sys

from edgeseed.core.options import option_fields
from edgeseed.export.call import ExportCall, ExportListCall


def test_one_bundle_and_several_take_the_same_but_for_lists() -> None:
    one = {field.name: field for field in option_fields(ExportCall)}
    several = {field.name: field for field in option_fields(ExportListCall)}
    assert list(one) == list(several)
    different = {name for name in one if one[name].type != several[name].type}
    assert different == {"target", "precision"}
    for name in one:
        assert one[name].default == several[name].default
        assert one[name].option.help == several[name].option.help


def test_calls_are_frozen_and_do_not_share_what_they_hold() -> None:
    first, second = (ExportCall("s", out="o") for _ in range(2))
    assert first == second
    assert first.options is not second.options
    try:
        first.seed = 1  # type: ignore[misc]
    except dataclasses.FrozenInstanceError:
        return
    raise AssertionError("a call can be changed")


def test_reading_the_arguments_imports_nothing_heavy() -> None:
    code = (
        "import sys; import edgeseed.export.call; assert not {'torch', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
