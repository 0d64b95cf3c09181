"""`edgeseed gallery`."""

from typing import Any

import click

from edgeseed.cli._options import emit, json_option, silence
from edgeseed.core.console import count_of


@click.command(
    epilog="""\b
Examples:
  edgeseed gallery student.safetensors --data labelled/ --out gallery.bin
  edgeseed gallery bundles/onnx-int8 --data labelled/ --per-class 10 --out gallery.bin
"""
)
@click.argument("model", metavar="STUDENT|BUNDLE")
@click.option(
    "--data", required=True, metavar="D", help="Labelled photos: D/CLASS/photo.jpg, or a named set."
)
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    metavar="G",
    help="The file to write, such as gallery.bin.",
)
@click.option(
    "--per-class",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Photos a class that go into the gallery; the others choose its threshold.",
)
@click.option(
    "--max-held-out",
    type=click.IntRange(min=2),
    default=1000,
    show_default=True,
    help="Most photos to choose the threshold and to measure on.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the choice of photos.",
)
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Make a gallery: a few labelled photos by which an app recognises more.

    The app's module (`edgeseed embed`) reads it, and adds classes of its own on the device. Photos
    less similar to all of the gallery than its threshold are not recognised.
    """
    from edgeseed.export import gallery

    with silence(as_json):
        result = gallery(**options)
    text = (
        f"{result.gallery}: {count_of(result.num_entries, 'photo')} of {result.num_classes} classes, "
        f"{result.embedding_dim} values each\n"
        f"  on {count_of(result.num_held_out, 'photo')} not in it: {result.accuracy:.1%} right\n"
        f"  threshold {result.threshold:.4f}: accepts {result.accepted:.1%} of them, "
        f"{result.accepted_accuracy:.1%} of those right;\n"
        f"  rejects {result.unknown_rejected:.1%} where their class is taken out of the gallery"
    )
    emit(result, as_json=as_json, text=text)
