"""`edgeseed methods`."""

import click

from edgeseed.cli._options import emit, json_option, table

_WHEN = """
Start with `edgeseed distill` as it is: regress, with a teacher from `edgeseed teachers`.
No teacher fits your photos?  edgeseed pretrain makes one from them.
Labels for a few of them?     pretrain --method simclr, finetune --labels, distill --method simclrv2
Does it learn?                --knn-every-epochs 5 measures kNN accuracy
What it was worth:            edgeseed evaluate --baseline untrained; and the same student by
                              pretrain --method moco"""


@click.command(
    epilog="""\b
Examples:
  edgeseed methods
  edgeseed distill --method queue-kl --teacher T --student S --data photos/ --out runs/try
"""
)
@json_option
def command(as_json: bool) -> None:
    """List the methods: what each takes, and when to choose it."""
    from edgeseed.distill import list_methods

    methods = list_methods()
    rows = [
        (info.name, info.command, info.takes, info.best_for)
        for info in sorted(methods, key=lambda info: (info.command, info.name))
    ]
    text = table(rows, header=("method", "command", "takes", "best for"))
    emit([info.to_dict() for info in methods], as_json=as_json, text=f"{text}\n{_WHEN}")
