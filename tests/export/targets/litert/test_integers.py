"""Operators of an integer program as LiteRT's, and what the file computes with them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.export import CLASSES, lively, tinted_photo, tiny_preprocess, tiny_student
from support.litert import kinds, quantized, spec_of, write_program
from torch import Tensor, fx, nn
from torch.nn import functional

from edgeseed.core.agreement import relative_error
from edgeseed.core.errors import WorkError
from edgeseed.core.network import StudentNetwork, build_student
from edgeseed.core.student import Architecture
from edgeseed.export.proof.rounding import simulate_integers
from edgeseed.export.targets.litert.flatbuffer import File
from edgeseed.export.targets.litert.integers import multipliable
from edgeseed.export.targets.litert.lowering import factor_of
from edgeseed.export.targets.litert.model import LiteRTModel

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install edgeseed[litert]")


@pytest.fixture(scope="module")
def swish() -> StudentNetwork:
    return tiny_student("mobilenetv3_small_050", trained=False)


@pytest.fixture(scope="module")
def swish_program(swish: StudentNetwork) -> Any:
    shown = [tiny_preprocess().pixels(tinted_photo(kind, 7)) for kind in CLASSES for _ in "ab"]
    return quantized(swish, np.stack(shown))


@pytest.fixture(scope="module")
def swish_file(swish: StudentNetwork, swish_program: Any, workplace: Path) -> Path:
    folder = workplace / "litert-swish"
    return write_program(swish_program, spec_of(swish, "mobilenetv3_small_050"), folder, "int8")


@pytest.mark.slow
def test_hard_swish_is_a_sum_and_a_product_of_bytes(swish_file: Path) -> None:
    file = File(swish_file.read_bytes())
    # One is left, behind the layer that makes the embedding, which is float.
    assert kinds(swish_file)["HARD_SWISH"] == 1
    assert all(
        file.dtype(each.outputs[0]) == "int8"
        for each in file.operators
        if each.kind in ("CONV_2D", "DEPTHWISE_CONV_2D")
    )


@pytest.mark.slow
def test_a_factor_stands_in_the_name_and_in_the_scale(swish_file: Path) -> None:
    file = File(swish_file.read_bytes())
    factors = {factor_of(file.name(at)) for at in file.activations()}
    assert 1.0 in factors
    assert any(abs(each - 6) < 1e-3 for each in factors)


@pytest.mark.slow
def test_int8_computes_what_was_simulated(
    swish_program: Any, swish_file: Path, pixels: Any
) -> None:
    found = LiteRTModel(swish_file, precision="int8", quantization=None).infer(pixels[:8])
    wanted = simulate_integers(swish_program, pixels[:8], batch=1).outputs
    for output, values in wanted.items():
        norms = np.linalg.norm(found[output]) * np.linalg.norm(values)
        assert np.sum(found[output] * values) / norms > 0.99, output


@pytest.mark.slow
def test_stored_scales_without_their_factors_are_the_programs(
    swish_program: Any, swish_file: Path
) -> None:
    # A padded tensor lost the factor from its name, and seemed to have a wrong scale.
    known = [
        float(node.args[1])
        for node in swish_program.graph.nodes
        if node.target is torch.ops.quantized_decomposed.quantize_per_tensor.default
    ]
    file = File(swish_file.read_bytes())
    for at in file.activations():
        scales = file.scales(at)
        assert scales is not None
        scale = float(scales.scale[0]) / factor_of(file.name(at))
        assert min(abs(scale / each - 1) for each in known) < 1e-5, file.name(at)


# Traces a network of its own. The file with hard swish above is computed as it was simulated.
@pytest.mark.slow
def test_the_activation_behind_a_layer_that_gives_float_is_computed(
    tmp_path: Path, pixels: Any
) -> None:
    # It was counted as part of the layer, which did not compute it.
    torch.manual_seed(0)
    variant = {"activation": "relu6", "drop_se": True}
    architecture = Architecture(name="mobilenetv3_small_050", variant=variant)
    network = lively(build_student(architecture, num_classes=len(CLASSES)), pixels)
    program = quantized(network, pixels[:8])
    path = write_program(program, spec_of(network, architecture.name), tmp_path, "int8")
    found = LiteRTModel(path, precision="int8", quantization=None).infer(pixels[:4])["embedding"]
    assert found.min() >= 0
    assert found.max() <= 6


# Traces and quantizes a network of its own. Below, such a layer's sums are made multipliable.
@pytest.mark.slow
def test_a_layer_of_zeros_runs(tmp_path: Path, pixels: Any) -> None:
    # Its sums were 26,068 steps of its result each: LiteRT refused the file, or ended the process.
    network = tiny_student("test_efficientnet")
    norms = [each for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
    with torch.no_grad():
        norms[3].weight.zero_()
        norms[3].bias.zero_()
    program = quantized(network, pixels[:8])
    path = write_program(program, spec_of(network, "test_efficientnet"), tmp_path, "int8")
    found = LiteRTModel(path, precision="int8", quantization=None).infer(pixels[:4])
    wanted = simulate_integers(program, pixels[:4], batch=1).outputs
    for output, values in wanted.items():
        assert relative_error(found[output], values) < 0.05, output


class PoolOfNegatives(nn.Module):
    """A max pooling of what SiLU gives, with rows of its own on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 2
        self.layer = nn.Conv2d(3, 2, 1)
        with torch.no_grad():
            self.layer.weight.mul_(0.1)
        # The first is below zero everywhere.
        self.layer.bias = nn.Parameter(torch.tensor([-1.5, 1.0]))

    def forward(self, images: Tensor) -> Tensor:
        values = functional.silu(self.layer(images))
        return functional.max_pool2d(values, 3, stride=2, padding=1).mean((2, 3))


def test_what_lies_around_a_max_pooling_never_wins(tmp_path: Path, pixels: Any) -> None:
    # Zeros won against negative integers at the border.
    torch.manual_seed(0)
    network = StudentNetwork(PoolOfNegatives(), num_classes=len(CLASSES)).eval()
    program = quantized(network, pixels[:8])
    path = write_program(program, spec_of(network, "net"), tmp_path, "int8")
    found = LiteRTModel(path, precision="int8", quantization=None).infer(pixels[:8])["embedding"]
    wanted = simulate_integers(program, pixels[:8], batch=1).outputs["embedding"]
    assert wanted[:, 0].max() < 0
    np.testing.assert_allclose(found, wanted, atol=1e-3)
    assert kinds(path)["PADV2"] == 1


def test_a_layer_whose_sums_are_far_coarser_than_its_result_is_named() -> None:
    node = fx.Graph().placeholder("conv2d_4")
    weights, bias = np.ones((2, 1, 1, 1), np.int8), np.zeros(2, np.int32)
    weights[1] = 0
    assert list(multipliable(node, np.array([255.0, 9e9]), weights, bias)) == [255.0, 1.0]
    with pytest.raises(WorkError, match=r"conv2d_4: .*--keep-float conv2d_4"):
        multipliable(node, np.array([256.0, 1.0]), weights, bias)
    with pytest.raises(WorkError, match="conv2d_4"):
        multipliable(node, np.array([1.0, 256.0]), weights, bias + 1)
