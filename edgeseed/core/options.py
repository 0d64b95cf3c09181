"""Options of a stage, stated once: a frozen dataclass gives the signature, the docstring, the CLI.

```python
@dataclass(frozen=True, kw_only=True)
class BakeOptions:
    flour: Annotated[str, Option("Kind of flour.", metavar="F")]
    minutes: Annotated[int, Option("Time in the oven.", minimum=1)] = 40

@takes(BakeOptions)
def bake(options: BakeOptions) -> Bread:
    \"\"\"Bakes a loaf.\"\"\"

bake(flour="rye", minutes=50)        # type checkers see the fields as parameters
```
"""

import dataclasses
import functools
import textwrap
import typing
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Options = TypeVar("_Options")
_Result = TypeVar("_Result")
_WIDTH = 96


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """What the help says of one field, and how the command line spells it.

    Attributes:
        help: One or two sentences: what it is, its unit, its default where that is not a value.
        metavar: What stands for its value in the help.
        minimum: The least number that makes sense.
        maximum: The largest number that makes sense.
        flags: Spellings on the command line, the first in the help; by default `--field-name`.
        multiple: Whether it may be given several times.
        default_text: What the help says where the default is None.
        off_help: What the help says of the switch that turns off what is on by default.
        python_only: Whether the command line has no option for it.
    """

    help: str
    metavar: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    flags: tuple[str, ...] = ()
    multiple: bool = False
    default_text: str | None = None
    off_help: str | None = None
    python_only: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class OptionField:
    """One field of a class of options."""

    name: str
    type: Any
    default: Any
    """`dataclasses.MISSING` where it must be given."""
    option: Option
    is_positional: bool

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return self.default is dataclasses.MISSING


def option_fields(options: type[Any]) -> tuple[OptionField, ...]:
    """The fields of a class of options: its own before those that it inherits."""
    hints = typing.get_type_hints(options, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(options)}
    ordered = [name for kind in options.__mro__ for name in vars(kind).get("__annotations__", {})]
    names = [name for name in dict.fromkeys(ordered) if name in fields]
    return tuple(_read(fields[name], hints[name]) for name in names)


def _read(field: dataclasses.Field[Any], hint: Any) -> OptionField:
    kind, *marks = typing.get_args(hint)
    (option,) = (mark for mark in marks if isinstance(mark, Option))
    return OptionField(
        name=field.name,
        type=kind,
        default=field.default,
        option=option,
        is_positional=not field.kw_only,
    )


def takes(
    options: Callable[_Parameters, _Options],
) -> Callable[[Callable[[_Options], _Result]], Callable[_Parameters, _Result]]:
    """Makes a function of one object of options into one that takes its fields as arguments.

    Args:
        options: The class; each field is annotated with an `Option`.
    """

    def decorate(function: Callable[[_Options], _Result]) -> Callable[_Parameters, _Result]:
        @functools.wraps(function)
        def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            return function(options(*args, **kwargs))

        # `help` and the documentation show the parameters of the class, and what they are for.
        vars(call)["__wrapped__"] = options
        call.__doc__ = insert_arguments(function.__doc__ or "", typing.cast(Any, options))
        return call

    return decorate


def insert_arguments(docstring: str, options: type[Any]) -> str:
    """The docstring with an `Args:` section, of the fields of `options`, before `Returns:`."""
    text = textwrap.dedent(f"    {docstring}").strip()
    lines = ["Args:", *_argument_lines(options)]
    for heading in ("Returns:", "Raises:"):
        before, found, after = text.partition(f"\n{heading}")
        if found:
            return "\n".join([before.rstrip(), "", *lines, "", f"{heading}{after}"])
    return "\n".join([text, "", *lines])


def _argument_lines(options: type[Any]) -> Iterator[str]:
    for field in option_fields(options):
        default = f" By default {field.option.default_text}." if field.option.default_text else ""
        text = f"{field.name}: {field.option.help}{default}"
        yield from textwrap.wrap(text, _WIDTH, initial_indent="    ", subsequent_indent="        ")
