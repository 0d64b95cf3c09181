"""`edgeseed finetune`."""

from typing import Any

import click

from edgeseed.cli._fields import options_of
from edgeseed.cli._options import emit_once, json_option, silence
from edgeseed.core.console import count_of
from edgeseed.distill.training.options import FinetuneOptions


@click.command(
    epilog="""\b
Examples:
  edgeseed finetune runs/mobilenet/student.safetensors --data labelled/ --labels 1% --out runs/classifier
  edgeseed finetune runs/teacher/student.safetensors --data labelled/ --labels 5pc --projection --out runs/t5
  edgeseed finetune efficientnet_b0 --data labelled/ --labels list.txt --out runs/labels-alone
  edgeseed finetune mobilenetv3_large_100.ra_in1k --data labelled/ --out runs/from-imagenet
"""
)
@options_of(FinetuneOptions)
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Turn a student into a classifier, with few labels."""
    from edgeseed.distill import finetune

    with silence(as_json):
        result = finetune(**options)
    text = (
        f"{result.num_labels} labels ({result.labels}), {count_of(result.epochs, 'pass')} in {result.seconds:.0f} s: "
        f"top-1 {result.metric.top1_percent:.2f} % (n={result.metric.n}, {result.split})\n"
        f"classifier: {result.student}"
    )
    emit_once(result, as_json=as_json, text=text)
