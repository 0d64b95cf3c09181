"""`edgeseed students`."""

import dataclasses

import click

from edgeseed.cli._options import emit, json_option, table


@click.command()
@json_option
def command(as_json: bool) -> None:
    """List the usual students (any timm model works)."""
    from edgeseed.distill.students import list_students

    students = list_students()
    rows = [tuple(map(str, dataclasses.astuple(info))) for info in students]
    header = tuple(field.name for field in dataclasses.fields(students[0]))
    emit(
        [dataclasses.asdict(info) for info in students],
        as_json=as_json,
        text=table(rows, header=header),
    )
