"""`edgeseed verify`."""

import click

from edgeseed.cli._options import emit, gate_lines, json_option, silence
from edgeseed.core.console import printable


@click.command(
    epilog="""\b
Examples:
  edgeseed verify bundles/onnx-int8
  edgeseed verify bundles/coreml --data labelled/
  edgeseed verify bundles/onnx-int8 --against student.safetensors --data photos/
  edgeseed verify bundles/onnx-int8 --against student.safetensors --min-agreement 0.95
  edgeseed verify birds-android --bundle bundles/onnx-int8
"""
)
@click.argument("bundle", type=click.Path())
@click.option("--data", metavar="D", help="Photos to judge on, besides those in the bundle.")
@click.option(
    "--against",
    type=click.Path(),
    metavar="STUDENT",
    help="The student that the bundle should be of, from a place that you trust: nothing in the bundle is believed then. Without, verify finds accidents, not a forger.",
)
@click.option(
    "--min-agreement",
    type=float,
    metavar="SHARE",
    help="With --against: least share of photos on which w8 and int8 decide as float does (default: 0.98).",
)
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="With --against: most accuracy it may lose, where labels are known (default: 1).",
)
@click.option(
    "--bundle",
    "origin",
    type=click.Path(),
    metavar="BUNDLE",
    help="For a module of `edgeseed embed`: the bundle that it should be of.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    bundle: str,
    data: str | None,
    against: str | None,
    min_agreement: float | None,
    max_drop: float | None,
    origin: str | None,
    as_json: bool,
) -> None:
    """Recompute every gate of a bundle, or check an app's module.

    Needs nothing but the bundle; exits 1 if a gate fails. Of a module made by `edgeseed embed` it
    checks that model, labels, golden photos and generated constants are still the bundle's.
    """
    from edgeseed.export.apps.run import is_module

    if is_module(bundle):
        given = {
            "--data": data, "--against": against, "--min-agreement": min_agreement,
            "--max-drop": max_drop,
        }  # fmt: skip
        if options := [name for name, value in given.items() if value is not None]:
            raise click.UsageError(
                f"{bundle} is an app's module: it takes --bundle, not {options[0]}"
            )
        _verify_module(bundle, origin=origin, as_json=as_json)
        return
    if origin is not None:
        raise click.UsageError(f"--bundle belongs to a module; {bundle} is none")
    from edgeseed.core.errors import GateError
    from edgeseed.export import verify

    failure: GateError | None = None
    with silence(as_json):
        try:
            result = verify(
                bundle, data=data, against=against, min_agreement=min_agreement, max_drop=max_drop
            )
        except GateError as error:
            if error.result is None:
                raise
            failure, result = error, error.result
    text = f"{result.bundle}: {result.target} {result.precision}, run by {result.runner}\n"
    notes = "".join(f"\n  note: {note}" for note in result.notes)
    # Also where a gate fails: whoever reads the failure wants to see what failed, and what held.
    value = {**result.to_dict(), "failed": None if failure is None else str(failure)}
    emit(value, as_json=as_json, text=text + gate_lines(result.gates) + notes)
    if failure is not None:
        click.echo(printable(f"edgeseed: error: {failure}"), err=True)
        context.exit(failure.exit_code)


def _verify_module(module: str, *, origin: str | None, as_json: bool) -> None:
    from edgeseed.export import verify_module

    report = verify_module(module, bundle=origin)
    counts = ", ".join(f"{count} {role}" for role, count in report.checked.items())
    edited = f"\nedited since: {', '.join(report.edited)}" if report.edited else ""
    text = (
        f"{report.module}: {report.platform} module {report.name} of model "
        f"{report.bundle_digest[:16]}...\n  ok    unchanged: {counts}{edited}"
    )
    emit(report, as_json=as_json, text=text)
