import dataclasses

import numpy as np
import numpy.typing as npt

from edgeseed.export.graph import build_program, float_graph
from edgeseed.export.quantize.calibration import calibrate, numbers_by_method
from edgeseed.export.quantize.correction import bias_corrections, layer_means
from edgeseed.export.quantize.insertion import insert_quantization
from edgeseed.export.quantize.layout import plan_layout
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.quantize.schemes._scheme import IntegerFormat, Scheme
from edgeseed.export.quantize.simulation import simulate
from edgeseed.export.samples import Photos
from edgeseed.export.testing import tiny_preprocess, tiny_student
from edgeseed.export.verification.reference import layer_names, layer_outputs


def test_corrected_layers_keep_their_means(pixels: npt.NDArray[np.uint8]) -> None:
    """With coarse weights, so that there is something to correct."""
    scheme: Scheme = SCHEMES.load("x86")
    coarse = IntegerFormat(dtype=scheme.weight.dtype, low=-7, high=7, symmetric=True)
    scheme = dataclasses.replace(scheme, weight=coarse)
    graph = float_graph(build_program(tiny_student(trained=False), tiny_preprocess()))
    layout = plan_layout(graph.graph, scheme)
    photos = Photos(pixels=pixels)
    numbers = numbers_by_method(calibrate(graph, layout, photos), layout, scheme, "minmax")
    quantized = simulate(insert_quantization(graph, layout, numbers, scheme))
    corrections = bias_corrections(quantized, layer_means(graph, layout, photos), photos)
    corrected = dataclasses.replace(numbers, bias_corrections=corrections)
    names = layer_names(graph)
    truth = layer_outputs(graph, pixels, names)
    shifts = []
    for made in (numbers, corrected):
        values = layer_outputs(
            simulate(insert_quantization(graph, layout, made, scheme)), pixels, names
        )
        last = names[-2]
        shifts.append(float(np.abs((values[last] - truth[last]).mean(axis=(0, 2, 3))).mean()))
    assert shifts[1] < 0.2 * shifts[0]
