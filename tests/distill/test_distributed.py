"""Collectives, and that ranks stay alike: two processes on this machine's CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import edgeseed
from edgeseed.distill import distill, distributed

SCRIPT = """
import json, os, sys
import torch, torch.distributed as dist
torch.set_num_threads(1)
dist.init_process_group("gloo")
from edgeseed.distill import distributed as d
from edgeseed.distill.methods.seed import Seed, SeedConfig
from edgeseed.distill.method import Progress
from support.distill import tiny_batch, tiny_inputs
from torch.nn.parallel import DistributedDataParallel

rank = d.rank()
x = torch.tensor([1.0 + rank, 2.0], requires_grad=True)
weights = torch.arange(4.0) * (1 + rank)
(d.gather_with_grad(x) * weights).sum().backward()

torch.manual_seed(0)
method = Seed(SeedConfig(queue_size=16), tiny_inputs(Seed, batch_size=8))
model = DistributedDataParallel(method, broadcast_buffers=False)
optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
plan = Seed.views(SeedConfig(), 32)
for step in range(3):
    progress = Progress(step=step, total_steps=20, steps_per_epoch=4)
    result = model(tiny_batch(plan, batch_size=4, seed=10 * step + rank), progress)
    optimizer.zero_grad()
    result.loss.backward()
    optimizer.step()
    method.after_step(progress)
out = {
    "gathered": d.gather(torch.tensor([float(rank)])).tolist(),
    "mean": d.mean(torch.tensor(float(rank))).item(),
    "gradient": x.grad.tolist(),
    "queue": method.queue.entries.double().flatten().tolist(),
    "pointer": int(method.queue.pointer),
    "weights": method.head[0].weight.detach().double().sum().item(),
    "loss": result.loss.item(),
}
with open(f"{sys.argv[1]}/{rank}.json", "w") as file:
    json.dump(out, file)
dist.destroy_process_group()
"""


def launch(arguments: list[str], cwd: Path) -> None:
    done = start(arguments, cwd)
    assert done.returncode == 0, done.stderr[-3000:]


def start(arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *arguments,
    ]  # fmt: skip
    # The processes start elsewhere: they shall import what is tested here.
    paths = [str(Path(edgeseed.__file__).parents[1]), str(Path(__file__).parents[1])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False
    )


def test_alone_every_collective_is_the_identity() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    assert torch.equal(distributed.gather_with_grad(x), x)
    assert torch.equal(distributed.gather(x), x.detach())
    assert torch.equal(distributed.mean(x), x.detach())
    assert not distributed.gather(x).requires_grad
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


@pytest.mark.slow
def test_two_ranks_keep_one_queue_and_one_student(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(SCRIPT)
    launch([str(script), str(tmp_path)], tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["gathered"] == second["gathered"] == [0.0, 1.0]
    assert first["mean"] == second["mean"] == 0.5
    # Loss of rank r is sum_j (1 + r) j x_j over the gathered vector: the gradients add up.
    assert first["gradient"] == [0.0, 3.0]
    assert second["gradient"] == [6.0, 9.0]
    assert first["queue"] == second["queue"]
    assert first["pointer"] == second["pointer"] == 24 % 16
    assert first["weights"] == second["weights"]
    assert first["loss"] != second["loss"]


RUN = """
import os, sys
import torch, torch.distributed as dist
torch.set_num_threads(1)
from edgeseed.distill import distill
from edgeseed.distill.training.trainer import Trainer

end_epoch = Trainer._end_epoch
def end_and_die(self):
    end_epoch(self)
    dist.barrier()
    os._exit(0)
Trainer._end_epoch = end_and_die

distill(method="seed", teacher=sys.argv[1], student="test_efficientnet", data="digits",
        out=sys.argv[2], epochs=2, batch_size=256, image_size=32, settings=["queue_size=512"])
"""


@pytest.mark.slow
def test_run_on_two_processes_goes_on_with_one(tmp_path: Path, teacher_file: str) -> None:
    script, out = tmp_path / "run.py", tmp_path / "run"
    script.write_text(RUN)
    launch([str(script), teacher_file, str(out)], tmp_path)
    assert epochs_of(out) == [1.0]
    result = distill(
        method="seed", teacher=teacher_file, student="test_efficientnet", data="digits",
        out=out, epochs=2, batch_size=256, image_size=32, resume=True,
        settings=["queue_size=512"],
    )  # fmt: skip
    assert epochs_of(out) == [1.0, 2.0]
    assert result.student.is_file()


def epochs_of(out: Path) -> list[float]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [record["epoch"] for record in map(json.loads, lines)]


@pytest.mark.slow
def test_an_error_of_all_ranks_is_said_once(tmp_path: Path) -> None:
    # Each printed its own: the same line, and under --json a document, as often as there are GPUs.
    words = ["-m", "edgeseed", "distill", "--teacher", "resnet50", "--student", "resnet18",
             "--data", "nowhere/", "--out", "run", "--devices", "cpu", "--json"]  # fmt: skip
    done = start(words, tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("edgeseed: error: nowhere/ does not exist") == 1
    assert done.stdout.count('"error"') == 1
    json.loads(done.stdout)


ONE_FAILS = """
import os, sys
from edgeseed.core.errors import DataError
from edgeseed.distill.training.trainer import Trainer
from edgeseed.cli import main

step = Trainer._train_step
def fail_on_the_second(self, *arguments):
    if os.environ["RANK"] == "1" and self.step == 2:
        raise DataError("photo 7 cannot be read")
    step(self, *arguments)
Trainer._train_step = fail_on_the_second
main(["distill", "--method", "seed", "--teacher", sys.argv[1], "--student", "test_efficientnet",
      "--data", "digits", "--out", "run", "--epochs", "2", "--batch-size", "256",
      "--image-size", "32", "--set", "queue_size=512", "--devices", "cpu"])
"""


@pytest.mark.slow
def test_an_error_of_one_rank_is_said_by_it_alone(tmp_path: Path, teacher_file: str) -> None:
    (tmp_path / "run.py").write_text(ONE_FAILS)
    done = start([str(tmp_path / "run.py"), teacher_file], tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("edgeseed: error: ") == 1
    assert "edgeseed: error: photo 7 cannot be read" in done.stderr
    # The other fails in a collective, which says nothing that helps.
    assert "Connection closed" not in done.stderr
