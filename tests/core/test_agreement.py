"""The measures that export and runtime share."""

import ast
from pathlib import Path

import numpy as np
import pytest

from edgeseed.core import agreement


def rows(*values: list[float]) -> np.ndarray:
    return np.asarray(values, np.float32)


def test_relative_error_is_that_of_the_worst_photo() -> None:
    assert agreement.relative_error(rows([1, 2], [0, 3]), rows([1, 2], [0, 4])) == 0.25


def test_an_output_that_is_not_finite_is_as_wrong_as_can_be() -> None:
    broken = rows([1, np.nan])
    assert agreement.relative_error(broken, rows([1, 2])) == 1e30
    assert agreement.relative_rms(broken, rows([1, 2])) == 1e30


def test_a_temperature_is_a_scale_and_noise_is_not() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (64, 10))
    noisy = logits + generator.normal(0, 1.5, logits.shape)
    assert agreement.median_scale(noisy, logits) == pytest.approx(1, abs=0.05)
    assert agreement.median_scale(noisy * 0.8, logits) == pytest.approx(0.8, abs=0.05)
    # A photo without any features has no scale; a file of NaN has none either.
    logits[3] = 0
    assert agreement.median_scale(logits * 0.8, logits) == pytest.approx(0.8)
    assert agreement.median_scale(np.zeros((2, 4)), np.zeros((2, 4))) == 1
    assert agreement.median_scale(logits * np.nan, logits) > 100


def test_relative_rms_sees_an_offset_a_temperature_and_a_softmax() -> None:
    logits = np.random.default_rng(0).normal(0, 3, (64, 10)).astype(np.float32)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for changed in (logits + 3, logits / 1.5, softmax):
        assert agreement.relative_rms(changed, logits) > 0.3
    assert agreement.relative_rms(logits, logits) == 0


def test_a_photo_that_is_there_twice_may_be_taken_for_its_twin() -> None:
    reference = rows([1, 0], [1, 0], [0, 1])
    assert agreement.self_retrieval(reference, reference) == 1.0
    found = agreement.self_retrieval(rows([0, 1], [1, 0], [0, 1]), reference)
    assert found == pytest.approx(2 / 3)


def test_photos_are_found_again_among_as_many_however_many_there_are() -> None:
    """512 directions all round, each moved by most of the way to the next: halves are found."""
    step = 2 * np.pi / 512
    angles = step * np.arange(512)
    reference, moved = (
        np.stack([np.cos(a), np.sin(a)], axis=1).astype(np.float32)
        for a in (angles, angles + 0.7 * step)
    )
    assert agreement.self_retrieval(moved, reference) == 1.0
    assert agreement.self_retrieval(moved[:256], reference[:256]) < 0.1


@pytest.mark.parametrize(("count", "size"), [(1, 1), (256, 256), (257, 129), (1000, 250)])
def test_a_pool_has_at_most_256_photos(count: int, size: int) -> None:
    assert agreement.retrieval_pool_size(count) == size


def test_pools_cover_every_photo_once() -> None:
    reference = np.random.default_rng(0).normal(size=(1000, 8)).astype(np.float32)
    assert agreement.self_retrieval_hits(reference, reference).all()


def test_agreement_is_by_logits_where_there_are_any() -> None:
    logits = {"embedding": rows([1, 0]), "logits": rows([1, 0])}
    assert agreement.agreement_measure(logits) == "top1"
    assert agreement.agreement_measure({"embedding": rows([1, 0])}) == "self-retrieval"
    assert agreement.agreement({**logits, "logits": rows([0, 1])}, logits) == 0.0


def test_divergence_is_that_of_the_predicted_classes() -> None:
    truth, found = rows([2.0, 0.0]), rows([0.0, 0.0])
    share = np.exp(2) / (1 + np.exp(2))
    expected = share * np.log(share / 0.5) + (1 - share) * np.log((1 - share) / 0.5)
    assert agreement.kl_divergences(found, truth) == pytest.approx([expected], rel=1e-6)
    outputs, reference = ({"embedding": each, "logits": each} for each in (found, truth))
    assert agreement.output_distance(outputs, reference) == pytest.approx(expected, rel=1e-6)


def test_two_swapped_rows_are_no_neighbours_of_the_reference() -> None:
    reference = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    assert agreement.neighbour_overlap(reference, reference) == 1.0
    swapped = reference[:, [1, 0, *range(2, 16)]]
    assert agreement.neighbour_overlap(swapped, reference) < 0.9


def test_a_zeroed_channel_follows_nothing_and_a_constant_one_is_not_judged() -> None:
    reference = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    reference[:, 3] = 0.5
    value = reference.copy()
    value[:, 1] = 0
    found = agreement.channel_correlations(value, reference)
    assert found[[0, 2]] == pytest.approx([1, 1])
    assert found[1] == 0
    assert np.isnan(found[3])


def test_the_gain_of_a_channel_is_its_slope_over_the_references() -> None:
    reference = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    reference[:, 3] = 0.5
    found = agreement.channel_gains(reference * [1, 2, -0.5, 1] + [0, 1, 0, 0], reference)
    # Photos are brought to one size, so that what is added to a channel is not quite constant.
    assert found[[0, 2]] == pytest.approx([1, -0.5])
    assert found[1] == pytest.approx(2, abs=1e-6)
    assert np.isnan(found[3])


def test_photos_that_a_channel_is_seen_on_are_counted_by_size() -> None:
    reference = np.zeros((40, 4), np.float32)
    reference[:, 0], reference[0, 1], reference[[0, 1, 2, 3], 2] = 2, 5, 1
    found = agreement.channel_photos(reference[:, :1])
    assert found == pytest.approx([40])
    reference[:, 0] = 0
    reference[:, 3] = 100  # so that all photos are of one size
    assert agreement.channel_photos(reference)[1:3] == pytest.approx([1, 4], rel=1e-3)


def one_huge_photo() -> tuple[np.ndarray, np.ndarray]:
    """A reference with a photo sixty times as large as the others, and what int8 makes of it."""
    generator = np.random.default_rng(0)
    reference = generator.normal(size=(256, 16)).astype(np.float32)
    reference[7] *= 60
    value = reference + 0.02 * generator.normal(size=reference.shape).astype(np.float32)
    value[7] = np.clip(value[7], -6, 6)
    return value, reference


def test_a_huge_photo_that_is_clipped_counts_as_one_photo() -> None:
    # The quickstart's classifier has one: an honest int8 export was refused for it.
    value, reference = one_huge_photo()
    assert agreement.relative_rms(value, reference) > 0.7
    assert agreement.photo_rms(value, reference) < 0.08
    assert agreement.channel_correlations(value, reference).min() > 0.9


def test_a_huge_photo_hides_no_fault_of_the_others() -> None:
    value, reference = one_huge_photo()
    honest = agreement.photo_rms(value, reference)
    assert agreement.photo_rms(0.8 * value, reference) > 2.5 * honest
    zeroed, swapped = value.copy(), value.copy()
    zeroed[:, 3], swapped[:, [1, 2]] = 0, value[:, [2, 1]]
    assert agreement.channel_correlations(zeroed, reference)[3] == 0
    assert agreement.channel_correlations(swapped, reference)[1:3].max() < 0.5
    broken = value.copy()
    broken[0, 0] = np.nan
    assert agreement.photo_rms(broken, reference) == 1e30


def test_golden_limits_are_wider_where_values_are_rounded() -> None:
    assert agreement.golden_limit("fp32") == 1e-3
    assert agreement.golden_limit("int8") == agreement.golden_limit("fp16") == 5e-2


def test_the_file_can_travel_to_a_device() -> None:
    """Numpy, and Python 3.8: what else it imports is for type checkers."""
    tree = ast.parse(Path(agreement.__file__).read_text("utf-8"), feature_version=(3, 8))
    imported = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
             for node in imported}  # fmt: skip
    assert names == {"__future__", "typing", "numpy"}


def test_classes_are_compared_by_their_logits() -> None:
    golden = {
        "logits": rows([5, 4.9999, -1], [0, 1, 2]),
        "top2_indices": np.array([[0, 1], [2, 1]], np.int32),
    }
    for dtype in (np.int32, np.int64, np.float32):  # as hosts and devices keep them
        same = golden["top2_indices"].astype(dtype)
        assert agreement.golden_error("top2_indices", same, golden) == 0
    tie, wrong = np.array([[1, 0], [2, 1]]), np.array([[0, 2], [2, 1]])
    assert agreement.golden_error("top2_indices", tie, golden) < 1e-4
    assert agreement.golden_error("top2_indices", wrong, golden) > 1
    for beyond in (np.array([[0, 3], [2, 1]]), np.array([[0, -1], [2, 1]])):
        assert agreement.golden_error("top2_indices", beyond, golden) == 1e30
    off = golden["logits"] + 1
    assert agreement.golden_error("logits", off, golden) == pytest.approx(0.5)
