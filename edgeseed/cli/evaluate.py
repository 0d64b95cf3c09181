"""`edgeseed evaluate`."""

from typing import Any

import click

from edgeseed.cli._options import emit, json_option, silence, table
from edgeseed.core.console import count_of


@click.command(
    epilog="""\b
Examples:
  edgeseed evaluate runs/mobilenet/student.safetensors --data labelled/
  edgeseed evaluate runs/mobilenet/student.safetensors --data train/ --test-data test/ \\
      --protocol knn,linear --save-classifier classifier.safetensors
  edgeseed evaluate runs/mobilenet/student.safetensors --data labelled/ --protocol finetune \\
      --labels 1%,10%,5pc --save-lists lists/
  edgeseed evaluate runs/mobilenet/student.safetensors --data labelled/ --baseline untrained
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
    "--labels",
    default="1%,10%,100%",
    show_default=True,
    metavar="L,L",
    help="What finetune may use, a result each: shares, Npc (a number of each class), or files.",
)
@click.option(
    "--save-lists",
    type=click.Path(),
    metavar="DIR",
    help="Write finetune's lists of photos there; --labels takes these files.",
)
@click.option(
    "--save-classifier",
    type=click.Path(),
    metavar="F",
    help="Write a student whose head is the linear probe: a classifier.",
)
@click.option(
    "--baseline",
    type=click.Choice(["untrained", "pixels"]),
    help="Measure a level without training too: the same network with fresh weights (what is not "
    "above it was not learnt), or the photos' own pixels at 16 x 16 (no network is needed).",
)
@click.option(
    "--baseline-seeds",
    type=click.IntRange(min=1),
    help="How many networks --baseline untrained measures.  [default: 3]",
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
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="P.FIELD=VALUE",
    help="A protocol's setting, such as knn.k=10,20 or finetune.train=head.",
)
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Measure how good a network is: kNN, a linear probe, fine-tuning with a few labels.

    knn and linear look at frozen features; finetune trains the whole student once for each of
    --labels.
    """
    from edgeseed.distill import evaluate

    with silence(as_json):
        result = evaluate(**options)
    header: tuple[str, ...] = ("protocol", "top-1", "s.e.", "labels", "n")
    rows: list[tuple[str, ...]] = [
        (
            metric.name,
            f"{metric.top1_percent:.2f} %",
            f"± {metric.standard_error_percent:.2f}",
            str(metric.num_train),
            str(metric.n),
        )
        for metric in result.metrics
    ]
    if result.baseline is not None:
        header += (result.baseline.name, "above it")
        rows = [
            row + _beside(result.baseline.metric(metric.name))
            for row, metric in zip(rows, result.metrics, strict=True)
        ]
    text = f"{result.network} on {result.data}, tested on {result.split}\n"
    text += table(rows, header=header)
    if result.baseline is not None:
        text += f"\n{result.baseline.name}: {result.baseline.network}"
    if result.baseline is not None and result.baseline.seeds:
        text += f" with fresh weights, seeds {', '.join(map(str, result.baseline.seeds))}"
    if result.num_broken:
        text += f"\nleft out: {count_of(result.num_broken, 'photo')} that cannot be read"
    text += f"\nclassifier: {result.classifier}" if result.classifier else ""
    emit(result, as_json=as_json, text=text)


def _beside(metric: Any) -> tuple[str, str]:
    """What the baseline has, and how far above it the evaluated network is."""
    if metric is None:
        return ("", "")
    spread = "" if metric.sd_percent is None else f" ± {metric.sd_percent:.2f}"
    return (f"{metric.mean_percent:.2f}{spread} %", f"{metric.gain_points:+.2f}")
