"""Does `recommend`, which times untrained networks, order them as trained ones are?

    python benchmarks/recommend_order.py --work DIR [--students S[,S]] [--precisions fp32,int8]

Each candidate is trained a little on the named set `digits` and exported as a user would (int8 with
its search for layers that stay in float). `recommend` times it untrained; `profile` times the
trained bundle. Stated is Spearman's rank correlation of the two p50, over all candidates in all
precisions, and how far the two are apart.

What is in DIR already is not made again, so that training and export may run on a busy machine and
the timing, `--again NAME`, on a quiet one.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from edgeseed.core.environment import environment
from edgeseed.core.files import write_json
from edgeseed.distill import finetune
from edgeseed.distill.networks.students import list_students
from edgeseed.export import export
from edgeseed.recommend import recommend
from edgeseed.runtime import Result, profile, read_result
from edgeseed.runtime.machine import load_now

HERE = Path(__file__).parent
PHOTOS = "digits"
LABELS = "8pc"


def trained_bundle(work: Path, name: str, precision: str, size: int) -> Path:
    """The bundle of a network that has learnt something, at the size that `recommend` times."""
    run, bundle = work / "students" / name, work / "bundles" / f"{name}-{precision}"
    if not (run / "student.safetensors").is_file():
        finetune(name, data=PHOTOS, labels=LABELS, epochs=1, image_size=size, out=run)
    if not bundle.is_dir():
        export(
            run / "student.safetensors",
            target="onnx",
            precision=precision,
            calibration=PHOTOS,
            calibration_count=64 if precision == "int8" else None,
            # A network that has seen 80 photos is unsure of most: its decisions are no gate here.
            verify=False,
            speed=False,
            out=bundle,
        )
    return bundle


def time_trained(bundle: Path, out: Path) -> Result:
    if not out.is_file():
        profile(bundle, protocol="rapid", accuracy=False, out=out)
    return read_result(out)


def spearman(first: list[float], second: list[float]) -> float:
    """Rank correlation; times are never equal."""
    one, two = (np.argsort(np.argsort(values)) for values in (first, second))
    return float(np.corrcoef(one, two)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--students")
    parser.add_argument("--image-size", type=int, default=64, help="small: training takes minutes")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--budget-ms", type=float, default=20.0)
    parser.add_argument("--again", default="1", help="a name: times of another name are left alone")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "recommend_order.json")
    arguments = parser.parse_args()
    names = (
        arguments.students.split(",")
        if arguments.students
        else [info.name for info in list_students() if info.supervised_top1_percent is not None]
    )
    precisions = arguments.precisions.split(",")
    bundles = {
        (name, precision): trained_bundle(arguments.work, name, precision, arguments.image_size)
        for precision in precisions
        for name in names
    }
    load = load_now()
    times = arguments.work / f"times-{arguments.again}"
    found = recommend(
        budget_ms=arguments.budget_ms,
        students=names,
        precisions=precisions,
        image_size=arguments.image_size,
        cache=times / "untrained",
        picture=arguments.picture,
    )
    print(found.table())
    rows: list[dict[str, Any]] = []
    for item in found.candidates:
        key = (item.student, item.precision)
        result = time_trained(bundles[key], times / f"{item.student}-{item.precision}.json")
        assert result.latency is not None
        rows.append(
            {
                "student": item.student,
                "precision": item.precision,
                "untrained_p50_ms": item.p50_ms,
                "trained_p50_ms": result.latency.p50.value,
                "flags": sorted({reason.code for reason in result.reasons}),
            }
        )
    untrained = [row["untrained_p50_ms"] for row in rows]
    trained = [row["trained_p50_ms"] for row in rows]
    ratios = [one / two for one, two in zip(untrained, trained, strict=True)]
    report = {
        "what": "p50 of untrained networks, as recommend times them, and of trained ones",
        "spearman": spearman(untrained, trained),
        "n": len(rows),
        "image_size": arguments.image_size,
        "untrained_over_trained": {
            "median": statistics.median(ratios), "least": min(ratios), "most": max(ratios),
        },
        "rows": rows,
        "load_before": load.to_dict(),
        "environment": environment(),
    }  # fmt: skip
    for row in rows:
        print(f"{row['student']:26} {row['precision']:5} {row['untrained_p50_ms']:8.2f} ms "
              f"untrained {row['trained_p50_ms']:8.2f} ms trained")  # fmt: skip
    print(f"Spearman {report['spearman']:.3f} over {len(rows)}")
    write_json(arguments.out, report)


if __name__ == "__main__":
    main()
