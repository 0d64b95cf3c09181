"""Plug-ins are listed and loaded by their names."""

import subprocess
import sys

import pytest

from edgeseed.core.errors import (
    UnknownNameError,
)
from edgeseed.core.registry import Registry


@pytest.mark.parametrize(
    ("module", "table"),
    [
        ("edgeseed.distill.methods", "METHODS"),
        ("edgeseed.export.targets", "TARGETS"),
        ("edgeseed.runtime.engines", "ENGINES"),
        ("edgeseed.runtime.devices", "DEVICES"),
    ],
)
def test_every_registry_lists_without_importing_and_summarises_each(
    module: str, table: str
) -> None:
    code = (
        f"import sys; from {module} import {table} as r; names = r.names(); assert names; "
        "assert all(r.summary(n) for n in names); "
        "assert 'torch' not in sys.modules and 'onnx' not in sys.modules and 'coremltools' not "
        "in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True)


def test_unknown_plug_in_names_the_nearest_and_lists_all() -> None:
    registry = Registry("edgeseed.distill.methods", attribute="METHOD", kind="method")
    with pytest.raises(
        UnknownNameError, match=r"unknown method 'regres'; did you mean 'regress'\? known: .*seed"
    ):
        registry.load("regres")


@pytest.mark.parametrize("name", ["_method", "../x", "", "os"])
def test_only_listed_names_are_ever_imported(name: str) -> None:
    with pytest.raises(UnknownNameError):
        Registry("edgeseed.distill.methods", attribute="METHOD", kind="method").load(name)
