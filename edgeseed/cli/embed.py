"""`edgeseed embed`."""

from typing import Any

import click

from edgeseed.cli._options import emit, json_option, silence
from edgeseed.core.files import readable_size


@click.command(
    epilog="""\b
Examples:
  edgeseed embed bundles/coreml --platform ios --out BirdsKit --name birds
  edgeseed embed bundles/onnx-int8 --platform android --out birds-android
  edgeseed embed bundles/onnx-int8 --platform web --out birds-web
"""
)
@click.argument("bundle", type=click.Path())
@click.option("--platform", required=True, metavar="P", help="ios, android or web.")
@click.option(
    "--out",
    required=True,
    type=click.Path(),
    metavar="DIR",
    help="Folder of the module; must not exist.",
)
@click.option(
    "--name",
    metavar="NAME",
    help="Name of the module: lower-case letters and digits.  [default: the student's]",
)
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Write a bundle as a module for an app, with a self-test.

    A Swift package, a Gradle library or an ES module: the model, the preprocessing, a small typed
    API, and golden photos by which the app proves itself right. `edgeseed verify DIR` checks one.
    """
    from edgeseed.export import embed

    with silence(as_json):
        result = embed(**options)
    text = (
        f"{result.module}: {result.platform} module {result.name}, {result.target} "
        f"{result.precision}, {result.num_files} files; {readable_size(result.assets_bytes)} of it "
        f"go into the app\nread {result.module}/README.md, and run its self-test in the app"
    )
    emit(result, as_json=as_json, text=text)
