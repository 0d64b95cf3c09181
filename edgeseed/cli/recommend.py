"""`edgeseed recommend`."""

import click

from edgeseed.cli._options import emit, json_option, silence


@click.command(
    epilog="""\b
Examples:
  edgeseed recommend --budget-ms 8
  edgeseed recommend --budget-ms 8 --budget-mb 6 --device ssh:pi@raspberrypi --profile raspberry-pi-5
  edgeseed recommend --budget-ms 20 --device adb --profile pixel-8 --html students.html
"""
)
@click.option(
    "--budget-ms",
    type=float,
    required=True,
    metavar="X",
    help="Most that p90 of one image may take.",
)
@click.option("--budget-mb", type=float, metavar="X", help="Most that the model may take on disk.")
@click.option(
    "--device",
    default="host",
    show_default=True,
    metavar="KIND[:ADDRESS]",
    help="See `edgeseed devices`.",
)
@click.option(
    "--profile",
    "device_profile",
    metavar="NAME",
    help="Facts about the device; see `edgeseed devices`.",
)
@click.option(
    "--students",
    metavar="S[,S]",
    help="Networks to try.  [default: those with a published accuracy]",
)
@click.option("--precisions", metavar="P[,P]", help="To try.  [default: the profile's]")
@click.option(
    "--image-size",
    type=click.IntRange(min=8),
    metavar="N",
    help="Side of the photos.  [default: the network's own, of which the accuracy is]",
)
@click.option(
    "--protocol",
    type=click.Choice(["rapid", "quick", "normal", "sustained"]),
    default="rapid",
    show_default=True,
    help="How long each is timed.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Of the engine.  [default: the profile's]"
)
@click.option(
    "--cache",
    type=click.Path(),
    metavar="DIR",
    help="What was measured before.  [default: below ~/.cache]",
)
@click.option(
    "--html",
    type=click.Path(),
    metavar="F",
    help="Write a page with the picture of accuracy against latency.",
)
@click.option(
    "--picture", type=click.Path(), metavar="F.svg", help="Write that picture alone, as SVG."
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    budget_ms: float,
    budget_mb: float | None,
    device: str,
    device_profile: str | None,
    students: str | None,
    precisions: str | None,
    image_size: int | None,
    protocol: str,
    threads: int | None,
    cache: str | None,
    html: str | None,
    picture: str | None,
    as_json: bool,
) -> None:
    """Say which student to train for a device and a budget.

    Times untrained networks there, and ranks those that fit by their published ImageNet accuracy.
    """
    from edgeseed.core.names import split_names
    from edgeseed.recommend import recommend

    with silence(as_json):
        found = recommend(
            budget_ms=budget_ms,
            budget_mb=budget_mb,
            device=device,
            device_profile=device_profile,
            students=None if students is None else split_names(students),
            precisions=None if precisions is None else split_names(precisions),
            image_size=image_size,
            protocol=protocol,
            threads=threads,
            cache=cache,
            html=html,
            picture=picture,
        )
    emit(found, as_json=as_json, text=found.table() + (f"\n\npage: {html}" if html else ""))
    context.exit(0 if found.best is not None else 1)
