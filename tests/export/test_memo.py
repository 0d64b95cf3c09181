"""The tests' own memory of traced programs never hands out another student's."""

from collections.abc import Callable

import pytest
import torch
from support.export import tiny_preprocess, tiny_student
from support.memo import CONVERT
from torch import nn

from edgeseed.core.network import StudentNetwork
from edgeseed.export.program import build_program
from edgeseed.export.targets.onnx import target
from edgeseed.export.targets.onnx.target import convert_program


def test_the_same_student_has_the_same_program() -> None:
    one, other = (build_program(tiny_student(), tiny_preprocess()) for _ in range(2))
    assert one is other


def double_an_epsilon(network: StudentNetwork) -> None:
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    norm.eps *= 2


def change_a_weight(network: StudentNetwork) -> None:
    with torch.no_grad():
        next(network.parameters())[0] += 1e-3


def own_forward(network: StudentNetwork) -> None:
    real = network.backbone.forward
    network.backbone.forward = lambda image: real(image) * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        change_a_weight,
        pytest.param(double_an_epsilon, marks=pytest.mark.slow),
        pytest.param(own_forward, marks=pytest.mark.slow),
    ],
)
def test_a_student_that_differs_in_anything_is_traced_anew(
    change: Callable[[StudentNetwork], None],
) -> None:
    known = build_program(tiny_student(), tiny_preprocess())
    network = tiny_student()
    change(network)
    program = build_program(network, tiny_preprocess())
    assert program is not known
    images = torch.rand(2, 3, 32, 32) * 255
    one, other = (each.module()(images)[0] for each in (known, program))
    assert not torch.equal(one, other)


@pytest.mark.slow
def test_a_conversion_that_is_remembered_is_the_conversion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = build_program(tiny_student(), tiny_preprocess())
    changed = tiny_student()
    change_a_weight(changed)
    other = build_program(changed, tiny_preprocess())

    def convert(program: torch.export.ExportedProgram) -> bytes:
        names = ("embedding", "logits")
        made: bytes = convert_program(program, output_names=names, opset=18).SerializeToString()
        return made

    remembered = [convert(program), convert(program), convert(other)]
    monkeypatch.setattr(target, "_convert", CONVERT)
    assert remembered == [convert(program), convert(program), convert(other)]
    assert remembered[1] != remembered[2]


def test_another_batch_size_is_another_program() -> None:
    free, single = (
        build_program(tiny_student(), tiny_preprocess(), batch=b) for b in ("dynamic", 1)
    )
    assert free is not single
