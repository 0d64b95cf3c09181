"""`edgeseed distill`."""

from typing import Any

import click

from edgeseed.cli._fields import options_of
from edgeseed.cli._options import emit_once, json_option, silence
from edgeseed.core.console import count_of
from edgeseed.distill.training.options import DistillOptions


@click.command(
    epilog="""\b
Examples:
  edgeseed distill --teacher vit_base_patch14_reg4_dinov2.lvd142m --student mobilenetv3_large_100 \\
      --data photos/ --out runs/mobilenet
  edgeseed distill --method seed --teacher resnet50=moco_v2_800ep.pth.tar --student efficientnet_b0 \\
      --data photos/ --out runs/seed --set queue_size=16384 --set tau_teacher=0.05
  edgeseed distill --teacher runs/teacher/student.safetensors --student mobilenetv3_small_100 \\
      --activation relu6 --drop-se --data digits --out runs/digits --epochs 20 --knn-every-epochs 5
  edgeseed distill --method dogo --student efficientnet_b0 --peer resnet50 --data photos/ --out runs/pair
  edgeseed distill --method simclrv2 --teacher runs/classifier/student.safetensors \\
      --student mobilenetv3_large_100 --data photos/ --out runs/soft-labels
  edgeseed distill --teacher vit_small_patch14_dinov2.lvd142m --student mobilenetv3_small_100 \\
      --data photos/ --out runs/cached --teacher-cache cache/ --set views.replay=16 --set mixup=false
"""
)
@options_of(DistillOptions)
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Distil a teacher into a student without labels.

    Start with the default, regress: it takes any teacher and needs no label. `edgeseed methods`
    says when another is better.
    """
    from edgeseed.distill import distill

    with silence(as_json):
        result = distill(**options)
    emit_once(result, as_json=as_json, text=training_text(result))


def training_text(result: Any) -> str:
    """What a finished run looks like to a person."""
    floor = "" if result.floor is None else f" (it cannot be below {result.floor:.4f})"
    knn = "" if result.knn is None else f", kNN accuracy {result.knn:.2%}"
    others = "".join(
        f"{n + ':':9}{path}\n" for n, path in result.networks.items() if path != result.student
    )
    speed = result.images_per_second
    rate = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
    passes = count_of(result.epochs, "epoch")
    return (
        f"{result.method}: {passes} of {result.num_photos} photos in {result.seconds:.0f} s "
        f"on {result.device} ({rate} images/s)\n"
        f"loss {result.loss:.4f}{floor}{knn}\n"
        f"student: {result.student}\n{others}"
        f"curves:  {result.out / 'curves.svg'}"
    )
