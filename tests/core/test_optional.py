"""Packages that only some commands need."""

import pytest

from edgeseed.core.errors import (
    MissingDependencyError,
)
from edgeseed.core.optional import require


def test_a_missing_package_says_the_command_that_installs_it():
    with pytest.raises(
        MissingDependencyError,
        match=r"--target x needs no_such_package.*pip install 'edgeseed\[x\]'",
    ):
        require("no_such_package", extra="x", why="--target x")
