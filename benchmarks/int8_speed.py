"""Is int8 faster than fp32 on this CPU, and how much; beside the stock tool and other engines.

    python benchmarks/int8_speed.py --out int8-speed
    python benchmarks/int8_speed.py --out int8-speed --peers   # also OpenVINO, ExecuTorch, LiteRT

Where `ai-edge-litert` is installed, our LiteRT files run beside our ONNX files; the peer `litert`
is what LiteRT's own converter and quantizer make.

Batch 1 at 224 pixels. All variants of a network are open at once and take turns, a block of runs
each, for many rounds; what counts is the ratio of our fp32's block to a variant's in the same
round, its median and quartiles over the rounds. Whatever else the machine does meanwhile touches
both alike. Before each block nothing runs for a tenth of a second: ONNX Runtime's threads spin on
for 34 ms after a run, and would take a core from whoever comes next. Then a block is run to wake
up and not counted, as ExecuTorch's two threads are slow for some milliseconds after the pause. With
one thread there is the processor's time as well, which a busy machine moves less: a process that
has to wait is not charged for it. Each variant has a process of its own, and a run takes the photo
in, computes and gives the outputs out, in every engine. Models are kept in `--out` and not made
again; `--peers` makes an environment a peer in there (1 GB for OpenVINO; ExecuTorch and LiteRT's
converter take torch along).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed_networks import (
    NETWORKS,
    SIZE,
    STOCK,
    build_network,
    photos,
    write_litert,
    write_ours,
    write_program,
    write_stock,
)

from edgeseed.core.console import say
from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.runtime.machine import load_now, read_machine

RESULT = Path(__file__).parent / "results/int8_speed.json"
PEERS_FOLDER = Path(__file__).parent / "peers"
PEERS = {
    "openvino": ("openvino_worker.py", "fp32/model.onnx", ["openvino", "nncf", "onnx"]),
    "executorch": ("executorch_worker.py", "program.pt2", ["executorch", "torch", "torchvision"]),
    "litert": (
        "litert_worker.py",
        "program.pt2",
        [
            "litert-torch==0.10.0",
            "ai-edge-litert==2.3.0",
            "litert-quantizer==0.11.0",
            "torch<2.15",
            "torchvision",
            "timm",
        ],
    ),
}
HAS_LITERT = find_spec("ai_edge_litert") is not None
WARM_UP_RUNS = 12
SETTLING_SECONDS = 0.1

Sample = Sequence[int]
"""Nanoseconds of one run: on the clock, and of this process's processor time."""
Block = Callable[[int], list[Sample]]
"""Runs so many times."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--runs", type=int, default=12, help="in a block, after as many to wake up")
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), metavar="PEER")
    parser.add_argument("--prepare-only", action="store_true", help="make the models, time nothing")
    parser.add_argument("--result", type=Path, default=RESULT)
    arguments = parser.parse_args()
    peers = list(PEERS) if arguments.peers == [] else arguments.peers or []
    pythons = {peer: peer_python(peer, arguments.out) for peer in peers}
    origins = {name: prepare(name, arguments.out / name) for name in arguments.networks}
    if HAS_LITERT:
        for name in arguments.networks:
            prepare_litert(name, arguments.out / name)
    for name in arguments.networks:
        prepare_peers(arguments.out / name, pythons)
    if arguments.prepare_only:
        return
    rows: list[dict[str, Any]] = []
    for name in arguments.networks:
        for threads in arguments.threads:
            rows += measure_network(name, threads, arguments, pythons)
            write_json(arguments.result, report(rows, origins, arguments))
    print(table(rows))


# ------------------------------------------------------------------------------------- models


def prepare(name: str, folder: Path) -> str:
    """Writes a network's models, unless they are there; says where its weights are from."""
    note = folder / "origin.json"
    if note.exists():
        return str(json.loads(note.read_text())["weights"])
    say(f"{name}: making its models")
    folder.mkdir(parents=True, exist_ok=True)
    pixels = photos()
    np.save(folder / "photos.npy", pixels)
    network, origin = build_network(name, pixels)
    record = write_ours(name, network, pixels, folder)
    write_program(network, folder / "program.pt2")
    for stock, only in STOCK.items():
        write_stock(folder / "fp32/model.onnx", folder / stock / "model.onnx", pixels, only=only)
    note.write_text(json.dumps({"weights": origin, "float": record["float"]}))
    return origin


def prepare_litert(name: str, folder: Path) -> None:
    """Writes a network's LiteRT models, unless they are there."""
    if not (folder / "litert_int8/model.tflite").exists():
        say(f"{name}: making its LiteRT models")
        pixels = photos()
        network, _ = build_network(name, pixels)
        write_litert(name, network, pixels, folder)


def prepare_peers(folder: Path, pythons: dict[str, Path]) -> None:
    """Has every peer make its models; those that are there are opened again."""
    for command in peer_commands(folder, pythons, threads=1).values():
        with peer_block(command):
            pass


def peer_commands(folder: Path, pythons: dict[str, Path], *, threads: int) -> dict[str, list[str]]:
    """Variant -> how its worker is started."""
    return {
        f"{peer}_{precision}": [
            str(python), str(PEERS_FOLDER / PEERS[peer][0]), str(folder / PEERS[peer][1]),
            str(folder / "photos.npy"), precision, str(threads),
        ]
        for peer, python in pythons.items()
        for precision in ("fp32", "int8")
    }  # fmt: skip


def peer_python(peer: str, out: Path) -> Path:
    """The Python of a peer's own environment, made at the first call."""
    folder = (out / "environments" / peer).resolve()
    python = folder / "bin/python"
    if not python.exists():
        say(f"making an environment for {peer}")
        venv.create(folder, with_pip=True)
        packages = PEERS[peer][2]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


# ------------------------------------------------------------------------------------- timing


def our_command(model: Path, threads: int) -> list[str]:
    """ONNX Runtime or LiteRT as `edgeseed profile` opens it."""
    worker, photos_file = PEERS_FOLDER / "our_worker.py", model.parent.parent / "photos.npy"
    return [sys.executable, str(worker), str(model), str(photos_file), str(threads)]


@contextmanager
def peer_block(command: list[str]) -> Iterator[tuple[Block, dict[str, str]]]:
    """A worker in a process, and where it is a peer an environment, of its own."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(line: str | None) -> Any:
            if line is not None:
                stdin.write(line + "\n")
                stdin.flush()
            for answer in stdout:
                if answer.startswith(("[", "{")):
                    return json.loads(answer)
            raise SystemExit(f"it ended without an answer: {' '.join(command)}")

        versions = ask(None)["ready"]
        try:
            yield lambda runs: list(ask(str(runs))), versions
        finally:
            stdin.close()


def measure_network(
    name: str, threads: int, arguments: argparse.Namespace, pythons: dict[str, Path]
) -> list[dict[str, Any]]:
    """All variants of a network, interleaved."""
    folder = arguments.out / name
    load = load_now()
    with ExitStack() as stack:
        commands = {
            variant: our_command(folder / variant / "model.onnx", threads)
            for variant in ("fp32", "int8", *STOCK)
        }
        for variant in ("litert_fp32", "litert_int8") if HAS_LITERT else ():
            commands[f"our_{variant}"] = our_command(folder / variant / "model.tflite", threads)
        commands |= peer_commands(folder, pythons, threads=threads)
        blocks: dict[str, Block] = {}
        versions: dict[str, dict[str, str]] = {}
        for variant, command in commands.items():
            blocks[variant], versions[variant] = stack.enter_context(peer_block(command))
        for block in blocks.values():
            block(WARM_UP_RUNS)
        rounds = [
            {variant: timed(block, arguments.runs) for variant, block in blocks.items()}
            for _ in range(arguments.rounds)
        ]
    rows = [row(name, threads, variant, rounds) for variant in blocks]
    for item in rows:
        item["load_before"] = load.to_dict()
        item["versions"] = versions.get(str(item["variant"]), {})
        say(line(item))
    return rows


def timed(block: Block, runs: int) -> tuple[float, float]:
    """`medians` of a block, once the threads of the one before sleep and its own are awake."""
    time.sleep(SETTLING_SECONDS)
    return medians(block(2 * runs)[runs:])


def medians(samples: list[Sample]) -> tuple[float, float]:
    """Milliseconds on the clock and of the processor."""
    clock, used = (statistics.median(values) / 1e6 for values in zip(*samples, strict=True))
    return clock, used


def row(
    name: str, threads: int, variant: str, rounds: list[dict[str, tuple[float, float]]]
) -> dict[str, Any]:
    """A variant's times and its ratios to our fp32."""
    found: dict[str, Any] = {
        "network": name,
        "threads": threads,
        "variant": variant,
        "rounds": len(rounds),
        "bar": NETWORKS[name].bar if variant == "int8" else None,
    }
    # Threads that wait for work spin: their processor's time is no measure.
    for index, what in enumerate(("latency", "processor") if threads == 1 else ("latency",)):
        times = [item[variant][index] for item in rounds]
        ratios = [item["fp32"][index] / item[variant][index] for item in rounds]
        found[f"{what}_ms"] = quartiles(times)
        found[f"{what}_least_ms"] = round(min(times), 4)
        found[f"{what}_times_as_fast_as_fp32"] = quartiles(ratios)
    return found


def quartiles(values: list[float]) -> list[float]:
    """First quartile, median, third quartile."""
    return [round(value, 4) for value in statistics.quantiles(values, n=4)]


# ------------------------------------------------------------------------------------- report


def report(
    rows: list[dict[str, Any]], origins: dict[str, str], arguments: argparse.Namespace
) -> dict[str, Any]:
    return {
        "what": (
            f"batch 1, {SIZE} px; per round the median of {arguments.runs} runs a variant; "
            "quartiles over the rounds"
        ),
        "rows": rows,
        "weights": origins,
        "load_average": os.getloadavg(),
        "machine": read_machine().to_dict(),
        "environment": environment(),
    }


def best(item: dict[str, Any]) -> tuple[float, list[float]]:
    """Median milliseconds and quartiles of the ratio, by the steadier of the two clocks."""
    what = "processor" if "processor_ms" in item else "latency"
    return item[f"{what}_ms"][1], item[f"{what}_times_as_fast_as_fp32"]


def line(item: dict[str, Any]) -> str:
    milliseconds, (low, median, high) = best(item)
    return (
        f"{item['network']}, {item['threads']} thread(s), {item['variant']}: "
        f"{milliseconds:.2f} ms, {median:.2f}x [{low:.2f} {high:.2f}]"
    )


def table(rows: list[dict[str, Any]]) -> str:
    """Median ms and times as fast as our fp32, as Markdown; one thread: processor time."""
    variants = list(dict.fromkeys(item["variant"] for item in rows))
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for item in rows:
        milliseconds, (_, ratio, _) = best(item)
        of_network = cells.setdefault((item["network"], item["threads"]), {})
        of_network[item["variant"]] = f"{milliseconds:.2f} ({ratio:.2f}x)"
    lines = [
        "| network | threads | " + " | ".join(variants) + " |",
        "|---|---|" + "---|" * len(variants),
    ]
    for (name, threads), found in cells.items():
        values = " | ".join(found.get(variant, "") for variant in variants)
        lines.append(f"| {name} | {threads} | {values} |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
