"""`edgeseed students`."""

import click

from edgeseed.cli._options import emit, json_option, table


@click.command(
    epilog="""\b
Examples:
  edgeseed students
  edgeseed distill --student mobilenetv4_conv_small --teacher T --data photos/ --out runs/small
"""
)
@json_option
def command(as_json: bool) -> None:
    """List the usual students (any timm model works)."""
    from edgeseed.distill.networks.students import list_students

    students = list_students()
    rows = [
        (
            info.name + (" *" if info.first_class else ""),
            f"{info.num_parameters / 1e6:.2f} M",
            f"{info.size_mb:.1f}",
            str(info.embedding_dim),
            str(info.image_size),
            ", ".join(info.activations),
            "yes" if info.squeeze_excite else "no",
            "–" if info.supervised_top1_percent is None else f"{info.supervised_top1_percent:.1f}",
        )
        for info in students
    ]
    header = ("student", "weights", "MB", "dim", "px", "activations", "SE", "ImageNet top-1 %")
    notes = (
        "\n* every method and target is tested with it\n"
        "MB: in fp32, int8 is a quarter.  ImageNet: published, supervised, of the same network.\n"
        "SiLU, Hardswish and SE quantize badly: --activation relu6 --drop-se leaves them out."
    )
    emit(
        [info.to_dict() for info in students],
        as_json=as_json,
        text=table(rows, header=header) + "\n" + notes,
    )
