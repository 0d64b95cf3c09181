"""The record that every runner writes; how it is read is tested in test_conformance.py."""

import dataclasses
import json
from typing import Any

from support.fake_device import fake_measurement

from edgeseed.runtime.measurement import AGENT_RUNNER, Measurement


def plain(measurement: Measurement) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(json.dumps(measurement.to_dict()))
    return values


def test_a_measurement_is_json_with_what_people_want_to_see_in_it() -> None:
    measurement = fake_measurement([5_000_000] * 8)
    values = plain(measurement)
    assert values["placement"]["share"] == measurement.placement.share
    assert values["samples_ns"] == [5_000_000] * 8
    assert values["schema_version"] == 1
    assert values["runner"] == AGENT_RUNNER
    assert values["power"] is None


def test_every_field_is_in_the_file() -> None:
    names = {field.name for field in dataclasses.fields(Measurement)}
    assert set(plain(fake_measurement([1, 2]))) == names
