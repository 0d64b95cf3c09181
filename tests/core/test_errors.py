"""The tree of errors: what the docstring draws is what there is."""

import inspect
import re

import pytest

from edgeseed.core import errors
from edgeseed.core.errors import EdgeseedError, GateError, UsageError

KINDS = {
    name: kind for name, kind in vars(errors).items()
    if inspect.isclass(kind) and issubclass(kind, Exception)
}  # fmt: skip


def drawn() -> dict[str, int]:
    """Name -> depth, as the module's docstring has them."""
    found = {}
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([│ ]*(?:[├└]── )?)(\w+Error)\b", line)
        if match:
            found[match[2]] = len(match[1]) // 4
    return found


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    def depth(kind: type) -> int:
        return 0 if kind is EdgeseedError else 1 + depth(kind.__bases__[0])

    assert drawn() == {name: depth(kind) for name, kind in KINDS.items()}


@pytest.mark.parametrize("name", KINDS)
def test_every_error_is_ours_and_has_an_exit_code(name: str) -> None:
    kind = KINDS[name]
    assert issubclass(kind, EdgeseedError)
    expected = 2 if issubclass(kind, UsageError) else 130 if "Interrupted" in name else 1
    assert kind.exit_code == expected


def test_a_wrong_value_is_a_value_error_and_a_missing_package_an_import_error() -> None:
    # So that a caller need not know our names.
    assert issubclass(UsageError, ValueError)
    assert issubclass(errors.MissingDependencyError, ImportError)


def test_a_failed_gate_carries_what_was_measured() -> None:
    assert GateError("no", result={"a": 1}).result == {"a": 1}
    assert GateError("no").result is None
