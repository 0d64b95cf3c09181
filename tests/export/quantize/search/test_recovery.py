import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import CLASSES, tinted_photo, tiny_preprocess, tiny_student
from torch import fx

from edgeseed.core.agreement import output_distance
from edgeseed.export.program import build_program, float_graph
from edgeseed.export.quantize import quantize
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.graph.layout import Kind, Layout, plan_layout
from edgeseed.export.quantize.graph.rewriting import UNROUNDED, TensorScales, insert_quantization
from edgeseed.export.quantize.graph.simulation import simulate
from edgeseed.export.quantize.ranges.statistics import calibrate, scales_by_method
from edgeseed.export.quantize.scheme import IntegerFormat, Scheme
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.quantize.search import recovery
from edgeseed.export.quantize.search.recovery import (
    RecoveryConfig,
    _Learner,
    imitation_loss,
    random_crops,
    recover,
    rounded_weight,
)
from edgeseed.export.quantize.search.scoring import run_graph
from edgeseed.export.samples import Photos


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coarse:
    """A tiny student in integers so coarse that there is much to recover."""

    graph: fx.GraphModule
    layout: Layout
    scales: TensorScales
    scheme: Scheme
    learning: Photos
    ranking: Photos

    def distance(self, scales: TensorScales) -> float:
        quantized = insert_quantization(self.graph, self.layout, scales, self.scheme)
        found = run_graph(simulate(quantized), self.ranking)
        return output_distance(found, run_graph(self.graph, self.ranking))

    def recover(self, **settings: float) -> TensorScales:
        config = RecoveryConfig(**settings)  # type: ignore[arg-type]  # whole numbers among them
        return recover(
            self.graph, self.layout, self.scales, self.scheme, self.learning,
            distance=self.distance, config=config,
        )  # fmt: skip


@pytest.fixture(scope="module")
def coarse() -> Coarse:
    scheme: Scheme = SCHEMES.load("x86")
    weight = IntegerFormat(dtype=scheme.weight.dtype, low=-7, high=7, symmetric=True)
    scheme = dataclasses.replace(scheme, weight=weight)
    graph = float_graph(build_program(tiny_student(), tiny_preprocess()))
    layout = plan_layout(graph.graph, scheme)
    learning, ranking = (_photos(first, first + 12) for first in (300, 400))
    scales = scales_by_method(calibrate(graph, layout, learning), layout, scheme, "minmax")
    return Coarse(
        graph=graph, layout=layout, scales=scales, scheme=scheme, learning=learning,
        ranking=ranking,
    )  # fmt: skip


# A grid of 15 integers: one step is a large part of a weight.
COARSE_LR = 0.005


@pytest.fixture(scope="module")
def recovered(coarse: Coarse) -> TensorScales:
    """What thirty steps make of it. A seed gives the same weights, so that one run is enough."""
    return coarse.recover(steps=30, batch_size=16, lr=COARSE_LR)


def _photos(first: int, last: int) -> Photos:
    photos = [tinted_photo(kind, seed) for seed in range(first, last) for kind in CLASSES]
    return Photos(pixels=np.stack([tiny_preprocess().pixels(photo) for photo in photos]))


@pytest.mark.slow
def test_photos_it_has_not_seen_are_decided_more_as_the_float_student_does(
    coarse: Coarse, recovered: TensorScales
) -> None:
    assert recovered.learned
    assert coarse.distance(recovered) < 0.75 * coarse.distance(coarse.scales)


@pytest.mark.slow
def test_the_graph_keeps_its_form_and_its_zero_points(
    coarse: Coarse, recovered: TensorScales
) -> None:
    for name, start in coarse.scales.quantizers.items():
        assert recovered.quantizers[name].zero_point == start.zero_point
    before, after = (
        insert_quantization(coarse.graph, coarse.layout, scales, coarse.scheme)
        for scales in (coarse.scales, recovered)
    )
    assert [(n.op, n.target) for n in before.graph.nodes] == [
        (n.op, n.target) for n in after.graph.nodes
    ]


@pytest.mark.parametrize("range_rate", [0.0, 0.2])
def test_what_was_learnt_is_what_is_written(
    coarse: Coarse, range_rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulation that learns and the integers that ship are the same function.

    Also where a range has moved, and with it the grid of the next layer's bias.
    """
    monkeypatch.setattr(recovery, "_RANGE_RATE", range_rate)
    config = RecoveryConfig(steps=4, batch_size=8)
    quantized = insert_quantization(coarse.graph, coarse.layout, coarse.scales, coarse.scheme)
    learner = _Learner(quantized, coarse.layout, coarse.scheme, config)
    images = torch.from_numpy(coarse.learning.pixels[:8]).float()
    for step in range(config.steps):
        learner.update(coarse.graph, images, step)
    scales = learner.scales_from(coarse.scales)
    shipped = simulate(insert_quantization(coarse.graph, coarse.layout, scales, coarse.scheme))
    with torch.no_grad():
        for learnt, written in zip(learner.student(images), shipped(images), strict=True):
            assert float((learnt - written).norm() / written.norm()) < 1e-3


@pytest.mark.slow
def test_ranges_that_are_no_functions_own_learn(coarse: Coarse, recovered: TensorScales) -> None:
    moved = {
        coarse.layout.points[name]
        for name, start in coarse.scales.quantizers.items()
        if recovered.quantizers[name].scale != start.scale
    }
    assert Kind.FREE in moved
    assert not moved & {Kind.IMAGE, Kind.HARDSWISH, Kind.HARDSIGMOID, Kind.SIGMOID}


# Learns once more. Above, ranges that are no function's own have moved.
@pytest.mark.slow
def test_a_range_far_too_wide_is_narrowed(coarse: Coarse) -> None:
    """Every tensor at eight times its range: learning must take it back some of the way.

    The last step is taken, not the nearest: ranges so wide may cost this tiny student less than the
    high rate of the weights does, and then the start would be the best.
    """
    falling = itertools.count(0, -1)
    kinds = coarse.layout.points
    wide = {
        name: quantizer.stretched(8.0) if kinds[name] in (Kind.FREE, Kind.RELU) else quantizer
        for name, quantizer in coarse.scales.quantizers.items()
    }
    start = dataclasses.replace(coarse.scales, quantizers=wide)
    found = recover(
        coarse.graph, coarse.layout, start, coarse.scheme, coarse.learning,
        distance=lambda _: float(next(falling)),
        config=RecoveryConfig(steps=30, batch_size=16, lr=COARSE_LR * 8),
    )  # fmt: skip
    ratios = [found.quantizers[name].scale / q.scale for name, q in wide.items()]
    assert np.mean([ratio < 1 for ratio in ratios if ratio != 1]) > 0.7


@pytest.mark.slow
def test_biases_move_in_units_of_their_channel(coarse: Coarse, recovered: TensorScales) -> None:
    """A unit of zero would leave every bias where it was, without a word."""
    learned = recovered.learned
    quantized = insert_quantization(coarse.graph, coarse.layout, coarse.scales, coarse.scheme)
    layers = _Learner(quantized, coarse.layout, coarse.scheme, RecoveryConfig()).layers
    moved = [layer.name for layer in layers if not layer.bias.equal(learned[layer.name][1])]
    assert len(moved) == len(layers)


@pytest.mark.slow
def test_without_a_gain_nothing_changes(coarse: Coarse) -> None:
    """A rate that wrecks the network, on photos that judge it: the start is the best."""
    assert coarse.recover(steps=6, lr=50.0, batch_size=8) is coarse.scales


@pytest.mark.slow
def test_a_seed_gives_the_same_weights(coarse: Coarse) -> None:
    first, second = (coarse.recover(steps=3, batch_size=8).learned for _ in range(2))
    for name, (weight, bias) in first.items():
        assert weight.equal(second[name][0])
        assert bias.equal(second[name][1])


def test_rounding_has_the_gradient_of_the_identity_inside_the_grid() -> None:
    start = torch.tensor([[0.26, -0.74, 0.9]])
    scales = torch.tensor([[0.1]])
    steps = torch.tensor([[0.0, 0.0, 0.0]], requires_grad=True)
    weight = rounded_weight(start, scales, steps, low=-7, high=7)
    torch.testing.assert_close(weight, torch.tensor([[0.3, -0.7, 0.7]]))
    weight.sum().backward()
    assert steps.grad is not None
    torch.testing.assert_close(steps.grad, torch.tensor([[0.1, 0.0, 0.0]]))


def test_the_loss_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        (torch.randn(5, 4, generator=generator), torch.randn(5, 3, generator=generator))
        for _ in range(2)
    )
    divergence = error = norm = 0.0
    for photo in range(5):
        wanted, found = (values[1][photo].softmax(0).tolist() for values in (teacher, student))
        divergence += sum(w * math.log(w / f) for w, f in zip(wanted, found, strict=True)) / 5
        pairs = zip(student[0][photo].tolist(), teacher[0][photo].tolist(), strict=True)
        for found_value, wanted_value in pairs:
            error += (found_value - wanted_value) ** 2
            norm += wanted_value**2
    loss = imitation_loss(student, teacher)
    assert float(loss) == pytest.approx(divergence + error / norm, rel=1e-5)
    assert float(imitation_loss(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(imitation_loss(student[:1], teacher[:1])) == pytest.approx(error / norm, rel=1e-5)


def test_crops_stay_bytes_and_differ_from_each_other(pixels: npt.NDArray[np.uint8]) -> None:
    images = torch.from_numpy(pixels[:1]).float().repeat(6, 1, 1, 1)
    crops = random_crops(images, torch.Generator().manual_seed(0))
    assert crops.shape == images.shape
    assert crops.equal(crops.round())
    assert 0 <= float(crops.min()) <= float(crops.max()) <= 255
    assert len({crop.sum().item() for crop in crops}) == 6


@pytest.mark.parametrize("name", ["steps", "lr", "batch_size"])
def test_settings_that_cannot_learn_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0 must be above 0"):
        RecoveryConfig(**{name: 0})


@pytest.mark.slow
@pytest.mark.parametrize(("share", "said"), [(0.0, "it is not taken"), (0.5, "")])
def test_what_was_learnt_is_not_taken_where_it_keeps_fewer_decisions_or_is_farther(
    coarse: Coarse,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    share: float,
    said: str,
) -> None:
    """A MobileNetV3-small came a sixth nearer, and lost nine decisions of 1,024.

    An EfficientNet-Lite0 came nearer on the photos that looked on while it learnt, and was farther
    on those that judge. Half of the head's weights decide alike, and are farther.
    """

    def forget(
        graph: fx.GraphModule, layout: Layout, scales: TensorScales, *rest: Any, **settings: Any
    ) -> TensorScales:
        quantized = insert_quantization(graph, layout, scales, coarse.scheme)
        (head,) = [node for node in quantized.graph.nodes if node.name == "linear"]
        weight, bias = head.meta[UNROUNDED]
        return dataclasses.replace(scales, learned={"linear": (share * weight, share * bias)})

    monkeypatch.setattr(quantize, "recover", forget)
    program = build_program(tiny_student(), tiny_preprocess())
    config = QuantizeConfig(calibrator="minmax", max_float_layers=0, recover=True)
    record = quantize.quantize(
        program, coarse.scheme, _photos(0, 20), batch="dynamic", config=config
    ).record
    score = record["tried"]["recovery"]
    assert record["agreement"] > 0.5
    assert (score["agreement"] < 0.5) == bool(said)
    assert not record["recovered"]
    assert ("it is not taken" in capsys.readouterr().err) == bool(said)
