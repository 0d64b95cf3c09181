import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from support.export import tiny_preprocess, tiny_student

from edgeseed.core.bundle import read_bundle
from edgeseed.export import export, verify
from edgeseed.export.call import Batch
from edgeseed.export.program import build_program, float_graph
from edgeseed.export.proof.reference import layer_names, layer_outputs
from edgeseed.export.proof.rounding import round_layers
from edgeseed.export.quantize.corrections import float_biases
from edgeseed.export.quantize.corrections.bias_correction import correct
from edgeseed.export.quantize.corrections.float_biases import correct_float_biases
from edgeseed.export.samples import LEAST_TO_DIVIDE, Photos, synthetic_photo

Array = npt.NDArray[np.float32]


def coarse(weight: Array) -> Array:
    """Few steps, so that there is something to correct."""
    scale = np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True) / 7
    return np.asarray(np.rint(weight / scale) * scale, dtype=np.float32)


@pytest.mark.slow
def test_rounded_weights_keep_the_means_of_their_layers(pixels: npt.NDArray[np.uint8]) -> None:
    # EfficientNet-Lite0 in w8 kept 81.9 % of its decisions, and in int8 91 %: its weights were
    # rounded alike, and only int8 brought the means back.
    program = build_program(tiny_student(trained=False), tiny_preprocess())
    corrected = correct_float_biases(
        program, Photos(pixels=pixels), round_weight=coarse, batch="dynamic"
    )
    graph = float_graph(program)
    assert corrected is not None
    pixels = pixels[: -len(pixels) // 4]  # those that correct; the others judge
    names = layer_names(graph)
    truth = layer_outputs(graph, pixels, names)
    shifts = []
    for each in (program, corrected):
        values = layer_outputs(round_layers(float_graph(each), coarse), pixels, names)
        last = names[-2]
        shifts.append(float(np.abs((values[last] - truth[last]).mean(axis=(0, 2, 3))).mean()))
    assert shifts[1] < 0.2 * shifts[0]


@pytest.mark.slow
def test_a_fixed_batch_stays_fixed(pixels: npt.NDArray[np.uint8]) -> None:
    program = build_program(tiny_student(trained=False), tiny_preprocess())
    some, image = Photos(pixels=pixels), torch.from_numpy(pixels[:2]).float()
    batches: tuple[Batch, ...] = (2, "dynamic")
    made = [
        correct_float_biases(program, some, round_weight=coarse, batch=batch) for batch in batches
    ]
    fixed, free = (each and each.module(check_guards=False)(image) for each in made)
    assert fixed is not None
    torch.testing.assert_close(fixed, free)


def test_biases_stay_where_rounding_loses_nothing(pixels: npt.NDArray[np.uint8]) -> None:
    program = build_program(tiny_student(trained=False), tiny_preprocess())
    assert (
        correct_float_biases(
            program, Photos(pixels=pixels), round_weight=lambda weight: weight, batch="dynamic"
        )
        is None
    )


def test_a_correction_that_does_harm_is_not_taken(
    pixels: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    def harmful(*arguments: Any, **options: Any) -> Any:
        found = correct(*arguments, **options)
        return dataclasses.replace(
            found, biases={name: -20 * bias for name, bias in found.biases.items()}
        )

    monkeypatch.setattr(float_biases, "correct", harmful)
    program = build_program(tiny_student(trained=False), tiny_preprocess())
    some = Photos(pixels=pixels)
    assert correct_float_biases(program, some, round_weight=coarse, batch="dynamic") is None


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for seed in range(LEAST_TO_DIVIDE):
        synthetic_photo(32, seed=seed).save(folder / f"{seed:03}.png")
    return folder


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("onnx", {}),
        # The correction comes before a target writes; this one takes three times as long.
        pytest.param("coreml", {"weights": "palette6"}, marks=pytest.mark.slow),
        pytest.param("litert", {}, marks=pytest.mark.slow),
    ],
)
def test_a_w8_bundle_has_corrected_biases_and_is_held_to_the_student(
    target: str, options: dict[str, Any], student: Path, many: Path, tmp_path: Path
) -> None:
    if target != "onnx":
        pytest.importorskip({"coreml": "coremltools", "litert": "ai_edge_litert"}[target])
    out = tmp_path / "made"
    export(
        student, target=target, precision="w8", calibration=many, out=out, options=options,
        min_agreement=0.5, speed=False,
    )  # fmt: skip
    described = read_bundle(out).manifest.provenance.photos
    assert (described.calibration, described.proof) == (50, 100)
    assert verify(out, against=student, min_agreement=0.5).passed
