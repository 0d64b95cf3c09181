"""What `verify` says of bundles that another edgeseed made."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from edgeseed.core.bundle import read_bundle, seal_bundle
from edgeseed.core.errors import GateError, SchemaVersionError
from edgeseed.export import verify


def made_by(bundle: Path, version: str, **changes: Any) -> None:
    manifest = read_bundle(bundle, check=False).manifest
    environment = {**manifest.provenance.environment, "edgeseed": version}
    provenance = dataclasses.replace(manifest.provenance, environment=environment)
    seal_bundle(bundle, dataclasses.replace(manifest, provenance=provenance, **changes))


@pytest.mark.parametrize("changes", [{"target": "webnn"}, {"precision": "int4"}])
def test_a_target_or_precision_of_another_version_is_named_with_it(
    fp32_bundle: Path, changes: dict[str, str]
) -> None:
    made_by(fp32_bundle, "9.9", **changes)
    with pytest.raises(SchemaVersionError, match=r"has no target .* made by edgeseed 9\.9"):
        verify(fp32_bundle)


def test_another_version_that_this_one_understands_is_verified(fp32_bundle: Path) -> None:
    made_by(fp32_bundle, "0.0.9")
    assert verify(fp32_bundle).passed


def test_a_gate_that_fails_says_if_another_version_made_the_bundle(fp32_bundle: Path) -> None:
    gates = read_bundle(fp32_bundle).manifest.gates
    edited = tuple(dataclasses.replace(gate, limit=gate.limit + 1) for gate in gates)
    made_by(fp32_bundle, "0.0.9", gates=edited)
    with pytest.raises(GateError, match=r"made by edgeseed 0\.0\.9, this is .*edgeseed==0\.0\.9"):
        verify(fp32_bundle)
