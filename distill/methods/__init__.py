"""One published method a file; `METHOD` in it is the class. Files that start with `_` are none."""

from typing import TYPE_CHECKING, Any, cast

from edgeseed.core.registry import Registry

if TYPE_CHECKING:
    from edgeseed.distill.method import Method

METHODS = Registry("edgeseed.distill.methods", attribute="METHOD", kind="method")


def load_method(name: str) -> "type[Method[Any]]":
    """The class of one method.

    Raises:
        UnknownNameError: If there is none of this name; the nearest is suggested.
    """
    return cast("type[Method[Any]]", METHODS.load(name))
