"""How much two runs of one model differ on one machine, beside what each run says of itself.

    python benchmarks/latency_repeatability.py BUNDLE [--runs 10] [--protocol rapid] [--out JSON]

Each run is a process of its own. Behind the least differences in runtime/ranking.py.
"""

import argparse
import itertools
import statistics
import tempfile
from pathlib import Path
from typing import Any

from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.runtime import Result, profile

RESULTS = Path(__file__).parent / "results"


def spread(results: list[Result], percentile: str) -> dict[str, Any]:
    values = [getattr(result.latency, percentile).value for result in results]
    ratios = [max(a, b) / min(a, b) - 1 for a, b in itertools.combinations(values, 2)]
    apart = [
        not getattr(a.latency, percentile).overlaps(getattr(b.latency, percentile))
        for a, b in itertools.combinations(results, 2)
    ]
    return {
        "ms": values,
        "difference_of_two_median": statistics.median(ratios),
        "difference_of_two_largest": max(ratios),
        "pairs_whose_intervals_do_not_overlap": sum(apart) / len(apart),
    }


def cpu_spread(results: list[Result]) -> dict[str, Any]:
    values = [result.cpu_ms for result in results]
    ratios = [max(a, b) / min(a, b) - 1 for a, b in itertools.combinations(values, 2)]
    return {
        "ms": values,
        "difference_of_two_median": statistics.median(ratios),
        "difference_of_two_largest": max(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--protocol", default="rapid")
    parser.add_argument("--out", type=Path, default=RESULTS / "latency_repeatability.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = [
            profile(
                arguments.bundle,
                protocol=arguments.protocol,
                out=Path(folder) / f"{number}.json",
            )
            for number in range(arguments.runs)
        ]
    report = {
        "bundle": arguments.bundle.name,
        "model": results[0].bundle.name,
        "protocol": arguments.protocol,
        "runs": len(results),
        "p50": spread(results, "p50"),
        "p90": spread(results, "p90"),
        "cpu": cpu_spread(results),
        "other_cores_during": [result.load_during.other_cores for result in results],
        "reasons": [[reason.code for reason in result.reasons] for result in results],
        "environment": environment(),
    }
    for name in ("p50", "p90", "cpu"):
        row = report[name]
        print(
            f"{name}: two runs differ by {row['difference_of_two_median']:.1%} (median), at most "
            f"{row['difference_of_two_largest']:.1%}"
        )
    write_json(arguments.out, report)


if __name__ == "__main__":
    main()
