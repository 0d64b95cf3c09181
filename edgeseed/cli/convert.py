"""`edgeseed convert`."""

import click

from edgeseed.cli._options import emit, json_option


@click.command(
    epilog="""\b
Examples:
  edgeseed convert runs/mine/student.safetensors --to timm --out mine.safetensors
  edgeseed convert runs/mine/classifier.safetensors --to hub --out hub/mine
  edgeseed convert resnet50=my_checkpoint.pth --to student --out student.safetensors
"""
)
@click.argument("student")
@click.option(
    "--to",
    required=True,
    type=click.Choice(["timm", "hub", "student"]),
    help="timm: one file for timm.create_model. hub: a folder for the Hugging Face hub. student: a student file.",
)
@click.option(
    "--out", required=True, type=click.Path(), metavar="OUT", help="File or folder; must not exist."
)
@json_option
def command(student: str, to: str, out: str, as_json: bool) -> None:
    """Take a student's weights to another program.

    STUDENT is a student file, a timm name with its tag of weights, or NAME=CHECKPOINT.
    """
    from edgeseed.convert import convert

    result = convert(student, to=to, out=out)
    emit(result, as_json=as_json, text=f"{result.out}\nload it: {result.code}")
