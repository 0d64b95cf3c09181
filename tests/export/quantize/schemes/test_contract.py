"""What every quantization scheme keeps."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import tiny_preprocess, tiny_student

from edgeseed.core.agreement import cosines
from edgeseed.core.reading import read_record
from edgeseed.core.records import QuantizationRecord
from edgeseed.export.program import build_program, float_graph
from edgeseed.export.proof.rounding import simulate_integers
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import Quantized, quantize
from edgeseed.export.quantize.scheme import Scheme
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos
from edgeseed.export.targets import TARGETS

Pixels = npt.NDArray[np.uint8]
CONFIG = QuantizeConfig(
    calibrator="minmax", max_float_layers=0, bias_correction=False, second_order=False,
    equalize=False,
)  # fmt: skip


@pytest.fixture(scope="module", params=SCHEMES.names())
def made(request: pytest.FixtureRequest, pixels: Pixels) -> tuple[Scheme, Quantized]:
    scheme: Scheme = SCHEMES.load(request.param)
    program = build_program(tiny_student(), tiny_preprocess())
    return scheme, quantize(
        program, scheme, Photos(pixels=pixels), batch="dynamic", config=CONFIG
    )  # fmt: skip


def test_its_simulation_is_what_its_integers_compute(
    made: tuple[Scheme, Quantized], pixels: Pixels
) -> None:
    _, quantized = made
    program = quantized.program
    with torch.no_grad():
        literal = program.module()(torch.from_numpy(pixels).float())
    simulated = simulate_integers(program, pixels, batch="dynamic").outputs
    for name, value in zip(simulated, literal, strict=True):
        near = cosines(simulated[name], value.numpy())
        # Up to ties, which a last bit tips, in a photo or two.
        assert float(np.median(near)) > 0.999999
        assert float(near.min()) > 0.99


def test_it_stays_near_the_float_student(made: tuple[Scheme, Quantized], pixels: Pixels) -> None:
    _, quantized = made
    graph = float_graph(build_program(tiny_student(), tiny_preprocess()))
    with torch.no_grad():
        truth = graph(torch.from_numpy(pixels).float())
    outputs = simulate_integers(quantized.program, pixels, batch="dynamic").outputs
    assert float(cosines(outputs["embedding"], truth[0].numpy()).mean()) > 0.98


def test_its_record_says_what_the_integers_are(made: tuple[Scheme, Quantized]) -> None:
    scheme, quantized = made
    record = read_record(QuantizationRecord, quantized.record, what="it")
    assert (record.scheme, record.activations) == (
        scheme.name, str(scheme.activation.dtype).removeprefix("torch."),
    )  # fmt: skip
    assert "conv" in record.integer_operators.values()
    for low, high in record.ranges.values():
        assert low <= 0 <= high


def test_a_target_takes_it() -> None:
    taken = {
        scheme
        for name in TARGETS.names()
        for schemes in TARGETS.load(name).schemes.values()
        for scheme in schemes
    }
    assert taken == set(SCHEMES.names())
    for name in SCHEMES.names():
        assert SCHEMES.load(name).name == name
        assert SCHEMES.summary(name)
