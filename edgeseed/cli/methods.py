"""`edgeseed methods`."""

import click

from edgeseed.cli._options import emit, json_option, table

_WHEN = """
Start with `edgeseed distill` as it is: regress, with a teacher from `edgeseed teachers`.
Ten thousand photos or more?  --method queue-kl gained 4 points more on CIFAR-10 (docs/proof.md).
No teacher fits your photos?  edgeseed pretrain makes one from them.
Labels for a few of them?     pretrain --method simclr, finetune --labels, distill --method simclrv2
Does it learn?                --knn-every-epochs 5 measures kNN accuracy
What it was worth:            edgeseed evaluate --baseline untrained; and the same student by
                              pretrain --method moco"""


@click.command(
    epilog="""\b
Examples:
  edgeseed methods
  edgeseed methods queue-kl
  edgeseed distill --method queue-kl --teacher T --student S --data photos/ --out runs/try
"""
)
@click.argument("name", required=False)
@json_option
def command(name: str | None, as_json: bool) -> None:
    """List the methods, or the settings of one.

    Without NAME: what each method takes, and when to choose it. With NAME: what --set changes, with
    the defaults.
    """
    from edgeseed.distill.method_listing import list_methods, list_settings

    methods = {info.name: info for info in list_methods()}
    if name is not None:
        settings = list_settings(name)
        info = methods[name]
        shown = [(row.name, _value(row.default), row.help) for row in settings]
        text = (
            f"{info.summary}\n\ntakes:    {info.takes}\nbest for: {info.best_for}\n"
            f"command:  edgeseed {info.command} --method {name}\n\n"
            + table(shown, header=("--set", "default", "what it is"))
        )
        value = {**info.to_dict(), "settings": [row.to_dict() for row in settings]}
        emit(value, as_json=as_json, text=text)
        return
    rows = [
        (info.name, info.command, info.takes, info.best_for)
        for info in sorted(methods.values(), key=lambda info: (info.command, info.name))
    ]
    text = table(rows, header=("method", "command", "takes", "best for"))
    listed = [info.to_dict() for info in methods.values()]
    emit(listed, as_json=as_json, text=f"{text}\n{_WHEN}")


def _value(default: object) -> str:
    """A default as `--set` takes it."""
    if default is None:
        return "none"
    if isinstance(default, list):
        return ",".join(map(str, default)) or "–"
    return str(default).lower() if isinstance(default, bool) else str(default)
