"""The GPU's memory through libcuda, with a stand-in whose memory is the host's."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from edgeseed.runtime import cuda as module
from edgeseed.runtime.cuda import Cuda
from edgeseed.runtime.engine import EngineError


@pytest.fixture
def cuda(nvidia: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    nvidia.enter(monkeypatch)
    opened = Cuda()
    yield opened
    opened.close()


def test_the_first_gpu_says_what_it_is(cuda: Cuda) -> None:
    assert (cuda.name, cuda.compute_capability, cuda.cuda_version) == ("Orin", "8.7", "12.6")
    assert cuda.stream


def test_values_go_there_and_come_back(cuda: Cuda) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    back = np.zeros_like(values)
    pointer = cuda.allocate(values.nbytes)
    cuda.copy_in(pointer, values)
    cuda.copy_out(back, pointer)
    cuda.synchronize()
    np.testing.assert_array_equal(back, values)
    cuda.free(pointer)


def test_nothing_can_be_allocated_too(cuda: Cuda) -> None:
    pointer = cuda.allocate(0)
    assert pointer
    cuda.free(pointer)


def test_memory_that_runs_out_says_what_to_do(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_GPU_BYTES", "1000")
    with pytest.raises(EngineError, match="the GPU is out of memory; close what else uses it"):
        cuda.allocate(1001)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("FAKE_GPUS", "0", "CUDA shows no GPU here; build and run on the device"),
        ("FAKE_CUDA_STATUS", "100", "CUDA shows no GPU here"),
        ("FAKE_CUDA_STATUS", "999", "CUDA error 999 in cuInit; restart the program"),
    ],
)
def test_a_gpu_that_does_not_answer_is_one_line(
    nvidia: Any, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    nvidia.enter(monkeypatch)
    monkeypatch.setenv(variable, value)
    with pytest.raises(EngineError, match=message):
        Cuda()


def test_without_a_driver_it_says_where_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIBRARIES", ("libnone.so.1", "libnone.so"))
    with pytest.raises(EngineError, match=r"no NVIDIA driver here \(libnone\.so\.1\); build and"):
        Cuda()
