"""`edgeseed build`."""

import click

from edgeseed.cli._options import emit, json_option, silence
from edgeseed.core.files import readable_size


@click.command(
    epilog="""\b
Examples:
  edgeseed build bundles/tensorrt-fp16
  edgeseed build bundles/tensorrt-int8 --device ssh:nvidia@jetson
"""
)
@click.argument("bundle", type=click.Path())
@click.option(
    "--device",
    default="host",
    show_default=True,
    metavar="KIND[:ADDRESS]",
    help="Where to build, which is where it will run; see `edgeseed devices`.",
)
@json_option
def command(bundle: str, device: str, as_json: bool) -> None:
    """Build a bundle's TensorRT engine where it will run.

    The device's own TensorRT builds it; the engine is kept in the bundle.
    """
    from edgeseed.runtime import build

    with silence(as_json):
        result = build(bundle, device=device)
    record = result.record
    text = (
        f"{result.engine}: {readable_size(record.size_bytes)}, built in {record.seconds:.0f} s for "
        f"{record.gpu} (compute capability {record.compute_capability}), TensorRT {record.tensorrt}"
    )
    emit(result, as_json=as_json, text=text)
