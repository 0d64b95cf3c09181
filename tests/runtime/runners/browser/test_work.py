"""What the page is given: plain bytes that JavaScript can read, and their digests."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from edgeseed.core.bundle import Bundle
from edgeseed.core.errors import ConfigError
from edgeseed.runtime.runners.browser.package import FILES, VERSION, OrtWeb
from edgeseed.runtime.runners.browser.work import make_work

from .conftest import make_job

ORT = OrtWeb(folder=Path("/ort"), version=VERSION)


def test_golden_photos_and_outputs_are_little_endian_floats_with_their_digests(
    bundle: Bundle,
) -> None:
    work = make_work(bundle, make_job(bundle), pixels=None, ort_web=ORT, title="t")
    golden = work.description["golden"]
    content = work.files[golden["inputs"]["url"]]
    assert isinstance(content, bytes)
    inputs = np.load(bundle.path / "golden/inputs.npy")
    np.testing.assert_array_equal(
        np.frombuffer(content, "<f4").reshape(golden["inputs"]["shape"]), inputs
    )
    assert golden["inputs"]["sha256"] == hashlib.sha256(content).hexdigest()
    with np.load(bundle.path / "golden/model.npz") as archive:
        assert {each["name"] for each in golden["outputs"]} == set(archive.files)
        for each in golden["outputs"]:
            values = work.files[each["url"]]
            assert isinstance(values, bytes)
            assert len(values) == each["size_bytes"] == archive[each["name"]].size * 4
            assert work.outputs[each["name"]] == archive[each["name"]].shape[1:]


def test_the_model_and_the_engines_files_are_fetched_from_where_they_lie(bundle: Bundle) -> None:
    work = make_work(bundle, make_job(bundle), pixels=None, ort_web=ORT, title="t")
    (model,) = work.description["files"]
    assert work.files[model["url"]] == bundle.model_path
    assert model["sha256"] == bundle.manifest.files["model.onnx"].sha256
    for name in FILES["wasm"]:
        assert work.files[f"ort/{name}"] == Path("/ort") / name
    assert work.description["photos"] is None
    assert "files" not in work.description["job"]


def test_photos_are_described_with_the_sizes_of_their_outputs(bundle: Bundle) -> None:
    pixels = np.zeros((5, 3, 16, 16), np.uint8)
    work = make_work(bundle, make_job(bundle), pixels=pixels, ort_web=ORT, title="t")
    photos = work.description["photos"]
    assert (photos["n"], photos["shape"]) == (5, (3, 16, 16))
    assert {each["name"]: each["size"] for each in photos["outputs"]} == {
        name: int(np.prod(shape)) for name, shape in work.outputs.items()
    }
    assert work.pixels is pixels


def test_the_description_is_json(bundle: Bundle) -> None:
    work = make_work(bundle, make_job(bundle), pixels=None, ort_web=ORT, title="a title")
    assert json.loads(json.dumps(work.description))["title"] == "a title"


def test_a_bundle_that_no_browser_runs_is_refused(bundle: Bundle) -> None:
    other = dataclasses.replace(
        bundle, manifest=dataclasses.replace(bundle.manifest, target="coreml")
    )
    with pytest.raises(ConfigError, match="is a coreml bundle; a browser runs onnx"):
        make_work(other, make_job(bundle), pixels=None, ort_web=ORT, title="t")
