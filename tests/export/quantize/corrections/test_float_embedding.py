import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from support.export import (
    save_tiny_student,
    tinted_photo,
    tiny_preprocess,
    tiny_student,
)

from edgeseed.export import export
from edgeseed.export.program import build_program, constant, float_graph, input_of
from edgeseed.export.quantize.corrections.equalization import equalize_channels
from edgeseed.export.quantize.corrections.float_embedding import keep_embedding_in_float, tail_of
from edgeseed.export.quantize.graph.layout import plan_layout
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos
from edgeseed.export.targets.onnx.model import optimised_graph

Pixels = npt.NDArray[np.uint8]


@pytest.mark.slow
def test_the_last_convolution_becomes_a_matrix_and_nothing_changes(pixels: Pixels) -> None:
    network = tiny_student("mobilenetv3_small_050", trained=False)
    graph = float_graph(build_program(network, tiny_preprocess()))
    image = torch.from_numpy(pixels[:4]).float()
    with torch.no_grad():
        before = graph(image)
        assert keep_embedding_in_float(graph)
        factors = equalize_channels(graph, Photos(pixels=pixels))
        after = graph(image)
    for value, truth in zip(after, before, strict=True):
        assert float((value - truth).abs().max()) < 1e-4 * float(truth.abs().max())
    tail = tail_of(graph.graph)
    assert tail is not None
    layer, activation = tail
    assert layer.target is torch.ops.aten.linear.default
    # The head reads the embedding by factors of its own, and they were used.
    (scaled,) = [user for user in activation.users if user.op != "output"]
    assert scaled.name in factors
    assert len(constant(graph, input_of(scaled, 1)).unique()) > 1


@pytest.mark.parametrize(
    "name",
    [
        "test_efficientnet",
        # Traced for this alone.
        pytest.param("resnet10t", marks=pytest.mark.slow),
        pytest.param("test_vit", marks=pytest.mark.slow),
    ],
)
def test_a_network_that_ends_otherwise_is_left_alone(name: str) -> None:
    network = tiny_student(name, trained=False)
    graph = float_graph(build_program(network, tiny_preprocess()))
    before = [node.name for node in graph.graph.nodes]
    assert not keep_embedding_in_float(graph)
    assert before == [node.name for node in graph.graph.nodes]


@pytest.mark.slow
def test_only_what_the_head_reads_is_rounded() -> None:
    network = tiny_student("mobilenetv3_small_050", trained=False)
    graph = float_graph(build_program(network, tiny_preprocess()))
    keep_embedding_in_float(graph)
    tail = tail_of(graph.graph)
    assert tail is not None
    layer, activation = tail
    layout = plan_layout(graph.graph, SCHEMES.load("x86"))
    assert layout.operators[layer.name] == "linear"
    assert not {layer.name, activation.name} & set(layout.points)
    assert "embedding" in layout.floats[activation.name]
    rounding = dataclasses.replace(SCHEMES.load("x86"), float_embedding=False)
    other = plan_layout(graph.graph, rounding)
    assert {layer.name, activation.name} & set(other.points)


# Traces and exports a network of its own. The two tests of the graph above catch a tail that is
# rounded, or is no matrix; left is that ONNX Runtime multiplies it in integers.
@pytest.mark.slow
def test_onnx_runtime_multiplies_integers_and_hands_on_a_fine_embedding(
    photos: Path, tmp_path: Path
) -> None:
    network = tiny_student("lcnet_035", trained=False)  # which ends as MobileNetV3 does
    student = save_tiny_student(tmp_path / "student.safetensors", network, "lcnet_035")
    export(
        student, precision="int8", calibration=photos, out=tmp_path / "bundle", verify=False,
        speed=False, quantization={
            "max_float_layers": 0, "calibrator": "minmax", "bias_correction": False,
            "second_order": False,
        },
    )  # fmt: skip
    model = tmp_path / "bundle/model.onnx"
    kinds = Counter(node.op_type for node in optimised_graph(model).node)
    assert kinds["QGemm"] == 2  # the layer that makes the embedding, and the head
    assert kinds["MatMul"] == kinds["Gemm"] == 0
    pixels = np.stack([tiny_preprocess().pixels(tinted_photo("red", seed)) for seed in range(8)])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (embedding,) = session.run(["embedding"], {"image": pixels.astype(np.float32)})
    assert len(np.unique(embedding)) > 256
