"""Whether `profile` and `compare` can be believed on this machine: four claims, held by ratios.

    python benchmarks/latency_fidelity.py BUNDLE [--pairs 20] [--repeats 10] [--out JSON]

1. `profile` gives the p50 of a bare loop, within 2 % (median of the ratios). The loop is a process
   of its own that opens the bundle's model with plain ONNX Runtime and times it.
2. Two sets of runs of one bundle are called different by `compare` in at most 1 of 20 pairs (A/A).
3. The same bundle, 10 % slower, is called slower in at least 19 of 20 pairs.
4. Throttling makes a result invalid: a clock that falls to 1/1.3 half-way, and stalls that no
   percentile shows. Of the runs without, few are flagged: on a virtual machine some are rightly.

The slow runs are planted in the agent's own process, behind the engine: each inference is held
back, by a wait without sleep, for a share of the time that it took. All else is what a user runs
with `--repeat`, but for shorter runs.

The bundle (A) and its slower twin (S) are measured in turns, A S A S A ..., each in a process of
its own. A pair is `repeats` neighbours of A and S, or for A/A of A and the next A. So each A is in
two of the A/A pairs. 20 pairs of 10 are 410 runs, and take about twenty minutes. Any claim that
fails ends it with code 1.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgeseed.core.bundle import read_bundle
from edgeseed.core.config import to_plain
from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.runtime import Result, profile
from edgeseed.runtime.agent import job_file
from edgeseed.runtime.device import Ended
from edgeseed.runtime.devices._process import stream
from edgeseed.runtime.devices.host import HostDevice
from edgeseed.runtime.latency import PROTOCOLS, LatencyProtocol
from edgeseed.runtime.machine import load_now
from edgeseed.runtime.ranking import rank

RESULTS = Path(__file__).parent / "results"

SLOWDOWN = 1.10
MAX_P50_DIFFERENCE = 0.02
MAX_FALSE = 1 / 20
MIN_FOUND = 19 / 20
MAX_FLAGGED = 1 / 5
BRIEF = LatencyProtocol("brief", min_runs=64, min_seconds=0.75, max_seconds=30)
BARE_EVERY = 16

# `share` answers how long a run is held back, as a share of the time that it took, `seconds` after
# the first one. It is written into the agent's process, where no other seam changes a sample.
PLANT = """
import itertools, runpy, sys, time
agent, work = sys.argv[1:3]
sys.path.insert(0, agent)
from edgeseed.runtime.engines import onnxruntime as module
infer, numbers, begun = module.ENGINE.infer, itertools.count(), []
def share(seconds, number):
    return {share}
def held_back(self, feeds):
    before = time.perf_counter()
    outputs = infer(self, feeds)
    after = time.perf_counter()
    begun.append(before) if not begun else None
    end = after + (after - before) * share(before - begun[0], next(numbers))
    while time.perf_counter() < end:
        pass
    return outputs
module.ENGINE.infer = held_back
sys.argv = [agent, work]
runpy.run_path(agent, run_name="__main__")
"""
THROTTLING = {
    "clock falls to 1/1.3 after 4 s": "0.3 if seconds > 4 else 0.0",
    "1 run in 100 stalls for 40 after 4 s": "40.0 if seconds > 4 and number % 100 == 0 else 0.0",
}
"""Name -> the share, as Python. `rapid` warms up for a second or two and then measures for six."""

BARE_SECONDS = 3.0
BARE = """
import statistics, sys, time
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
spec = session.get_inputs()[0]
image = np.load(sys.argv[2])[:1]
feeds = {spec.name: image.astype(np.uint8 if "uint8" in spec.type else np.float32)}
for seconds in (1.0, float(sys.argv[4])):
    samples, end, after = [], time.perf_counter_ns() + seconds * 1e9, 0
    while after < end:
        before = time.perf_counter_ns()
        session.run(None, feeds)
        after = time.perf_counter_ns()
        samples.append(after - before)
print(statistics.median(samples))
"""


class HeldBackHost(HostDevice):
    """This machine, with an engine that is held back after each run."""

    def __init__(self, share: str) -> None:
        self._script = PLANT.replace("{share}", share)

    def run_agent(self, work: Path, *, on_line: Callable[[str], None]) -> Ended:
        """See `AgentDevice.run_agent`."""
        agent = str(work / job_file.AGENT)
        return stream([sys.executable, "-c", self._script, agent, str(work)], on_line=on_line)


class Bench:
    """Measures one bundle, into a folder of its own."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self._bundle, self._folder = bundle, folder
        self._count = 0

    def run(self, share: str | None = None, *, protocol: str = BRIEF.name) -> Result:
        """One result; with `share`, held back."""
        self._count += 1
        return profile(
            self._bundle,
            device=HostDevice() if share is None else HeldBackHost(share),
            protocol=protocol,
            out=self._folder / f"{self._count}.json",
            accuracy=False,
        )

    def bare_ms(self, threads: int) -> float:
        """The median of a plain loop."""
        model = self._bundle / read_bundle(self._bundle).manifest.model
        photos = self._bundle / "golden" / "inputs.npy"
        command = [sys.executable, "-c", BARE, model, photos, str(threads), str(BARE_SECONDS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout) / 1e6


@dataclass(kw_only=True, slots=True)
class Row:
    """All runs, in the order in which they were measured: A S A S ... A A."""

    plain: list[Result]
    slow: list[Result]
    bare_ratios: list[float]
    """p50 of some of the plain runs over that of a bare loop right after."""


def measure_all(bench: Bench, *, pairs: int, repeats: int) -> Row:
    row = Row(plain=[], slow=[], bare_ratios=[])
    for number in range(pairs * repeats):
        row.plain.append(bench.run())
        if number % BARE_EVERY == 0:
            row.bare_ratios.append(p50(row.plain[-1]) / bench.bare_ms(row.plain[-1].engine.threads))
        row.slow.append(bench.run(str(SLOWDOWN - 1)))
    row.plain += [bench.run() for _ in range(repeats)]  # for the last of the A/A pairs
    return row


def verdict(first: list[Result], second: list[Result]) -> str:
    """What `compare` says of the second bundle, of which these are runs."""
    second = [replace(each, bundle=replace(each.bundle, digest="second")) for each in second]
    (group,) = rank([*first, *second]).groups
    said = {row.verdict for row in group.rows if row.result.bundle.digest == "second"}
    (one,) = (said - {"not ranked"}) or {"not ranked"}
    return one


def p50_report(row: Row) -> dict[str, Any]:
    median = statistics.median(row.bare_ratios)
    return {
        "claim": f"p50 within {MAX_P50_DIFFERENCE:.0%} of a bare loop",
        "ratio_median": median,
        "ratios": sorted(row.bare_ratios),
        "holds": abs(median - 1) <= MAX_P50_DIFFERENCE,
    }


def same_report(row: Row, *, pairs: int, repeats: int) -> dict[str, Any]:
    blocks = [row.plain[repeats * k : repeats * (k + 2)] for k in range(pairs)]
    verdicts = [verdict(block[0::2], block[1::2]) for block in blocks]
    false = sum(each in ("faster", "slower") for each in verdicts)
    return {
        "claim": "runs of one bundle are called different in at most 1 of 20 pairs",
        "pairs": pairs,
        "verdicts": Counter(verdicts),
        "between_runs_cv_p50": spread(row.plain),
        "holds": false <= MAX_FALSE * pairs and "not ranked" not in verdicts,
    }


def slower_report(row: Row, *, pairs: int, repeats: int) -> dict[str, Any]:
    parts = [slice(repeats * k, repeats * (k + 1)) for k in range(pairs)]
    verdicts = [verdict(row.plain[part], row.slow[part]) for part in parts]
    ratios = [p90(slow) / p90(plain) for plain, slow in zip(row.plain, row.slow, strict=False)]
    return {
        "claim": f"{SLOWDOWN - 1:.0%} slower is called slower in at least 19 of 20 pairs",
        "pairs": pairs,
        "verdicts": Counter(verdicts),
        "ratio_p90_median": statistics.median(ratios),
        "ratios_p90": ratios,
        "holds": verdicts.count("slower") >= MIN_FOUND * pairs,
    }


def throttling_report(bench: Bench, row: Row) -> dict[str, Any]:
    planted = {name: bench.run(share, protocol="rapid") for name, share in THROTTLING.items()}
    found = {name: throttling(result) for name, result in planted.items()}
    without = sum(bool(throttling(result)) for result in row.plain)
    return {
        "claim": "planted throttling makes a result invalid; most runs without it are valid",
        "planted": found,
        "flagged_without": without,
        "runs_without": len(row.plain),
        "holds": all(found.values())
        and not any(result.valid for result in planted.values())
        and without <= MAX_FLAGGED * len(row.plain),
    }


def throttling(result: Result) -> list[str]:
    return [reason.message for reason in result.reasons if reason.code == "throttled"]


def spread(results: list[Result]) -> float:
    values = [p50(result) for result in results]
    return statistics.stdev(values) / statistics.mean(values)


def p50(result: Result) -> float:
    assert result.latency is not None
    return result.latency.p50.value


def p90(result: Result) -> float:
    assert result.latency is not None
    return result.latency.p90.value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS / "latency_fidelity.json")
    arguments = parser.parse_args()
    load, began = load_now(), time.monotonic()
    pairs, repeats = arguments.pairs, arguments.repeats
    with tempfile.TemporaryDirectory() as folder:
        PROTOCOLS[BRIEF.name] = BRIEF
        bench = Bench(arguments.bundle, Path(folder))
        row = measure_all(bench, pairs=pairs, repeats=repeats)
        claims = {
            "p50": p50_report(row),
            "same": same_report(row, pairs=pairs, repeats=repeats),
            "slower": slower_report(row, pairs=pairs, repeats=repeats),
            "throttling": throttling_report(bench, row),
        }
    for claim in claims.values():
        shown = {name: value for name, value in claim.items() if name not in ("claim", "holds")}
        print(f"{'holds' if claim['holds'] else 'FAILS'}: {claim['claim']}")
        print(f"       {json.dumps(shown)}")
    last = row.plain[-1]
    write_json(
        arguments.out,
        {
            "bundle": arguments.bundle.name,
            "model": last.bundle.name,
            "pairs": pairs,
            "repeats": repeats,
            "run": to_plain(BRIEF),
            "threads": last.engine.threads,
            "claims": claims,
            "p50_ms": {"plain": [*map(p50, row.plain)], "slow": [*map(p50, row.slow)]},
            "p90_ms": {"plain": [*map(p90, row.plain)], "slow": [*map(p90, row.slow)]},
            "flags": Counter(reason.code for each in row.plain for reason in each.reasons),
            "other_cores_during": statistics.mean(
                each.load_during.other_cores or 0.0 for each in row.plain
            ),
            "load_before": load.to_dict(),
            "seconds": time.monotonic() - began,
            "environment": environment(),
        },
    )
    return 0 if all(claim["holds"] for claim in claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
