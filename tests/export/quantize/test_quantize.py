"""A float program becomes an integer program, with a record of how."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import tiny_preprocess, tiny_student
from torch.export import ExportedProgram

from edgeseed.core.agreement import cosines
from edgeseed.core.reading import read_record
from edgeseed.core.records import QuantizationRecord
from edgeseed.export.program import build_program
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import Quantized, quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos

Pixels = npt.NDArray[np.uint8]
PLAIN = QuantizeConfig(
    calibrator="minmax", max_float_layers=0, bias_correction=False, second_order=False
)


@pytest.fixture(scope="module")
def program() -> ExportedProgram:
    return build_program(tiny_student(), tiny_preprocess())


@pytest.fixture(scope="module")
def photos() -> Photos:
    rng = np.random.default_rng(0)
    return Photos(pixels=rng.integers(0, 256, (48, 3, 32, 32), dtype=np.uint8))


@pytest.fixture(scope="module")
def plain(program: ExportedProgram, photos: Photos) -> Quantized:
    return quantize(program, SCHEMES.load("x86"), photos, batch="dynamic", config=PLAIN)


def embeddings(program: ExportedProgram, photos: Photos) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        found = program.module()(torch.from_numpy(photos.pixels).float())
    return np.asarray(found[0].numpy(), np.float32)


def test_the_integer_program_computes_nearly_what_the_float_program_does(
    program: ExportedProgram, plain: Quantized, photos: Photos
) -> None:
    near = cosines(embeddings(plain.program, photos), embeddings(program, photos))
    assert 0.95 < float(np.mean(near)) < 1.0  # photos of noise, plain ranges


def test_the_record_is_one_of_the_manifest_and_counts_the_photos(
    plain: Quantized, photos: Photos
) -> None:
    record = read_record(QuantizationRecord, plain.record, what="the record")
    assert record.scheme == "x86"
    assert record.calibrator == "minmax"
    assert record.photos.calibration + record.photos.held_out == len(photos)
    assert record.photos.recovery == 0
    assert not record.bias_correction
    assert not record.second_order
    assert set(record.integer_operators) & set(record.ranges)


def test_a_layer_that_is_to_stay_in_float_does_and_says_why(
    program: ExportedProgram, plain: Quantized, photos: Photos
) -> None:
    layer = next(name for name, kind in plain.record["integer"].items() if kind == "conv")
    kept = quantize(
        program, SCHEMES.load("x86"), photos, batch="dynamic", config=PLAIN,
        keep_float={layer: "asked for"},
    )  # fmt: skip
    assert kept.record["float"][layer] == "asked for"
    assert layer not in kept.record["integer"]


def test_the_same_photos_give_the_same_program(
    program: ExportedProgram, plain: Quantized, photos: Photos
) -> None:
    again = quantize(program, SCHEMES.load("x86"), photos, batch="dynamic", config=PLAIN)
    assert again.record == plain.record
    np.testing.assert_array_equal(
        embeddings(again.program, photos), embeddings(plain.program, photos)
    )
