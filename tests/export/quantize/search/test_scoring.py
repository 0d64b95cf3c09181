"""Top-1 agreement and distance of quantized graphs, on the photos of each use."""

import numpy as np
import numpy.typing as npt
import pytest
from support.export import CLASSES, tiny_preprocess, tiny_student
from torch import fx

from edgeseed.export.program import build_program, float_graph
from edgeseed.export.quantize.graph.layout import Layout, plan_layout
from edgeseed.export.quantize.graph.rewriting import TensorScales
from edgeseed.export.quantize.ranges.statistics import calibrate, scales_by_method
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.quantize.search.photo_split import PhotoSplit
from edgeseed.export.quantize.search.scoring import Sample, Scorer, run_graph
from edgeseed.export.samples import Photos

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    return float_graph(build_program(tiny_student(), tiny_preprocess()))


@pytest.fixture
def scorer(graph: fx.GraphModule, pixels: Pixels) -> Scorer:
    photos = Photos(pixels=pixels)
    split = PhotoSplit.divide(photos, None, gate_limit=0.98, learning=False)
    return Scorer(graph, SCHEMES.load("x86"), split, gate_limit=0.98)


def scales_of(scorer: Scorer) -> tuple[TensorScales, Layout]:
    layout = plan_layout(scorer.graph.graph, scorer.scheme)
    statistics = calibrate(scorer.graph, layout, scorer.calibration)
    return scales_by_method(statistics, layout, scorer.scheme, "minmax"), layout


def test_a_graph_gives_an_embedding_and_logits_for_each_photo(
    graph: fx.GraphModule, pixels: Pixels
) -> None:
    outputs = run_graph(graph, Photos(pixels=pixels))
    assert set(outputs) == {"embedding", "logits"}
    assert len(outputs["embedding"]) == len(pixels)
    assert outputs["logits"].shape == (len(pixels), len(CLASSES))


def test_float_outputs_of_a_sample_are_computed_once(
    graph: fx.GraphModule, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = Sample(graph, pixels)
    first = sample.truth
    monkeypatch.setattr(fx.GraphModule, "__call__", None)
    assert sample.truth is first


def test_a_quantized_graph_is_near_the_float_one_and_not_the_same(scorer: Scorer) -> None:
    score = scorer.score(*scales_of(scorer), scorer.ranking)
    assert score.photos == len(scorer.ranking.photos)
    assert 0 < score.distance < 0.5
    assert score.agreement > 0.5


def test_a_changed_float_graph_scores_worse(scorer: Scorer) -> None:
    changed = float_graph(build_program(tiny_student(trained=False), tiny_preprocess()))
    scales, layout = scales_of(scorer)
    same = scorer.score(scales, layout, scorer.ranking)
    other = scorer.score(scales, layout, scorer.ranking, graph=changed)
    assert other.distance > same.distance


def test_agreement_of_other_photos_leaves_the_distance(scorer: Scorer, pixels: Pixels) -> None:
    scales, layout = scales_of(scorer)
    ranked = scorer.score(scales, layout, scorer.ranking)
    assert not scorer.has_acceptance_photos
    assert scorer.measure_agreement(ranked, scales, layout) is ranked
    scorer.acceptance = Sample(scorer.graph, pixels[:5])
    measured = scorer.measure_agreement(ranked, scales, layout)
    assert measured.photos == 5
    assert measured.distance == ranked.distance


@pytest.mark.parametrize(
    ("share", "gate_limit", "count", "search_target"),
    [
        (0.99, 0.98, 256, 253),
        (0.98, 0.98, 96, 95),  # no less than the gate's
        (0.995, 0.99, 1393, 1386),
        (0.0, 0.98, 256, 0),
        (0.5, 0.98, 1, 1),
        (1.1, 1.1, 10, 11),
    ],
)
def test_an_agreement_to_reach_is_a_whole_number_of_photos(
    scorer: Scorer, share: float, gate_limit: float, count: int, search_target: int
) -> None:
    scorer.gate_limit = gate_limit
    scorer.acceptance = Sample(scorer.graph, np.zeros((count, 3, 8, 8), np.uint8))
    assert scorer.in_whole_photos(share) == search_target / count
