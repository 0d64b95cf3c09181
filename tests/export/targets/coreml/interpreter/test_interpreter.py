import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from edgeseed.core.errors import WorkError
from edgeseed.export.targets.coreml.interpreter.interpreter import Interpreter
from edgeseed.export.targets.coreml.interpreter.program import (
    ImageInput,
    Operation,
    Program,
    TensorType,
)
from edgeseed.export.targets.coreml.interpreter.reading import read_program

Save = Callable[..., Path]
SHAPE = (1, 3, 4, 5)


def photos(count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, *SHAPE[1:]), dtype=np.uint8)


@pytest.fixture
def program(save_program: Save, mb: Any) -> Program:
    """Its shapes say that the batch is 1, as those of every image model do."""
    weight = np.linspace(-1, 1, 60, dtype=np.float32).reshape(1, 60)

    def build(x: Any) -> Any:
        scaled = mb.mul(x=x, y=np.float32(1 / 255), name="scaled")
        return mb.linear(x=mb.reshape(x=scaled, shape=[1, 60]), weight=weight, name="score")

    return read_program(save_program(build, [SHAPE]))


def changed(program: Program, kind: str, **changes: Any) -> Program:
    """The program with one operation changed."""
    operations = tuple(
        dataclasses.replace(each, **changes) if each.type == kind else each
        for each in program.operations
    )
    return dataclasses.replace(program, operations=operations)


def find(program: Program, kind: str) -> Operation:
    (found,) = [each for each in program.operations if each.type == kind]
    return found


def test_many_photos_give_what_each_gives_alone(program: Program) -> None:
    interpreter = Interpreter(program)
    pixels = photos(37)
    together = interpreter.run_photos(pixels)["score"]
    alone = np.concatenate([interpreter.run_photos(each[None])["score"] for each in pixels])
    assert together.shape == (37, 1)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-5)
    wanted = pixels.reshape(37, 60) / 255 @ np.linspace(-1, 1, 60)
    np.testing.assert_allclose(together[:, 0], wanted, rtol=1e-5, atol=1e-5)


def test_an_unknown_operation_is_named_and_placed(program: Program) -> None:
    with pytest.raises(WorkError, match=r"has no operation warp \(scaled\)"):
        Interpreter(changed(program, "mul", type="warp"))


def test_an_unknown_parameter_is_named(program: Program) -> None:
    arguments = dict(find(program, "mul").arguments)
    arguments["twist"] = arguments["y"]
    with pytest.raises(WorkError, match=r"mul \(scaled\): has the parameter twist"):
        Interpreter(changed(program, "mul", arguments=arguments))


def test_a_result_must_have_the_shape_that_the_file_declares(program: Program) -> None:
    result = find(program, "linear").results[0]
    wrong = dataclasses.replace(result, type=TensorType("float32", (1, 2)))
    interpreter = Interpreter(changed(program, "linear", results=(wrong,)))
    with pytest.raises(
        WorkError, match=r"linear \(score\): computes the shape \(1, 1\), where .*2"
    ):
        interpreter.run_photos(photos(1))


def test_what_cannot_be_computed_is_placed(program: Program) -> None:
    result = find(program, "reshape").results[0]
    kept = dataclasses.replace(program, operations=program.operations)
    arguments = dict(find(kept, "mul").arguments)
    broken = changed(kept, "reshape", arguments={"x": arguments["x"], "shape": arguments["y"]})
    with pytest.raises(WorkError, match=rf"reshape \({result.name}\): cannot be computed"):
        Interpreter(broken).run_photos(photos(1))


def test_a_bgr_image_gets_its_channels_in_that_order(program: Program) -> None:
    """Core ML swaps the channels of an app's photo; so must whoever checks the model."""
    pixels = photos(3)
    image = ImageInput("x", 4, 5, "BGR")
    bgr = Interpreter(dataclasses.replace(program, inputs=(image,)))
    swapped = Interpreter(program).run_photos(np.ascontiguousarray(pixels[:, ::-1]))
    np.testing.assert_array_equal(bgr.run_photos(pixels)["score"], swapped["score"])


def test_photos_of_another_size_are_refused(program: Program) -> None:
    with pytest.raises(WorkError, match=r"takes photos of \(3, 4, 5\), got \(3, 5, 5\)"):
        Interpreter(program).run_photos(np.zeros((1, 3, 5, 5), np.uint8))


def test_declared_arithmetic_rounds_every_result_and_float32_none(
    save_program: Save, mb: Any
) -> None:
    def build(x: Any) -> Any:
        half = mb.mul(x=mb.cast(x=x, dtype="fp16"), y=np.float16(3.0))
        return mb.cast(x=mb.add(x=half, y=np.float16(0.125)), dtype="fp32")

    program = read_program(save_program(build, [(4,)]))
    x = torch.tensor([1000.3, -0.1, 2049.0, 30000.0])
    (rounded,) = Interpreter(program, arithmetic="declared").run({"x": x}).values()
    (whole,) = Interpreter(program, arithmetic="float32").run({"x": x}).values()
    assert torch.equal(rounded, ((x.half() * 3) + 0.125).float())
    assert torch.equal(whole, x * 3 + 0.125)
    assert torch.isinf(rounded[-1])  # float16 ends at 65504, and says so


def test_every_value_on_the_way_can_be_seen(program: Program) -> None:
    seen: dict[str, Tensor] = {}
    Interpreter(program).observe_photo(photos(1)[0], seen.__setitem__)
    assert torch.equal(seen["scaled"][0], torch.from_numpy(photos(1)[0]).float() * (1 / 255))
    assert "score" in seen


def test_values_are_dropped_when_nobody_needs_them(program: Program) -> None:
    last = {step.operation.type: step.last_uses for step in Interpreter(program)._steps}
    assert last["mul"] == ("x",)
    assert "scaled" in last["reshape"]
    assert "score" not in last["linear"]
