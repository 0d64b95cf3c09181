import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseed.core.errors import ArtifactError
from edgeseed.export.targets.coreml.interpreter.program import Constant
from edgeseed.export.targets.coreml.interpreter.reading import read_program, unpack_bits

WEIGHT = np.linspace(-1, 1, 60, dtype=np.float32).reshape(4, 15)


@pytest.fixture
def package(save_program: Callable[..., Path], mb: Any) -> Path:
    return save_program(lambda x: mb.linear(x=x, weight=WEIGHT), [(2, 15)])


def weights(package: Path) -> Path:
    return package / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"


def test_weights_are_read_from_the_file_beside_the_program(package: Path) -> None:
    constants = [
        argument.value
        for operation in read_program(package).operations
        if operation.type == "const"
        for (argument,) in operation.arguments.values()
        if isinstance(argument, Constant)
    ]
    assert any(np.array_equal(value, WEIGHT) for value in constants)


def test_a_weight_file_that_is_cut_off_is_an_error(package: Path) -> None:
    content = weights(package).read_bytes()
    weights(package).write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactError, match="cut off"):
        read_program(package)
    weights(package).write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"weight\.bin"):
        read_program(package)


def test_a_weight_file_that_is_damaged_or_missing_is_an_error(package: Path) -> None:
    content = bytearray(weights(package).read_bytes())
    content[64:68] = b"junk"
    weights(package).write_bytes(content)
    with pytest.raises(ArtifactError, match="holds no value"):
        read_program(package)
    content[64:72] = (0xDEADBEEF).to_bytes(4, "little") + (1).to_bytes(4, "little")
    weights(package).write_bytes(content)
    with pytest.raises(ArtifactError, match="the program declares float32"):
        read_program(package)
    weights(package).unlink()
    with pytest.raises(ArtifactError, match="keeps its weights there"):
        read_program(package)


def test_a_specification_that_is_damaged_is_an_error(package: Path) -> None:
    specification = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    specification.write_bytes(specification.read_bytes()[:-7])
    with pytest.raises(ArtifactError, match="is damaged"):
        read_program(package)
    specification.unlink()
    with pytest.raises(ArtifactError, match="which is not there"):
        read_program(package)


def test_a_folder_that_is_no_package_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no Manifest\.json"):
        read_program(tmp_path)
    (tmp_path / "Manifest.json").write_text(json.dumps({"itemInfoEntries": {}}))
    with pytest.raises(ArtifactError, match="names no root model"):
        read_program(tmp_path)


def test_a_model_of_another_kind_is_an_error(package: Path, coremltools: Any) -> None:
    model = coremltools.proto.Model_pb2.Model(specificationVersion=8)
    model.neuralNetwork.SetInParent()
    path = package / "Data" / "com.apple.CoreML" / "model.mlmodel"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match="kind neuralNetwork, not an ML program"):
        read_program(package)


def test_bits_are_unpacked_from_the_lowest_up() -> None:
    """The example in Apple's reference: 00 11 10 01 | xx xx xx 11, read from the right."""
    packed = np.array([0b01101100, 0b00000011], np.uint8)
    assert unpack_bits(packed, bits=2, count=5).tolist() == [0, 3, 2, 1, 3]


@pytest.mark.parametrize(("dtype", "target"), [("int4", "iOS18"), ("uint4", "iOS18")])
def test_weights_in_4_bits(
    save_program: Callable[..., Path], mb: Any, dtype: str, target: str
) -> None:
    from coremltools.converters.mil.mil import types

    low = -8 if dtype == "int4" else 0
    numbers = (np.arange(40).reshape(4, 10) % 16) + low
    data = numbers.astype(types.nptype_from_builtin(types.string_to_builtin(dtype)))

    def build(x: Any) -> Any:
        weight = mb.constexpr_blockwise_shift_scale(data=data, scale=np.ones((4, 1), np.float32))
        return mb.linear(x=x, weight=weight)

    program = read_program(save_program(build, [(1, 10)], target))
    (operation,) = [each for each in program.operations if each.type.startswith("constexpr")]
    (argument,) = operation.arguments["data"]
    if not isinstance(argument, Constant):
        (constant,) = [each for each in program.operations if each.results[0].name == argument.name]
        (argument,) = constant.arguments["val"]
    assert isinstance(argument, Constant)
    np.testing.assert_array_equal(np.asarray(argument.value), numbers)
