import json
from typing import Any

import numpy as np
import pytest

from edgeseed.core.errors import ArtifactError
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.runners.browser import posts

from .conftest import measurement

OUTPUTS = ("embedding", "logits")


def read(job: Job, values: Any) -> dict[str, Any]:
    return posts.read_measurement(json.dumps(values).encode(), job=job, outputs=OUTPUTS)


def test_a_measurement_is_read_as_it_was_posted(job: Job) -> None:
    assert read(job, measurement()) == measurement()


@pytest.mark.parametrize("name", sorted(measurement()))
def test_a_field_that_is_missing_is_named(job: Job, name: str) -> None:
    values = measurement()
    del values[name]

    with pytest.raises(ArtifactError, match=f"has no {name}"):
        read(job, values)


@pytest.mark.parametrize("name", sorted(measurement()))
def test_a_field_of_another_type_is_named(job: Job, name: str) -> None:
    with pytest.raises(ArtifactError, match=name):
        read(job, measurement(**{name: True}))


def test_a_field_that_is_unknown_is_named(job: Job) -> None:
    with pytest.raises(ArtifactError, match="unknown field: extra"):
        read(job, measurement(extra=1))


def golden(**errors: Any) -> dict[str, Any]:
    return {"n": 4, "relative_error": errors, "tolerance": 1e9}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples_ns": []}, "samples_ns is not a list of positive integers"),
        ({"samples_ns": [1, 0]}, "samples_ns is not a list of positive integers"),
        ({"samples_ns": [1, 2.5]}, "samples_ns is not a list of positive integers"),
        ({"samples_ns": [1, "2"]}, "samples_ns is not a list of positive integers"),
        ({"samples_ns": [10**9] * 20}, "more than elapsed_ns"),
        ({"load_ns": -1}, "below 0"),
        ({"warm_up": {"runs": 1, "seconds": 1}}, "warm_up needs runs, seconds and steady"),
        ({"warm_up": {"runs": 1, "seconds": -1, "steady": True}}, "warm_up.seconds"),
        ({"golden": golden(embedding=0)}, "golden does not name the model's outputs"),
        ({"golden": golden(embedding=0, logits=0.2)}, "timed a model whose golden logits is off"),
        ({"golden": golden(embedding=0, logits=None)}, "golden.logits is not a number"),
        ({"placement": {"requested": "webgpu", "actual": "webgpu"}}, "not an answer to unit wasm"),
        ({"limitations": [3]}, "limitations are not texts"),
    ],
)
def test_what_cannot_be_true_is_refused(job: Job, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read(job, measurement(**changes))


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_are_none_are_refused(job: Job, text: str) -> None:
    body = json.dumps(measurement()).replace("1e-07", text, 1).encode()

    with pytest.raises(ArtifactError, match="is no JSON number"):
        posts.read_measurement(body, job=job, outputs=OUTPUTS)


def test_texts_of_the_page_cannot_write_to_the_terminal(job: Job) -> None:
    values = measurement(limitations=["\x1b[2Jgone\nnext"])
    values["machine"]["model"] = "Pixel\r\x07"

    found = read(job, values)

    assert found["limitations"] == [" [2Jgone next"]
    assert found["machine"]["model"] == "Pixel  "


def test_an_output_has_the_shape_of_the_golden_one() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3)

    assert (posts.read_output(values.tobytes(), n=2, shape=(3,)) == values).all()
    with pytest.raises(ArtifactError, match="24 bytes as an output of 3 photos"):
        posts.read_output(values.tobytes(), n=3, shape=(3,))
