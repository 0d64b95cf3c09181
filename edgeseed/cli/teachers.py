"""`edgeseed teachers`."""

import click

from edgeseed.cli._options import emit, json_option, table

_COMMERCIAL = {True: "yes", False: "NO", None: "read it"}

_SOURCES = """
CHECKPOINT: the family's own file, which you fetch. hub:... comes from torch.hub, the rest from timm's hub.
Any other timm name, NAME=CHECKPOINT or hub entry works as well, and so does a student.safetensors."""


@click.command(
    epilog="""\b
Examples:
  edgeseed teachers
  edgeseed teachers --commercial
  edgeseed distill --teacher vit_small_patch14_reg4_dinov2.lvd142m --student efficientnet_b0 \\
      --data photos/ --out runs/b0
"""
)
@click.option("--commercial", is_flag=True, help="Only those whose licence allows commercial use.")
@json_option
def command(commercial: bool, as_json: bool) -> None:
    """List the usual teachers with their licences."""
    from edgeseed.distill.teachers import list_teachers

    teachers = [info for info in list_teachers() if info.commercial_ok or not commercial]
    rows = [
        (
            info.spec,
            info.family,
            str(info.embedding_dim),
            str(info.image_size),
            info.head,
            info.licence,
            _COMMERCIAL[info.commercial_ok],
        )
        for info in teachers
    ]
    text = table(
        rows, header=("--teacher", "family", "dim", "px", "head", "licence", "commercial use")
    )
    emit([info.to_dict() for info in teachers], as_json=as_json, text=f"{text}\n{_SOURCES}")
