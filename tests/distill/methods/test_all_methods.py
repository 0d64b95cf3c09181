"""What every method must keep to. A new file in methods/ is tested here unasked."""

import ast
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.distill import tiny_batch, tiny_inputs, tiny_progress

from edgeseed.core.config import build_config, to_plain
from edgeseed.distill.method import Method, StepResult
from edgeseed.distill.method_listing import list_methods
from edgeseed.distill.methods import METHODS, load_method

NAMES = METHODS.names()
pytestmark = pytest.mark.parametrize("name", NAMES)


def make(name: str) -> tuple[Method[Any], Any]:
    method_class = load_method(name)
    config = method_class.Config()
    torch.manual_seed(0)
    method = method_class(config, tiny_inputs(method_class))
    batch = tiny_batch(
        method_class.views(config, 32), labels=method_class.REQUIREMENTS.labels != "unused"
    )
    return method, batch


def run_step(method: Method[Any], batch: Any, step: int = 0) -> StepResult:
    result: StepResult = method(batch, tiny_progress(step))
    result.loss.backward()
    method.after_backward(tiny_progress(step))
    return result


def test_config_is_frozen_with_a_default_for_everything_and_survives_toml(name: str) -> None:
    config_class = load_method(name).Config
    config = config_class()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, None)
    values = {k: "none" if v is None else v for k, v in to_plain(config).items()}
    assert build_config(config_class, values=values, what=name) == config


def test_module_says_what_it_is_and_which_paper(name: str) -> None:
    module = Path(str(METHODS.load(name).__module__).replace(".", "/")).name
    source = Path(__file__).parents[3] / "distill" / "methods" / f"{module}.py"
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    assert "arXiv" in docstring
    assert len(METHODS.summary(name)) > 20


def test_listing_says_what_the_method_needs(name: str) -> None:
    info = next(info for info in list_methods() if info.name == name)
    needs = load_method(name).REQUIREMENTS
    for role in ("teacher", "peer"):
        assert (role in info.takes) == (role in needs.roles)
    assert (info.command == "pretrain") == (not needs.roles)
    words = {"unused": "no labels", "optional": "labels if there are", "required": "labels"}
    assert words[needs.labels] in info.takes or info.command == "pretrain"
    assert len(info.best_for) > 20


def test_step_gives_a_finite_float32_loss_that_trains_every_kept_network(name: str) -> None:
    method, batch = make(name)
    result = run_step(method, batch)
    assert result.loss.dtype == torch.float32
    assert result.loss.shape == ()
    assert bool(torch.isfinite(result.loss))
    assert all(not value.requires_grad for value in result.logs.values())
    trained = [p for p in method.student.parameters() if p.grad is not None]
    assert trained
    assert all(bool(torch.isfinite(p.grad).all()) for p in trained if p.grad is not None)


def test_loss_is_float32_under_autocast(name: str) -> None:
    method, batch = make(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = method(batch, tiny_progress())
    assert result.loss.dtype == torch.float32
    assert bool(torch.isfinite(result.loss))


def test_loss_is_not_below_its_floor(name: str) -> None:
    method, batch = make(name)
    result = method(batch, tiny_progress())
    if result.floor is not None:
        assert result.loss.item() >= float(result.floor) - 1e-4


def test_teacher_is_in_no_checkpoint_and_stays_in_eval_mode(name: str) -> None:
    # SparseML #2191, lightly #1444: a teacher whose BatchNorm follows the batch is another teacher.
    method_class = load_method(name)
    inputs = tiny_inputs(method_class)
    method = method_class(method_class.Config(), inputs)
    if "teacher" not in inputs.frozen:
        pytest.skip("has no teacher")
    method.train()
    teacher = inputs.teacher.network
    assert not any(module.training for module in teacher.modules())
    kept = {value.data_ptr() for value in method.state_dict().values() if value.numel()}
    assert not kept & {value.data_ptr() for value in teacher.parameters()}
    assert not any(p.requires_grad for p in teacher.parameters())


def test_teacher_does_not_change_by_a_step(name: str) -> None:
    method_class = load_method(name)
    inputs = tiny_inputs(method_class)
    if "teacher" not in inputs.frozen:
        pytest.skip("has no teacher")
    before = {k: v.clone() for k, v in inputs.teacher.network.state_dict().items()}
    config = method_class.Config()
    method = method_class(config, inputs).train()
    views = method_class.views(config, 32)
    run_step(method, tiny_batch(views, labels=method_class.REQUIREMENTS.labels != "unused"))
    method.after_step(tiny_progress())
    after = inputs.teacher.network.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


def test_no_dropout_is_left_on_in_what_is_kept(name: str) -> None:
    # SEED's code trains MobileNetV3 and EfficientNet with their classifier's dropout on.
    method, _ = make(name)
    for student in method.networks().values():
        for module in student.modules():
            if isinstance(module, torch.nn.modules.dropout._DropoutNd):
                assert module.p == 0


def test_state_restores_the_next_step_exactly(name: str) -> None:
    method, batch = make(name)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    run_step(method, batch)
    optimizer.step()
    method.after_step(tiny_progress())
    twin, _ = make(name)
    twin.load_state_dict(method.state_dict(), strict=True)
    results = []
    for one in (method, twin):
        torch.manual_seed(3)
        fresh = make(name)[1]
        results.append(one(fresh, tiny_progress(1)).loss)
    assert torch.equal(results[0], results[1])


def test_heads_are_apart_from_the_networks_that_ship(name: str) -> None:
    method, _ = make(name)
    shipped = {id(p) for s in method.networks().values() for p in s.parameters()}
    for head in method.heads().values():
        assert not shipped & {id(p) for p in head.parameters()}
    assert next(iter(method.networks())) == "student"
