import dataclasses
import itertools

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import tiny_preprocess, tiny_student
from torch import Tensor, nn

from edgeseed.export.program import build_program, float_graph
from edgeseed.export.proof.reference import layer_names, layer_outputs
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.corrections import rounding
from edgeseed.export.quantize.corrections.rounding import (
    Moments,
    input_moments,
    round_rows,
    round_weights,
)
from edgeseed.export.quantize.graph.layout import plan_layout
from edgeseed.export.quantize.graph.rewriting import insert_quantization
from edgeseed.export.quantize.graph.simulation import simulate
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.ranges.statistics import calibrate, scales_by_method
from edgeseed.export.quantize.scheme import INT8_SYMMETRIC, IntegerFormat, Scheme
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos


def correlated(groups: int, width: int, seed: int = 0) -> Tensor:
    """(G, D, D) moments of inputs that go together."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(groups, width, 4 * width, generator=generator).double()
    mixed = samples + 2 * samples.roll(1, dims=1)
    return mixed @ mixed.mT / mixed.shape[2]


def rows_of(groups: int, outputs: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(groups, outputs, width, generator=generator).double()


def loss(rows: Tensor, integers: Tensor, moments: Tensor) -> Tensor:
    error = rows - integers
    return ((error @ moments) * error).sum(dim=2)


def literal(row: Tensor, moments: Tensor) -> Tensor:
    """Equations 2 and 3 of the paper, with the inverse of what is left taken anew each time."""
    width = len(row)
    dampened = moments + 0.01 * moments.diagonal().mean() * torch.eye(width).double()
    left = moments.diagonal().argsort(descending=True).tolist()
    row, found = row.clone(), torch.zeros(width).double()
    while left:
        inverse = torch.linalg.inv(dampened[left][:, left])
        first = left[0]
        found[first] = row[first].round()
        error = row[first] - found[first]
        row[left] -= error / inverse[0, 0] * inverse[:, 0]
        left = left[1:]
    return found


@pytest.mark.parametrize("block", [2, 3, 64])
def test_rounding_is_the_papers_equations(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "_BLOCK", block)
    rows, moments = rows_of(2, 5, 7), correlated(2, 7)
    found = round_rows(rows, moments, low=-127, high=127)
    for group, output in itertools.product(range(2), range(5)):
        torch.testing.assert_close(
            found[group, output], literal(rows[group, output], moments[group])
        )


def test_outputs_move_less_than_with_the_nearest_integers() -> None:
    rows, moments = rows_of(3, 40, 30), correlated(3, 30)
    found = round_rows(rows, moments, low=-127, high=127)
    nearest = loss(rows, rows.round(), moments).sum()
    assert loss(rows, found, moments).sum() < 0.75 * nearest


def test_few_weights_are_rounded_nearly_as_well_as_trying_all() -> None:
    rows, moments = rows_of(1, 20, 4), correlated(1, 4)
    found = loss(rows, round_rows(rows, moments, low=-127, high=127), moments).sum()
    steps = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).double()
    tried = torch.stack([loss(rows, rows.floor() + step, moments) for step in steps])
    assert found <= 1.25 * tried.amin(dim=0).sum()


def test_inputs_that_have_nothing_in_common_leave_the_nearest() -> None:
    rows = rows_of(2, 6, 8)
    moments = torch.diag_embed(torch.rand(2, 8).double() + 0.1)
    assert round_rows(rows, moments, low=-127, high=127).equal(rows.round())


def test_inputs_that_are_always_zero_leave_the_nearest() -> None:
    rows = rows_of(1, 3, 5)
    assert round_rows(rows, torch.zeros(1, 5, 5).double(), low=-127, high=127).equal(rows.round())


def test_integers_stay_within_their_format() -> None:
    found = round_rows(3 * rows_of(1, 8, 6), correlated(1, 6), low=-7, high=7)
    assert found.equal(found.round())
    assert found.abs().max() == 7


def test_moments_are_sums_over_all_batches() -> None:
    samples = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    moments = Moments()
    for part in samples.split(20, dim=1):
        moments.add(part)
    for group in range(2):
        torch.testing.assert_close(
            moments.matrix(centered=True)[group].float(), torch.cov(samples[group].T, correction=0)
        )
        torch.testing.assert_close(
            moments.matrix(centered=False)[group].float(), samples[group].T @ samples[group] / 50
        )


@pytest.mark.parametrize(
    ("groups", "stride", "padding", "dilation"),
    [(1, 1, 0, 1), (1, 2, 1, 1), (8, 1, 1, 1), (8, 2, 2, 2), (2, 1, 1, 1)],
)
def test_a_convolutions_inputs_are_its_patches(
    groups: int, stride: int, padding: int, dilation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_POSITIONS", "_GROUPED_POSITIONS"):
        monkeypatch.setattr(rounding, name, 64)  # all of them
    layer = nn.Conv2d(8, 16, 3, stride, padding, dilation, groups)
    program = torch.export.export(layer.eval(), (torch.zeros(2, 8, 7, 6),))
    graph = program.module()
    node = next(n for n in graph.graph.nodes if "conv" in str(n.target))
    values = torch.randn(2, 8, 7, 6, generator=torch.Generator().manual_seed(0))
    recorder = rounding.InputRecorder(graph, [node.name])
    with torch.no_grad():
        recorder.run(values)
    patches = nn.functional.unfold(values, 3, dilation, padding, stride)
    samples = patches.view(2, groups, -1, patches.shape[2]).permute(1, 2, 0, 3).flatten(2)
    torch.testing.assert_close(
        recorder.moments[node.name].matrix(centered=False).float(),
        samples @ samples.mT / samples.shape[2],
    )


@pytest.fixture
def coarse() -> Scheme:
    scheme: Scheme = SCHEMES.load("x86")
    weight = IntegerFormat(dtype=INT8_SYMMETRIC.dtype, low=-7, high=7, symmetric=True)
    return dataclasses.replace(scheme, weight=weight)


def test_a_network_comes_nearer_and_its_integers_are_those_that_were_chosen(
    pixels: npt.NDArray[np.uint8], coarse: Scheme
) -> None:
    graph = float_graph(build_program(tiny_student(), tiny_preprocess()))
    layout = plan_layout(graph.graph, coarse)
    photos = Photos(pixels=pixels)
    scales = scales_by_method(calibrate(graph, layout, photos), layout, coarse, "minmax")
    quantized = insert_quantization(graph, layout, scales, coarse)
    rounded = round_weights(
        quantized, input_moments(simulate(quantized), layout.layers, photos),
        scales.weight_scales, coarse, centered=False,
    )  # fmt: skip
    assert set(rounded) == set(layout.layers)
    found = dataclasses.replace(scales, rounded=rounded)
    made = simulate(insert_quantization(graph, layout, found, coarse))
    names = layer_names(graph)
    truth = layer_outputs(graph, pixels, names)
    errors = []
    for simulated in (simulate(quantized), made):
        values = layer_outputs(simulated, pixels, names)
        errors.append([float(np.linalg.norm(values[n] - truth[n])) for n in names])
    assert np.mean(np.array(errors[1]) < np.array(errors[0])) > 0.7
    name = layout.layers[2]
    node = next(n for n in made.graph.nodes if n.name == name)
    written = getattr(made, str(node.args[1].target))
    torch.testing.assert_close(written, rounded[name])


@pytest.mark.slow
def test_one_rounding_serves_all_ways_of_calibrating(
    pixels: npt.NDArray[np.uint8], coarse: Scheme
) -> None:
    graph = float_graph(build_program(tiny_student(), tiny_preprocess()))
    layout = plan_layout(graph.graph, coarse)
    photos = Photos(pixels=pixels)
    statistics = calibrate(graph, layout, photos)
    rounded, moments = [], None
    for method in ("minmax", "photos"):
        scales = scales_by_method(statistics, layout, coarse, method)
        quantized = insert_quantization(graph, layout, scales, coarse)
        moments = moments or input_moments(simulate(quantized), layout.layers, photos)
        rounded.append(
            round_weights(
                quantized, moments, scales.weight_scales, coarse, centered=True
            )
        )  # fmt: skip
    assert all(torch.equal(rounded[0][name], rounded[1][name]) for name in layout.layers)


# Quantizes twice. The candidates of 120 photos are in search/test_candidates.py; left is that 90
# are too few.
@pytest.mark.slow
def test_a_hundred_photos_must_show_how_inputs_go_together(pixels: npt.NDArray[np.uint8]) -> None:
    """Of fewer, those that are rounded by and those that judge would be the same."""
    program = build_program(tiny_student(), tiny_preprocess())
    config = QuantizeConfig(calibrator="minmax", max_float_layers=0)
    tried = []
    for times in (3, 4):  # three quarters of them calibrate: 90, 120
        photos = Photos(pixels=np.tile(pixels, (times, 1, 1, 1)))
        found = quantize(program, SCHEMES.load("x86"), photos, batch="dynamic", config=config)
        tried.append(set(found.record["tried"]))
    assert tried[0] == {"minmax", "minmax + bias correction"}
    assert tried[1] - tried[0] == {"minmax + second-order rounding"}
