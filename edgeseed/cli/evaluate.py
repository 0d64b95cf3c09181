"""`edgeseed evaluate`."""

from typing import Any

import click

from edgeseed.cli._options import emit, json_option, silence, table


@click.command(
    epilog="""\b
Examples:
  edgeseed evaluate runs/mobilenet/student.safetensors --data labelled/
  edgeseed evaluate runs/mobilenet/student.safetensors --data train/ --test-data test/ \\
      --protocol knn,linear --save-classifier classifier.safetensors
  edgeseed evaluate vit_small_patch14_dinov2.lvd142m --data digits
"""
)
@click.argument("student")
@click.option(
    "--data",
    required=True,
    metavar="D",
    help="Labelled photos to learn from: class folders or a named set.",
)
@click.option(
    "--test-data",
    metavar="D",
    help="Labelled photos to test on.  [default: the set's own test split, else a fifth of D]",
)
@click.option(
    "--protocol",
    default="knn,linear",
    show_default=True,
    metavar="P",
    help="Of knn, linear, finetune, with commas.",
)
@click.option(
    "--save-classifier",
    type=click.Path(),
    metavar="F",
    help="Write a student whose head is the linear probe: a classifier.",
)
@click.option("--save-metrics", is_flag=True, help="Append the metrics to the student file.")
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Photos at once; changes no result.",
)
@click.option(
    "--image-size",
    type=click.IntRange(min=8),
    help="Side of the input; a student file has its own.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of every random choice.",
)
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Measure frozen features: kNN and a linear probe."""
    from edgeseed.distill import evaluate

    with silence(as_json):
        result = evaluate(**options)
    rows = [
        (metric.name, f"{metric.top1_percent:.2f} %", f"n={metric.n}") for metric in result.metrics
    ]
    text = f"{result.network} on {result.data}, tested on {result.split}\n"
    text += table(rows, header=("protocol", "top-1", ""))
    text += f"\nclassifier: {result.classifier}" if result.classifier else ""
    emit(result, as_json=as_json, text=text)
