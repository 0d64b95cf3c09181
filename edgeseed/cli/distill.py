"""`edgeseed distill`."""

from typing import Any

import click

from edgeseed.cli._options import emit, silence, training_options


@click.command(
    epilog="""\b
Examples:
  edgeseed distill --teacher vit_base_patch14_reg4_dinov2.lvd142m --student mobilenetv3_large_100 \\
      --data photos/ --out runs/mobilenet
  edgeseed distill --method seed --teacher resnet50=moco_v2_800ep.pth.tar --student efficientnet_b0 \\
      --data photos/ --out runs/seed --set queue_size=16384 --set teacher_temperature=0.05
  edgeseed distill --teacher teacher/student.safetensors --student mobilenetv3_small_100 \\
      --data digits --out runs/digits --epochs 20 --during 5
"""
)
@click.option(
    "--method", default="regress", show_default=True, metavar="M", help="See `edgeseed methods`."
)
@click.option(
    "--teacher", metavar="T", help="A timm name, NAME=CHECKPOINT, or a student.safetensors."
)
@click.option(
    "--student",
    required=True,
    metavar="S",
    help="A timm name, or a student.safetensors to go on from.",
)
@click.option("--peer", metavar="P", help="A second student, for methods that train two.")
@click.option(
    "--activation",
    type=click.Choice(["keep", "relu6"]),
    default="keep",
    show_default=True,
    help="relu6 in place of SiLU and hard-swish: quantizes better.",
)
@click.option("--drop-se", is_flag=True, help="Leave out squeeze-and-excitation: quantizes better.")
@training_options
def command(
    as_json: bool, activation: str, drop_se: bool, settings: tuple[str, ...], **options: Any
) -> None:
    """Distil a teacher into a student without labels."""
    from edgeseed.distill import distill

    if activation != "keep":
        settings += (f"student.activation={activation}",)
    if drop_se:
        settings += ("student.drop_se=true",)
    with silence(as_json):
        result = distill(settings=settings, **options)
    emit(result, as_json=as_json, text=training_text(result))


def training_text(result: Any) -> str:
    """What a finished run looks like to a person."""
    floor = "" if result.floor is None else f" (it cannot be below {result.floor:.4f})"
    knn = "" if result.knn is None else f", kNN accuracy {result.knn:.2%}"
    return (
        f"{result.method}: {result.epochs} epochs of {result.num_photos} photos in {result.seconds:.0f} s "
        f"on {result.device} ({result.images_per_second:,.0f} images/s)\n"
        f"loss {result.loss:.4f}{floor}{knn}\n"
        f"student: {result.student}\n"
        f"curves:  {result.out / 'curves.png'}"
    )
