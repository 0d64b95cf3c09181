"""On two ranks a method learns what one process learns from both halves of the batch."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.distill import tiny_batch, tiny_inputs, tiny_progress

import edgeseed
from edgeseed.distill.method import Batch, Method
from edgeseed.distill.methods import load_method

CONFIGS: dict[str, dict[str, Any]] = {
    "simclr": {"temperature": 0.5},
    "moco": {"momentum": 0.9},
    "seed": {"small_patches": 2},
    "queue-kl": {"tau_teacher": 0.2},
    "kd": {},
    "simclrv2": {"alpha": 0.5},
    "dogo": {"tau": 0.5},
    "crd": {"kd_weight": 1.0},
    "esvit": {"num_local": 2, "hidden_dim": 24},
    "rob": {"num_local": 2, "hidden_dim": 24, "centering": True},
}
SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
from torch.nn.parallel import DistributedDataParallel
import test_ranks
for name in test_ranks.CONFIGS:
    method = test_ranks.make(name)
    model = DistributedDataParallel(method, broadcast_buffers=False)
    state = test_ranks.run(model, method, test_ranks.part(test_ranks.whole(name), dist.get_rank()))
    torch.save(state, f"{{sys.argv[1]}}/{{name}}-{{dist.get_rank()}}.pt")
dist.destroy_process_group()
"""


def make(name: str) -> Method[Any]:
    method_class = load_method(name)
    torch.manual_seed(0)
    # In eval mode BatchNorm does not look at the batch, of which each rank has another part.
    return method_class(method_class.Config(**CONFIGS[name]), tiny_inputs(method_class)).eval()


def whole(name: str) -> Batch:
    method_class = load_method(name)
    views = method_class.views(method_class.Config(**CONFIGS[name]), 32)
    return tiny_batch(views, labels=method_class.REQUIREMENTS.labels != "unused")


def part(batch: Batch, rank: int) -> Batch:
    rows = slice(4 * rank, 4 * rank + 4)
    labels = None if batch.labels is None else batch.labels[rows]
    views = tuple(view[rows] for view in batch.views)
    return dataclasses.replace(batch, views=views, indices=batch.indices[rows], labels=labels)


def run(model: torch.nn.Module, method: Method[Any], batch: Batch) -> dict[str, torch.Tensor]:
    """Loss, gradients, and all that is saved after the step."""
    sampler = getattr(method, "sampler", None)
    if sampler is not None:
        # Drawn by photo, not by rank: so that both ways have the same negatives.
        sampler.draw = lambda own, **_: (own[:, None] + torch.arange(1, 16)) % 32
    result = model(batch, tiny_progress())
    result.loss.backward()
    gradients = {
        f"gradient of {name}": parameter.grad.clone()
        for name, parameter in method.named_parameters()
        if parameter.grad is not None
    }
    method.after_step(tiny_progress())
    return {"loss": result.loss.detach(), **gradients, **method.state_dict()}


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "ranks.py"
    script.write_text(SCRIPT)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script), str(folder),
    ]  # fmt: skip
    # The processes start elsewhere: they shall import what is tested here.
    paths = [str(Path(edgeseed.__file__).parents[1]), str(Path(__file__).parents[2])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_two_ranks_are_one_process_with_both_halves(name: str, states: Path) -> None:
    # Negatives, similarities, banks, centres and Z are over all ranks: then the mean of the ranks'
    # gradients, which DDP takes, is the gradient of the whole batch.
    ranks = [torch.load(states / f"{name}-{rank}.pt") for rank in range(2)]
    for key, value in ranks[0].items():
        assert key == "loss" or torch.equal(value, ranks[1][key]), f"{key} differs between ranks"
    method = make(name)
    alone = run(method, method, whole(name))
    assert set(alone) == set(ranks[0])
    ranks[0]["loss"] = (ranks[0]["loss"] + ranks[1]["loss"]) / 2
    for key, value in alone.items():
        torch.testing.assert_close(ranks[0][key], value, rtol=1e-3, atol=1e-5, msg=key)
