"""Golden photos: what is written comes back, of grey, coloured and transparent photos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeseed.core.errors import ArtifactError
from edgeseed.core.preprocess import Preprocess
from edgeseed.export.proof.golden import Golden, golden_inputs, read_golden, write_golden

PREPROCESS = Preprocess(image_size=16, resize=18)


def photo(mode: str) -> Image.Image:
    shape = (20, 30) if mode == "L" else (20, 30, len(mode))
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def golden(*photos: Image.Image) -> Golden:
    return Golden(
        photos=photos,
        inputs=golden_inputs([each.convert("RGB") for each in photos], PREPROCESS),
        float_outputs={"embedding": np.ones((len(photos), 4), np.float32)},
        model_outputs={"embedding": np.zeros((len(photos), 4), np.float32),
                       "top1_indices": np.zeros((len(photos), 1), np.int32)},
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_photos_inputs_and_outputs_come_back_bit_for_bit(tmp_path: Path, mode: str) -> None:
    written = golden(photo(mode), photo(mode).transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    write_golden(tmp_path, written)
    found = read_golden(tmp_path)
    assert [each.mode for each in found.photos] == [mode, mode]
    for ours, theirs in zip(found.photos, written.photos, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    np.testing.assert_array_equal(found.inputs, written.inputs)
    assert found.inputs.shape == (2, 3, 16, 16)
    assert found.model_outputs["top1_indices"].dtype == np.int32
    np.testing.assert_array_equal(found.float_outputs["embedding"], np.ones((2, 4)))


def test_the_photos_are_read_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    photos = [Image.new("RGB", (20, 20), (index, 0, 0)) for index in range(12)]
    write_golden(tmp_path, golden(*photos))
    found = [each.getpixel((0, 0)) for each in read_golden(tmp_path).photos]
    assert found == [(index, 0, 0) for index in range(12)]


@pytest.mark.parametrize("name", ["inputs.npy", "float.npz", "model.npz"])
@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04"])
def test_a_part_that_is_missing_or_broken_is_named(
    tmp_path: Path, name: str, content: bytes | None
) -> None:
    write_golden(tmp_path, golden(photo("RGB")))
    path = tmp_path / "golden" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=name):
        read_golden(tmp_path)
