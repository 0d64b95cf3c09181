"""`edgeseed quickstart`."""

import click

from edgeseed.cli._options import emit, json_option, silence


@click.command(
    epilog="""\b
Examples:
  edgeseed quickstart
  edgeseed quickstart --out /tmp/try --seed 1 --json
"""
)
@click.option(
    "--out",
    default="edgeseed-quickstart",
    show_default=True,
    type=click.Path(),
    metavar="DIR",
    help="Folder for everything; new or empty.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all that is drawn."
)
@json_option
def command(out: str, seed: int, as_json: bool) -> None:
    """Run every stage once, offline, in minutes."""
    from edgeseed.quickstart import quickstart
    from edgeseed.quickstart_result import commands_for_own_photos

    with silence(as_json):
        result = quickstart(out=out, seed=seed)
    student, alone = (
        item.evaluation.metric("linear").top1_percent for item in (result.student, result.alone)
    )
    baseline = result.student.evaluation.baseline
    found = None if baseline is None else baseline.metric("linear")
    untrained = float("nan") if found is None else found.mean_percent
    text = (
        f"\ndone in {result.seconds:.0f} s: the distilled student has {student:.1f} % top-1 by a linear probe, "
        f"the same network without a teacher {alone:.1f} %, untrained {untrained:.1f} %\n"
        f"report: {result.report}\n\nThe same on your own photos:\n  "
        + "\n  ".join(commands_for_own_photos())
    )
    emit(result, as_json=as_json, text=text)
