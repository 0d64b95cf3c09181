"""Names that people give to things, and that must survive lists, files and terminals."""

from collections import Counter
from collections.abc import Sequence

from edgeseed.core.errors import DataError


def check_class_names(names: Sequence[str], *, source: str) -> None:
    """Refuses class names that a list of one name a line cannot hold.

    Raises:
        DataError: If a name is empty or holds a line break or control character, or two are equal.
    """
    for name in names:
        if not name.strip():
            raise DataError(f"{source}: a class has an empty name; give it one")
        if len(name.splitlines()) > 1 or not all(map(_is_printable, name)):
            raise DataError(
                f"{source}: the class name {name!r} holds a line break or control character; "
                "class lists hold one name a line: rename it"
            )
    repeated = [
        name for name, count in Counter(name.strip() for name in names).items() if count > 1
    ]
    if repeated:
        raise DataError(f"{source}: two classes are named {repeated[0]!r}; rename one of them")


def _is_printable(character: str) -> bool:
    # Line breaks beyond \n that str.splitlines and many readers of lists know: NEL, LS, PS.
    return character >= " " and character != "\x7f" and character not in "\x85\u2028\u2029"


def split_names(text: str) -> list[str]:
    """`a, b` as a list. What is empty is left out, so that a comma at the end changes nothing."""
    return [name for part in text.split(",") if (name := part.strip())]
