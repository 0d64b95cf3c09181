"""`edgeseed methods`."""

import click

from edgeseed.cli._options import emit, json_option, table

_WHEN = """

Which one:
  a teacher, no labels             distill: regress; queue-kl if neighbourhoods (search) matter most
  a DINO or EsViT teacher's head   distill: rob
  a MoCo, SimCLR or SwAV teacher   distill: seed is the paper's own recipe
  no teacher                       pretrain: simclr or esvit makes one from your photos
  no teacher, two small networks   distill: dogo --peer
  a few labels                     pretrain, finetune --labels, then distill: simclrv2 (or kd)
  labels for every photo           distill: crd, kd"""


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the distillation and pre-training methods."""
    from edgeseed.distill.methods import METHODS

    rows = [(name, METHODS.summary(name)) for name in METHODS.names()]
    values = [{"name": name, "summary": summary} for name, summary in rows]
    text = table(rows, header=("method", "what it does")) + _WHEN
    emit(values, as_json=as_json, text=text)
