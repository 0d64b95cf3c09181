"""What tests need not compute twice in one process.

Tracing a tiny student takes a second, and a hundred tests trace the same one; so does the table of
operators that torch's ONNX exporter makes anew for every file.
"""

import functools
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from torch import nn

from edgeseed.export import program
from edgeseed.export.targets.onnx import target
from support.shared import make_once, shared_folder

Trace = Callable[[program.DeployableStudent, torch.Tensor, Any], torch.export.ExportedProgram]


def remember_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A student whose structure and weights were seen before has the program of before."""
    real: Trace = program._trace_folded
    known: dict[str, torch.export.ExportedProgram] = {}

    def trace(student: program.DeployableStudent, example: torch.Tensor, batch: Any) -> Any:
        key = _fingerprint(student)
        if key is None:
            return real(student, example, batch)
        key = f"{key} {tuple(example.shape)} {batch}"
        if key not in known:
            known[key] = real(student, example, batch)
        return known[key]

    monkeypatch.setattr(program, "_trace_folded", trace)


def _fingerprint(student: nn.Module) -> str | None:
    """Digest of all that a forward pass can depend on; None where that cannot be told."""
    digest = hashlib.sha256(repr(student).encode())
    for name, module in student.named_modules():
        # A test's own class or a forward of one object can do anything.
        if not type(module).__module__.startswith(("timm.", "torch.nn.", "edgeseed.")):
            return None
        if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
            return None
        plain = {
            key: value
            for key, value in vars(module).items()
            if isinstance(value, bool | int | float | str | tuple | list | None)
        }
        digest.update(f"{name} {type(module)} {sorted(plain.items())}".encode())
    for name, value in student.state_dict(keep_vars=True).items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def remember_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's exporter makes its tables of ONNX functions, and of what to take apart, once.

    Where torch moved them, each time.
    """
    try:
        from torch.onnx._internal.exporter import _decomp
        from torch.onnx._internal.exporter._registration import ONNXRegistry
    except ImportError:
        return
    remembered = functools.cache(ONNXRegistry.from_torchlib)
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", staticmethod(remembered))
    table = functools.cache(_decomp.create_onnx_friendly_decomposition_table)
    monkeypatch.setattr(
        _decomp,
        "create_onnx_friendly_decomposition_table",
        # A copy: who takes a program apart removes from it what is done.
        lambda operators: dict(table(frozenset(operators))),
    )


def remember_conversions(monkeypatch: pytest.MonkeyPatch, factory: pytest.TempPathFactory) -> None:
    """A program that any worker has converted to ONNX has the file of then.

    Tests of the conversion itself take `CONVERT` in its place: see `convert_anew` of
    tests/export/conftest.py.
    """
    place = shared_folder(factory) / "conversions"
    place.mkdir(exist_ok=True)

    def convert(program: torch.export.ExportedProgram, names: tuple[str, ...], opset: int) -> Any:
        path = place / f"{_fingerprint_of_program(program)}-{'-'.join(names)}-{opset}.onnx"
        if not path.exists():
            made = CONVERT(program, names, opset).model_proto
            part = path.with_name(f"{path.name}.{os.getpid()}")
            part.write_bytes(made.SerializeToString())
            part.rename(path)
        return SimpleNamespace(model_proto=onnx.load_from_string(path.read_bytes()))

    monkeypatch.setattr(target, "_convert", convert)


CONVERT = target._convert


def _fingerprint_of_program(program: torch.export.ExportedProgram) -> str:
    """Digest of its operators with their names and shapes, of its signature and of its tensors."""
    digest = hashlib.sha256(str(program).encode())
    for name, value in sorted({**program.state_dict, **program.constants}.items()):
        assert isinstance(value, torch.Tensor)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def remember_conformance_set(
    monkeypatch: pytest.MonkeyPatch, factory: pytest.TempPathFactory
) -> None:
    """The photos that every module carries are made once for all workers: they are the same."""
    from edgeseed.export.apps import contents

    def copy(folder: Path) -> None:
        shutil.copytree(conformance_set_of(factory), folder, dirs_exist_ok=True)

    monkeypatch.setattr(contents, "write_conformance_set", copy)


def conformance_set_of(factory: pytest.TempPathFactory) -> Path:
    """The folder of it."""
    from edgeseed.export.apps import conformance

    def make(folder: Path) -> None:
        folder.mkdir()
        conformance.write_conformance_set(folder)

    return make_once(factory, "conformance", make)
