"""What an engine says of where a model runs."""

import json

import pytest

from edgeseed.runtime.engine import Engine, Placement


@pytest.mark.parametrize(
    ("nodes", "share"),
    [({"gpu": 3, "cpu": 1}, 0.75), ({"cpu": 4}, 0.0), ({"gpu": 2}, 1.0), ({}, None), (None, None)],
)
def test_the_share_on_the_requested_unit_is_counted(
    nodes: dict[str, int] | None, share: float | None
) -> None:
    placement = Placement(requested="gpu", actual="gpu", nodes=nodes)
    assert placement.share == share
    assert json.loads(json.dumps(placement.to_dict()))["share"] == share


def test_an_engine_that_does_not_tell_has_no_layer_times() -> None:
    assert Engine.time_layers(None, unit="cpu", threads=1, feeds={}, runs=1) is None  # type: ignore[arg-type]


def test_an_engine_has_to_open_run_and_close() -> None:
    assert Engine.__abstractmethods__ == {"version", "open", "infer", "close"}
