"""What training takes: that the three commands agree where they mean the same."""

import subprocess
import sys

import pytest

from edgeseed.core.options import option_fields
from edgeseed.distill.training.options import (
    DistillOptions,
    FinetuneOptions,
    PretrainOptions,
    RunOptions,
)

KINDS = (DistillOptions, PretrainOptions, FinetuneOptions)


def test_reading_the_options_imports_nothing_heavy() -> None:
    # The help of a command reads them.
    code = (
        "import sys; import edgeseed.distill.training.options; "
        "assert not {'torch', 'timm', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_an_option_of_all_runs_means_the_same_everywhere(kind: type) -> None:
    own = {field.name: field for field in option_fields(kind)}
    for field in option_fields(RunOptions):
        assert own[field.name].type == field.type
        assert own[field.name].option.flags == field.option.flags
        assert own[field.name].default == field.default


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_has_help_and_no_flag_twice(kind: type) -> None:
    fields = option_fields(kind)
    assert all(field.option.help.endswith(".") or field.option.help for field in fields)
    flags = [flag for field in fields for flag in field.option.flags or (f"--{field.name}",)]
    assert len(flags) == len(set(flags))


def test_only_the_student_of_finetune_is_given_by_place() -> None:
    positional = {kind: [f.name for f in option_fields(kind) if f.is_positional] for kind in KINDS}
    assert positional == {DistillOptions: [], PretrainOptions: [], FinetuneOptions: ["student"]}
