"""`edgeseed finetune`."""

from typing import Any

import click

from edgeseed.cli._options import emit, json_option, silence
from edgeseed.core.console import count_of


@click.command(
    epilog="""\b
Examples:
  edgeseed finetune runs/mobilenet/student.safetensors --data labelled/ --labels 1% --out runs/classifier
  edgeseed finetune runs/teacher/student.safetensors --data labelled/ --labels 5pc --projection --out runs/t5
  edgeseed finetune efficientnet_b0 --data labelled/ --labels list.txt --out runs/labels-alone
  edgeseed finetune mobilenetv3_large_100.ra_in1k --data labelled/ --out runs/from-imagenet
"""
)
@click.argument("student")
@click.option(
    "--data", required=True, metavar="D", help="Labelled photos: class folders or a named set."
)
@click.option(
    "--test-data", metavar="D", help="Labelled photos to test on.  [default: as evaluate]"
)
@click.option(
    "--labels",
    default="100%",
    show_default=True,
    metavar="L",
    help="1%, 10%, 100%, Npc (a number of each class), or a file with one photo a line.",
)
@click.option(
    "--projection",
    is_flag=True,
    help="Start from the first layer of the pre-training head, as SimCLRv2 does.",
)
@click.option("--out", required=True, type=click.Path(), metavar="RUN", help="Folder of the run.")
@click.option(
    "--epochs",
    type=click.IntRange(min=1),
    help="Passes over the labelled photos.  [default: 30, or what makes 500 updates]",
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Photos a step, over all devices.")
@click.option(
    "--image-size", type=click.IntRange(min=8), help="For a timm name; a student file has its own."
)
@click.option(
    "--lr",
    type=float,
    help="Peak learning rate at 256 photos a step; another --batch-size scales it, by the root.  [default: 0.001]",
)
@click.option("--seed", type=click.IntRange(min=0), help="Of all that is drawn.  [default: 0]")
@click.option(
    "--devices",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda, cuda:N, mps, or the number of processes under torchrun.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16"]),
    help="Of the arithmetic.  [default: auto]",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Any other setting, such as train=head.",
)
@click.option(
    "--config",
    type=click.Path(),
    metavar="F.toml",
    help="Settings from a file, such as another run's config.toml; also its image size, seed and precision.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in RUN.")
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
    emit(result, as_json=as_json, text=text)
