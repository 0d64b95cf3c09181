"""Device and precision are chosen, or refused with what to give instead."""

import numpy as np
import pytest
import torch
from support.distill import tiny_teacher

from edgeseed.core.errors import UsageError
from edgeseed.distill.training.device import (
    choose_device,
    choose_dtypes,
    prefers_channels_last,
    send,
)

FULL, HALF = torch.float32, torch.bfloat16
CPU = torch.device("cpu")


def test_cpu_is_chosen_where_there_is_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == choose_device(1) == CPU


def test_absent_gpu_is_an_error_that_says_how_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="cuda:3: torch sees 1 CUDA devices"):
        choose_device("cuda:3")


def test_absent_metal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no Metal device"):
        choose_device("mps")


def test_count_that_torchrun_did_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="torchrun started 2 processes"):
        choose_device(4)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", FULL), ("bf16", HALF)])
def test_precision_that_is_asked_for_is_used_for_both(precision: str, dtype: torch.dtype) -> None:
    dtypes = choose_dtypes(precision, device=CPU, teacher=tiny_teacher())  # type: ignore[arg-type]
    assert (dtypes.student, dtypes.teacher) == (dtype, dtype)


@pytest.mark.parametrize("in_hardware", [False, True])
def test_on_a_cpu_only_a_big_teacher_is_run_in_bf16_and_only_in_hardware(
    monkeypatch: pytest.MonkeyPatch, in_hardware: bool
) -> None:
    monkeypatch.setattr("edgeseed.distill.training.device._multiplies_bf16", lambda: in_hardware)
    small = choose_dtypes("auto", device=CPU, teacher=tiny_teacher())
    assert (small.student, small.teacher) == (FULL, FULL)
    monkeypatch.setattr("edgeseed.distill.training.device._BIG_TEACHER", 1000)
    big = choose_dtypes("auto", device=CPU, teacher=tiny_teacher())
    assert (big.student, big.teacher) == (FULL, HALF if in_hardware else FULL)


def test_a_small_student_waits_for_the_host_on_a_gpu_and_for_arithmetic_on_a_cpu() -> None:
    gpu = torch.device("cuda", 0)
    assert [prefers_channels_last(CPU, size) for size in (32, 64)] == [False, True]
    assert [prefers_channels_last(gpu, size) for size in (64, 224)] == [False, True]


def test_what_is_sent_keeps_its_type_and_values() -> None:
    flags = np.array([True, False])
    assert send(flags, CPU).tolist() == [True, False]
    assert send(flags, CPU).dtype == torch.bool
    shares = torch.tensor([0.5, 0.25])
    assert send(shares, CPU).equal(shares)


def test_what_is_sent_to_a_gpu_is_pinned_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[object] = []

    def pin(self: torch.Tensor) -> torch.Tensor:
        asked.append("pinned")
        return self

    def move(self: torch.Tensor, *where: object, **how: object) -> torch.Tensor:
        asked.append((where, how))
        return self

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", move)
    gpu = torch.device("cuda", 0)
    send(np.ones(2), gpu)
    assert asked == ["pinned", ((gpu,), {"non_blocking": True})]
