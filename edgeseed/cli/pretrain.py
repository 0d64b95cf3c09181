"""`edgeseed pretrain`."""

from typing import Any

import click

from edgeseed.cli._fields import options_of
from edgeseed.cli._options import emit_once, json_option, silence
from edgeseed.cli.distill import training_text
from edgeseed.distill.training.options import PretrainOptions


@click.command(
    epilog="""\b
Examples:
  edgeseed pretrain --method simclr --model resnet50 --data photos/ --out runs/teacher
  edgeseed pretrain --method esvit --model swin_tiny_patch4_window7_224 --data photos/ --out runs/swin
  edgeseed distill --teacher runs/teacher/student.safetensors --student mobilenetv3_large_100 \\
      --data photos/ --out runs/student
"""
)
@options_of(PretrainOptions)
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Make a teacher from unlabelled photos alone.

    simclr takes any network; esvit suits transformers in stages (Swin) and CNNs, and its head
    teaches by `distill --method rob`; moco is the smallest of the three.
    """
    from edgeseed.distill import pretrain

    with silence(as_json):
        result = pretrain(**options)
    emit_once(result, as_json=as_json, text=training_text(result))
