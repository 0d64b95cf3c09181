"""Is the teacher worth it? The quickstart's student and its twin without a teacher, over seeds.

    python benchmarks/quickstart.py --seeds 0 1 2

Both are the same network on the same photos for the same time; each seed has its own teacher.
Beside them stands the same network untrained, which is the level that both have to rise above.
Writes benchmarks/results/quickstart.json, and prints the table that the README shows.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from edgeseed.core.config import to_plain
from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.quickstart import QuickstartPlan, Trained, train_three

RESULT = Path(__file__).parent / "results/quickstart.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rows = [row for seed in arguments.seeds for row in run(seed)]
    write_json(
        arguments.out,
        {"plan": to_plain(QuickstartPlan()), "environment": environment(), "rows": rows},
    )
    print(table(rows))


def run(seed: int) -> list[dict[str, Any]]:
    """One seed: a row for the teacher, the student, its twin, and the student untrained."""
    plan = QuickstartPlan(
        untrained_seeds=1
    )  # the weights that this seed's student and twin start from
    with tempfile.TemporaryDirectory() as folder:
        trained = train_three(out=Path(folder), seed=seed, plan=plan)
    return [*(row(item, seed) for item in trained), untrained_row(trained[1], seed)]


def row(item: Trained, seed: int) -> dict[str, Any]:
    metrics = {metric.name: metric.top1_percent for metric in item.evaluation.metrics}
    return {
        "network": item.name,
        "what": item.what,
        "seed": seed,
        "seconds": item.seconds,
        "epochs": item.epochs,
        "n": item.evaluation.metrics[0].n,
        **metrics,
    }


def untrained_row(student: Trained, seed: int) -> dict[str, Any]:
    """The student's network as it was before training."""
    baseline = student.evaluation.baseline
    assert baseline is not None
    return {
        "network": "untrained",
        "what": f"{baseline.network}, untrained",
        "seed": seed,
        "seconds": 0.0,
        "epochs": 0,
        "n": student.evaluation.metrics[0].n,
        **{metric.name: metric.mean_percent for metric in baseline.metrics},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over seeds, as Markdown."""
    names = [name for name in rows[0] if name.startswith(("knn", "linear"))]
    lines = [
        "| network | " + " | ".join(f"{name}, top-1 %" for name in names) + " | training, s |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for network in dict.fromkeys(line["network"] for line in rows):
        mine = [line for line in rows if line["network"] == network]
        cells = [spread([line[name] for line in mine]) for name in names]
        seconds = spread([line["seconds"] for line in mine], digits=0)
        lines.append(f"| {mine[0]['what']} | " + " | ".join(cells) + f" | {seconds} |")
    return "\n".join(lines)


def spread(values: list[float], *, digits: int = 1) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.{digits}f} ± {deviation:.{digits}f}"


if __name__ == "__main__":
    main()
