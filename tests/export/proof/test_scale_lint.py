import dataclasses

import numpy as np
import numpy.typing as npt
import pytest
from support.export import tiny_preprocess

from edgeseed.core.network import StudentNetwork
from edgeseed.core.reading import read_record
from edgeseed.core.records import QuantizationRecord
from edgeseed.export.program import build_program, float_graph
from edgeseed.export.proof.scale_lint import (
    lint_scales,
    lint_zero_points,
    range_uses,
    stale_calibration,
)
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos

Pixels = npt.NDArray[np.uint8]
RECORD = QuantizationRecord(
    scheme="x86",
    ranges={"a": (0.0, 2.55), "b": (-1.0, 4.1), "c": (0.0, 25.5), "d": (0.0, 51.0)},
)


@pytest.fixture(scope="module")
def record(network: StudentNetwork, pixels: Pixels) -> QuantizationRecord:
    """Of the photos themselves."""
    return record_of(network, pixels)


def record_of(network: StudentNetwork, pixels: Pixels) -> QuantizationRecord:
    config = QuantizeConfig(calibrator="minmax", bias_correction=False, max_float_layers=0)
    program = build_program(network, tiny_preprocess())
    photos = Photos(pixels=pixels)
    made = quantize(program, SCHEMES.load("x86"), photos, batch="dynamic", config=config)
    return read_record(QuantizationRecord, made.record, what="it")


def with_contrast(pixels: Pixels, contrast: float) -> Pixels:
    return (124 + contrast * (pixels - 124.0)).clip(0, 255).astype(np.uint8)


def stale(network: StudentNetwork, pixels: Pixels, record: QuantizationRecord) -> str:
    graph = float_graph(build_program(network, tiny_preprocess()))
    return stale_calibration(range_uses(graph, pixels[:8], record))


def test_ranges_of_such_photos_fit(
    network: StudentNetwork, pixels: Pixels, record: QuantizationRecord
) -> None:
    assert stale(network, pixels, record) == ""


def test_ranges_of_fainter_photos_cut_off_and_a_layer_is_named(
    network: StudentNetwork, pixels: Pixels
) -> None:
    found = stale(network, pixels, record_of(network, with_contrast(pixels, 0.05)))
    assert found.startswith("stale calibration: ")
    assert "is stored in" in found
    assert found.endswith("measured on other photos or for another student")


def test_ranges_that_are_hardly_used_are_as_stale(
    network: StudentNetwork, pixels: Pixels, record: QuantizationRecord
) -> None:
    wide = {name: (20 * low, 20 * high) for name, (low, high) in record.ranges.items()}
    assert "stale calibration" in stale(network, pixels, dataclasses.replace(record, ranges=wide))


def test_scales_that_the_manifest_records_are_right_whatever_their_order() -> None:
    assert lint_scales([0.2, 0.01, 0.1, 0.02, 1.0, 1 / 255], RECORD) == ()
    # A file may keep them in float16.
    assert lint_scales([float(np.float16(each)) for each in (0.2, 0.01, 0.1, 0.02)], RECORD) == ()


def test_one_wrong_scale_is_told_with_the_right_one() -> None:
    (finding,) = lint_scales([0.2, 0.0107, 0.1, 0.02], RECORD)
    assert finding.problem == "a scale is wrong: 0.0107 where the manifest records 0.01"


def test_many_wrong_scales_are_another_calibration() -> None:
    (finding,) = lint_scales([0.3, 0.013, 0.1, 0.05], RECORD)
    assert finding.problem.startswith("stale calibration: 3 of 4 scales are not the manifest's")


def test_a_record_without_ranges_has_no_scales_to_check() -> None:
    assert lint_scales([], QuantizationRecord(scheme="x86")) == ()


def test_a_zero_point_off_by_one_is_told() -> None:
    assert lint_zero_points([("a", 0.01, 0), ("b", 0.02, 50)], RECORD) == ()
    (found,) = lint_zero_points([("a", 0.01, 1), ("b", 0.02, 50)], RECORD)
    assert found.where == "a"
    assert found.problem == "its zero point is 1 where the manifest's range gives 0"


def test_a_step_of_other_origin_that_is_near_to_a_recorded_one_is_no_mistake() -> None:
    """A quickstart's export was refused for one of 150 steps within 0.2 % of another's range."""
    near = 0.02 * (1 + 1e-3)
    assert lint_zero_points([("sum", near, 0), ("photo", 1.0, 0)], RECORD) == ()


def test_a_step_beyond_float16_is_looked_up_without_a_warning() -> None:
    # Of an untrained network, whose values may be of any size.
    record = dataclasses.replace(RECORD, ranges={"large": (0.0, 255e6)})
    assert lint_zero_points([("large", 1e6, 0)], record) == ()


def test_steps_stored_as_float32_are_recognised() -> None:
    ranges = {name: (-1.0 - 0.01 * index, 3.1) for index, name in enumerate("abcdefgh")}
    record = dataclasses.replace(RECORD, ranges=ranges)
    for low, high in ranges.values():
        scale = (high - low) / 255
        stored = float(np.float32(scale))
        zero = round(-low / scale)
        assert lint_zero_points([("x", stored, zero)], record) == ()
        assert len(lint_zero_points([("x", stored, zero + 1)], record)) == 1


def test_what_is_stored_shifted_may_be_read_with_another_zero_point() -> None:
    record = dataclasses.replace(RECORD, shifted={"b": 3.0})
    assert lint_zero_points([("b", 0.02, 50), ("read", 0.02, 200)], record) == ()


def test_the_gate_of_a_hard_swish_is_another_reading_of_the_same_bytes() -> None:
    """An EfficientViT was refused: its gate's step, 1/256, was another range's in float16."""
    near = 255 / 256 * (1 + 2e-4)
    ranges = {"swished": (-3.0, 3 / 128 * 127), "other": (near / 2 - near, near / 2)}
    record = dataclasses.replace(RECORD, ranges=ranges)
    assert lint_zero_points([("gate", 1 / 256, 0)], record) == ()
    (found,) = lint_zero_points([("gate", 1 / 256, 1)], record)
    assert found.where == "gate"
    (found,) = lint_zero_points([("swished", 3 / 128, 127)], record)
    assert found.problem == "its zero point is 127 where the manifest's range gives 128"
