import dataclasses

import numpy as np
import numpy.typing as npt
from support.export import tiny_preprocess

from edgeseed.core.network import StudentNetwork
from edgeseed.core.records import QuantizationRecord
from edgeseed.export.program import build_program, float_graph
from edgeseed.export.proof.scale_lint import lint_scales, range_uses, stale_calibration
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos

Pixels = npt.NDArray[np.uint8]
RECORD = QuantizationRecord(
    scheme="x86",
    ranges={"a": (0.0, 2.55), "b": (-1.0, 4.1), "c": (0.0, 25.5), "d": (0.0, 51.0)},
)


def record_of(network: StudentNetwork, pixels: Pixels) -> QuantizationRecord:
    config = QuantizeConfig(calibrator="minmax", bias_correction=False, max_float_layers=0)
    program = build_program(network, tiny_preprocess())
    photos = Photos(pixels=pixels)
    made = quantize(program, SCHEMES.load("x86"), photos, batch="dynamic", config=config)
    return QuantizationRecord.from_dict(made.record)


def with_contrast(pixels: Pixels, contrast: float) -> Pixels:
    return (124 + contrast * (pixels - 124.0)).clip(0, 255).astype(np.uint8)


def stale(network: StudentNetwork, pixels: Pixels, record: QuantizationRecord) -> str:
    graph = float_graph(build_program(network, tiny_preprocess()))
    return stale_calibration(range_uses(graph, pixels[:8], record))


def test_ranges_of_such_photos_fit(network: StudentNetwork, pixels: Pixels) -> None:
    assert stale(network, pixels, record_of(network, pixels)) == ""


def test_ranges_of_fainter_photos_cut_off_and_a_layer_is_named(
    network: StudentNetwork, pixels: Pixels
) -> None:
    found = stale(network, pixels, record_of(network, with_contrast(pixels, 0.05)))
    assert found.startswith("stale calibration: ")
    assert "is stored in" in found
    assert found.endswith("measured on other photos or for another student")


def test_ranges_that_are_hardly_used_are_as_stale(network: StudentNetwork, pixels: Pixels) -> None:
    record = record_of(network, pixels)
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
