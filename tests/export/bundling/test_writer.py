"""A bundle's photos, and what its manifest leaves out of a student's provenance."""

from pathlib import Path

import numpy as np
import pytest

from edgeseed.core.bundle import read_bundle
from edgeseed.export.bundling.writer import _without_photo_hashes, seal, write_photos
from edgeseed.export.samples import Photos


@pytest.mark.parametrize("labels", [None, np.arange(3)])
def test_numpy_reads_the_photos_as_they_were(
    tmp_path: Path, labels: "np.ndarray[tuple[int], np.dtype[np.int64]] | None"
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 8, 8), dtype=np.uint8)
    write_photos(tmp_path / "photos.npz", Photos(pixels=pixels, labels=labels))
    with np.load(tmp_path / "photos.npz", allow_pickle=False) as found:
        assert set(found) == ({"pixels"} if labels is None else {"pixels", "labels"})
        np.testing.assert_array_equal(found["pixels"], pixels)
        if labels is not None:
            np.testing.assert_array_equal(found["labels"], labels)


def test_hashes_of_training_photos_do_not_travel_at_any_depth() -> None:
    part = {"name": "photos", "sketch": "00ff", "part_of": {"fingerprint": "a", "sketch": "11"}}
    assert _without_photo_hashes({"data": part, "method": "seed", "sketch": "2"}) == {
        "data": {"name": "photos", "part_of": {"fingerprint": "a"}}, "method": "seed",
    }  # fmt: skip


def test_a_sealed_folder_is_a_bundle_with_a_card(tmp_path: Path, made_fp32: Path) -> None:
    manifest = read_bundle(made_fp32).manifest
    folder = tmp_path / "bundle"
    for name in ("model.onnx", "reference/student.safetensors"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((made_fp32 / name).read_bytes())
    sealed = seal(folder, manifest)
    assert set(sealed.manifest.files) == {
        "model.onnx", "reference/student.safetensors", "MODEL_CARD.md",
    }  # fmt: skip
    assert read_bundle(folder).manifest.files == sealed.manifest.files
    (folder / "MODEL_CARD.md").write_text("another")
    with pytest.raises(Exception, match=r"MODEL_CARD\.md"):
        read_bundle(folder)
