"""Whether `profile` and `compare` can be believed on this machine: four claims, held by ratios.

    python benchmarks/latency_fidelity.py BUNDLE [--rounds 20] [--protocol rapid] [--out JSON]

1. `profile` gives the p50 of a bare loop: in each round a process of its own opens the bundle's
   model with plain ONNX Runtime and times it; the ratio of the two p50 is within 2 %.
2. Two runs of one bundle are told apart by `compare` in at most 1 of 20 pairs (A/A).
3. The same bundle, 10 % slower, is called slower in at least 19 of 20 pairs.
4. Throttling is flagged, and a run without it is not: a clock that falls to 1/1.3 half-way, and
   stalls that no percentile shows.

The slow runs are planted in the agent's own process, behind the engine: each inference is held
back, by a wait without sleep, for a share of the time that it took. All else is what a user runs.

Each round measures the bundle, its slower twin and the bare loop, one after the other, so that a
machine that drifts touches all alike. The A/A pairs are neighbours in that row of runs. One round
takes about 22 s with `rapid`, 20 rounds seven to eight minutes. Any claim that fails ends it with
code 1.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgeseed.core.bundle import read_bundle
from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.runtime import Result, profile
from edgeseed.runtime.agent import job_file
from edgeseed.runtime.device import Ended
from edgeseed.runtime.devices._process import stream
from edgeseed.runtime.devices.host import HostDevice
from edgeseed.runtime.machine import load_now
from edgeseed.runtime.ranking import rank

RESULTS = Path(__file__).parent / "results"

SLOWDOWN = 1.10
MAX_P50_DIFFERENCE = 0.02
MAX_FALSE = 1 / 20
MIN_FOUND = 19 / 20

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What was measured one after the other: the bundle, its slower twin, and a bare loop."""

    plain: Result
    slow: Result
    bare_ms: float


class Bench:
    """Measures one bundle, into a folder of its own."""

    def __init__(self, bundle: Path, folder: Path, protocol: str) -> None:
        self._bundle, self._folder, self._protocol = bundle, folder, protocol
        self._count = 0

    def run(self, share: str | None = None) -> Result:
        """One result; with `share`, held back."""
        self._count += 1
        return profile(
            self._bundle,
            device=HostDevice() if share is None else HeldBackHost(share),
            protocol=self._protocol,
            out=self._folder / f"{self._count}.json",
            accuracy=False,
        )

    def bare(self, threads: int) -> float:
        """The median of a plain loop in ms."""
        model = self._bundle / read_bundle(self._bundle).manifest.model
        photos = self._bundle / "golden" / "inputs.npy"
        command = [sys.executable, "-c", BARE, model, photos, str(threads), str(BARE_SECONDS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout) / 1e6

    def round(self) -> Round:
        """The three of a round."""
        plain = self.run()
        slow = self.run(str(SLOWDOWN - 1))
        return Round(plain=plain, slow=slow, bare_ms=self.bare(plain.engine.threads))


def verdict(first: Result, second: Result) -> str:
    """What `compare` says of the second."""
    (group,) = rank([first, second]).groups
    return next(row.verdict for row in group.rows if row.result is second)


def p50_report(rounds: list[Round]) -> dict[str, Any]:
    ratios = sorted(p50(each.plain) / each.bare_ms for each in rounds)
    median = statistics.median(ratios)
    return {
        "claim": f"p50 within {MAX_P50_DIFFERENCE:.0%} of a bare loop (median of the rounds)",
        "ratio_median": median,
        "ratios": ratios,
        "bare_p50_ms": statistics.median(each.bare_ms for each in rounds),
        "holds": abs(median - 1) <= MAX_P50_DIFFERENCE,
    }


def same_report(rounds: list[Round], last: Result) -> dict[str, Any]:
    plain = [*(each.plain for each in rounds), last]
    verdicts = [verdict(first, second) for first, second in pairwise(plain)]
    false = sum(each in ("faster", "slower") for each in verdicts)
    return {
        "claim": "two runs of one bundle are told apart in at most 1 of 20 pairs",
        "pairs": len(verdicts),
        "verdicts": Counter(verdicts),
        "p50_ms": [p50(result) for result in plain],
        "p90_ms": [p90(result) for result in plain],
        "holds": false <= MAX_FALSE * len(verdicts) and "not ranked" not in verdicts,
    }


def slower_report(rounds: list[Round]) -> dict[str, Any]:
    verdicts = [verdict(each.plain, each.slow) for each in rounds]
    return {
        "claim": f"{SLOWDOWN - 1:.0%} slower is called slower in at least 19 of 20 pairs",
        "pairs": len(verdicts),
        "verdicts": Counter(verdicts),
        "ratio_p50": [p50(each.slow) / p50(each.plain) for each in rounds],
        "ratio_p90": [p90(each.slow) / p90(each.plain) for each in rounds],
        "holds": verdicts.count("slower") >= MIN_FOUND * len(verdicts),
    }


def throttling_report(bench: Bench, rounds: list[Round]) -> dict[str, Any]:
    planted = {name: bench.run(share) for name, share in THROTTLING.items()}
    flagged = {name: throttling(result) for name, result in planted.items()}
    without = [throttling(each.plain) for each in rounds]
    return {
        "claim": "planted throttling makes a result invalid; runs without it are not flagged",
        "planted": flagged,
        "flagged_without": sum(map(bool, without)),
        "runs_without": len(without),
        "holds": all(flagged.values())
        and not any(result.valid for result in planted.values())
        and sum(map(bool, without)) <= MAX_FALSE * len(without),
    }


def throttling(result: Result) -> list[str]:
    return [reason.message for reason in result.reasons if reason.code == "throttled"]


def p50(result: Result) -> float:
    assert result.latency is not None
    return result.latency.p50.value


def p90(result: Result) -> float:
    assert result.latency is not None
    return result.latency.p90.value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--protocol", default="rapid")
    parser.add_argument("--out", type=Path, default=RESULTS / "latency_fidelity.json")
    arguments = parser.parse_args()
    load = load_now()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments.bundle, Path(folder), arguments.protocol)
        rounds = [bench.round() for _ in range(arguments.rounds)]
        last = bench.run()
        claims = {
            "p50": p50_report(rounds),
            "same": same_report(rounds, last),
            "slower": slower_report(rounds),
            "throttling": throttling_report(bench, rounds),
        }
    for claim in claims.values():
        shown = {name: value for name, value in claim.items() if name not in ("claim", "holds")}
        print(f"{'holds' if claim['holds'] else 'FAILS'}: {claim['claim']}")
        print(f"       {json.dumps(shown)}")
    write_json(
        arguments.out,
        {
            "bundle": arguments.bundle.name,
            "model": last.bundle.name,
            "protocol": arguments.protocol,
            "rounds": len(rounds),
            "threads": last.engine.threads,
            "claims": claims,
            "flags": Counter(reason.code for each in rounds for reason in each.plain.reasons),
            "other_cores_during": [each.plain.load_during.other_cores for each in rounds],
            "load_before": load.to_dict(),
            "environment": environment(),
        },
    )
    return 0 if all(claim["holds"] for claim in claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
