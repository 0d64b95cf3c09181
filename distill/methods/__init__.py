"""One published method a file. A file that does not start with `_` is a method; its `METHOD` is the class."""

from typing import TYPE_CHECKING, Any, cast

from edgeseed.core.registry import Registry

if TYPE_CHECKING:
    from edgeseed.distill.methods._method import Method

METHODS = Registry("edgeseed.distill.methods", attribute="METHOD", kind="method")


def load_method(name: str) -> "type[Method[Any]]":
    """The class of one method.

    Raises:
        UnknownNameError: If there is none of this name; the nearest is suggested.
    """
    return cast("type[Method[Any]]", METHODS.load(name))
