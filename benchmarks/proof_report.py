"""Tables, verdicts and curves of `proof.py`."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from methods import Relation, judge, summary

from edgeseed.core.environment import environment
from edgeseed.core.files import write_json, write_text
from edgeseed.core.line_plot import Line, line_plot
from edgeseed.core.svg import write_svg

# Stated before the first cell ran.
MARGIN_POINTS = 10.0
"""A row with a teacher is above untrained by this much linear probe,"""
MARGIN_SPREADS = 5.0
"""and by so many times the spread of its gain over seeds."""
LABEL_FREE = ("regress", "queue-kl", "seed", "crd", "dogo", "moco", "simclr")
LEVELS = ("pixels", "untrained", "untrained-statistics")
"""Rows without any training."""
VARIANTS = ("regress-long", "regress-k1")
TAUGHT = (
    "regress", "queue-kl", "seed", "crd", *VARIANTS, "regress-ssl", "seed-ssl", "rob",
)  # fmt: skip
"""Rows with a teacher: the margin is theirs."""
LABELLED = ("few-labels", "simclrv2", "few-labels-teacher", "kd", "crd-labelled", "supervised",
            "classifier-teacher")  # fmt: skip
_METRICS = ("knn-20", "knn-200", "linear", "10pc linear", "1pc linear")
_HEADINGS = ("kNN-20", "kNN-200", "linear probe", "probe, 10 % labels", "probe, 1 % labels")
_TRANSFER = ("fashion knn-20", "fashion linear", "digits knn-20", "digits linear")

Records = Sequence[Mapping[str, Any]]
Values = Mapping[tuple[str, str, str], Mapping[int, float]]
"""(group, "student", metric) -> seed -> value in percent, as `methods.judge` takes it."""

RELATIONS = (
    *(
        Relation(claim=f"{name}: with a teacher > by MoCo alone", better=name, worse="moco")
        for name in ("seed", "queue-kl", "regress")
    ),
    Relation(claim="DoGo: in the pair > alone", better="dogo", worse="dogo-alone"),
    Relation(
        claim="SimCLRv2: 10 % labels, the teacher labels the rest > labels alone",
        better="simclrv2", worse="few-labels", metric="classifier",
    ),
    Relation(
        claim="EsViT: views and regions >= views alone", better="esvit-teacher",
        worse="esvit-view-teacher", at_least=True,
    ),
    Relation(claim="KD > labels alone", better="kd", worse="supervised", metric="classifier"),
    Relation(
        claim="CRD > labels alone", better="crd-labelled", worse="supervised", metric="classifier"
    ),
    Relation(claim="CRD > KD", better="crd-labelled", worse="kd", metric="classifier"),
)  # fmt: skip


def in_short(record: Mapping[str, Any]) -> str:
    """One line about a finished cell."""
    metrics = record["metrics"]
    shown = ("knn-20", "linear", "classifier")
    return ", ".join(f"{name} {metrics[name]:.1f} %" for name in shown if name in metrics)


def collect(records: Records) -> Values:
    """All accuracies, by what they are of."""
    values: dict[tuple[str, str, str], dict[int, float]] = {}
    for record in records:
        for metric, value in record["metrics"].items():
            key = (record["group"].removeprefix("transfer "), "student", metric)
            values.setdefault(key, {})[record["seed"]] = value
    return values


def untrained_group(group: str) -> str:
    """The row of the same network without training."""
    base, _, student = group.partition(" ")
    if base.startswith("esvit"):
        return "esvit-untrained"
    if group == "ssl-teacher":
        return "ssl-untrained"
    return f"untrained {student}".strip()


def gains(values: Values, group: str, metric: str) -> list[float]:
    """Points above the untrained network of the same seed, and of its probe for a classifier."""
    against = "linear" if metric == "classifier" else metric
    mine = values.get((group, "student", metric), {})
    untrained = values.get((untrained_group(group), "student", against), {})
    return [mine[seed] - untrained[seed] for seed in sorted(mine.keys() & untrained.keys())]


def margin_verdict(gain: Sequence[float]) -> str:
    """Whether a row with a teacher is far enough above its untrained network."""
    if not gain:
        return ""
    mean = statistics.mean(gain)
    if mean < MARGIN_POINTS:
        return f"below the margin of {MARGIN_POINTS:g}"
    if len(gain) < 2:
        return f"above {MARGIN_POINTS:g}, one seed"
    spread = statistics.stdev(gain)
    enough = mean >= MARGIN_SPREADS * spread
    return "holds" if enough else f"below {MARGIN_SPREADS:g} spreads"


# --------------------------------------------------------------------------- tables


def make_tables(records: Records, *, missing_of: Sequence[str], student: str) -> str:
    """All tables as Markdown; what is missing is named above them."""
    values = collect(records)
    missing = [name for name in missing_of if name not in {r["cell"] for r in records}]
    parts = []
    if missing:
        parts.append(
            f"**{len(missing_of) - len(missing)} of {len(missing_of)} cells have run.** "
            f"The tables are of these; missing, by seed: {_by_seed(missing)}."
        )
    others = sorted({r["group"].partition(" ")[2] for r in records if r["command"] == "distill"})
    for name in filter(None, others):
        parts.append(_label_free(values, suffix=f" {name}", title=f"Student: {name}"))
    parts.insert(1 if missing else 0, _label_free(values, suffix="", title=f"Student: {student}"))
    parts += [
        _labelled(values),
        _own_teachers(values),
        _transfer(values),
        _shipped(values),
        _relations(values),
    ]
    return "\n\n".join(filter(None, parts))


def _by_seed(names: Sequence[str]) -> str:
    """Cells by row: `moco 1, 2; seed 2`."""
    seeds: dict[str, list[str]] = {}
    for name in names:
        group, _, seed = name.rpartition("/")
        seeds.setdefault(group, []).append(seed)
    return "; ".join(f"{group} {', '.join(of_group)}" for group, of_group in seeds.items())


def _label_free(values: Values, *, suffix: str, title: str) -> str:
    rows = [*LEVELS, *LABEL_FREE, *VARIANTS, "supervised", "teacher"]
    body = [
        _row(values, group if group in ("teacher", "pixels") else group + suffix, group, gain=True)
        for group in rows
    ]
    return _table(
        f"{title}. No label in training but for the row that says so",
        ("row", *_HEADINGS, "linear above untrained", "seeds", "margin"),
        body,
    )


def _row(values: Values, group: str, name: str, *, gain: bool) -> list[str] | None:
    found = values.get((group, "student", "linear"))
    if not found:
        return None
    cells = [_shown(values, group, metric) for metric in _METRICS]
    if not gain:
        return [_NAMES.get(name, f"`{name}`"), *cells, str(len(found))]
    is_level = name in (*LEVELS, "teacher") or name.endswith("-untrained")
    above = [] if is_level else gains(values, group, "linear")
    return [
        _NAMES.get(name, f"`{name}`"),
        *cells,
        plus_minus(above, sign=True) if above else "",
        str(len(found)),
        margin_verdict(above) if name in TAUGHT else "",
    ]


_NAMES = {
    "pixels": "no network: the photo as 16 x 16 pixels",
    "untrained": "**untrained**",
    "untrained-statistics": "untrained, but for statistics of batch norm",
    "supervised": "supervised, all labels",
    "teacher": "teacher: EfficientNet-Lite0, ImageNet (labels), frozen",
    "regress-long": "`regress`, twice the photos seen",
    "regress-k1": "`regress`, one crop of each photo (a cache with K = 1)",
    "few-labels": "labels alone, 10 % of them",
    "few-labels-teacher": "teacher with 10 % of the labels",
    "classifier-teacher": "teacher with all labels",
    "crd-labelled": "`crd` with labels",
    "ssl-teacher": "SSL teacher (SimCLR), no label anywhere",
    "regress-ssl": "`regress` from the SSL teacher",
    "seed-ssl": "`seed` from the SSL teacher",
    "ssl-untrained": "**the SSL teacher's network, untrained**",
    "esvit-untrained": "**EsViT's network, untrained**",
    "esvit-teacher": "EsViT teacher (views and regions)",
    "esvit-view-teacher": "EsViT teacher, views alone",
    "rob": "`rob` from the EsViT teacher",
}


def _labelled(values: Values) -> str:
    body = []
    for group in LABELLED:
        found = values.get((group, "student", "classifier"))
        if found:
            above = gains(values, group, "classifier") if "teacher" not in group else []
            body.append(
                [
                    _NAMES.get(group, f"`{group}`"), _shown(values, group, "classifier"),
                    _shown(values, group, "linear"), _shown(values, group, "knn-20"),
                    plus_minus(above, sign=True) if above else "", str(len(found)),
                ]
            )  # fmt: skip
    return _table(
        "With labels: the network's own classifier",
        ("row", "top-1", "linear probe", "kNN-20", "above untrained (its probe)", "seeds"),
        body,
    )


def _own_teachers(values: Values) -> str:
    groups = (
        "ssl-untrained", "ssl-teacher", "regress-ssl", "seed-ssl", "esvit-untrained",
        "esvit-teacher", "esvit-view-teacher", "rob",
    )  # fmt: skip
    if not any(
        (group, "student", "linear") in values for group in groups if "untrained" not in group
    ):
        return ""
    body = [_row(values, group, group, gain=True) for group in groups]
    return _table(
        "Teachers made from the same photos without any label",
        ("row", *_HEADINGS, "linear above untrained", "seeds", "margin"),
        body,
    )


def _transfer(values: Values) -> str:
    body = []
    for group in (*LEVELS, *LABEL_FREE, *VARIANTS, "supervised", "teacher"):
        found = values.get((group, "student", _TRANSFER[0]))
        if found:
            cells = [_shown(values, group, metric) for metric in _TRANSFER]
            body.append([_NAMES.get(group, f"`{group}`"), *cells, str(len(found))])
    return _table(
        "The same networks on photos that nobody trained on",
        ("row", "Fashion-MNIST kNN-20", "linear", "digits kNN-20", "linear", "seeds"),
        body,
    )


def _shipped(values: Values) -> str:
    """One line from the teacher to what runs on the device."""
    found = values.get(("int8", "student", "int8 top1"))
    if not found:
        return ""
    alone = max(("moco", "simclr"), key=lambda group: _mean(values, group, "linear"))
    cells = [
        *(_shown(values, group, "linear") for group in ("teacher", "untrained", alone, "queue-kl")),
        *(_shown(values, "int8", f"int8 {name}") for name in ("float_top1", "top1", "agreement")),
        str(len(found)),
    ]
    return _table(
        "From teacher to int8 (linear probe as classifier; the last three on 1,000 test photos)",
        (
            "teacher", "untrained", f"SSL alone (`{alone}`)", "distilled (`queue-kl`)",
            "the same in float", "in int8", "agreement of int8", "seeds",
        ),
        [cells],
    )  # fmt: skip


def _mean(values: Values, group: str, metric: str) -> float:
    found = values.get((group, "student", metric), {})
    return statistics.mean(found.values()) if found else -math.inf


def _relations(values: Values) -> str:
    body = []
    for relation in RELATIONS:
        judged = judge(relation, values)
        if judged is None:
            continue
        better, worse = (
            plus_minus(gains(values, group, relation.metric), sign=True)
            for group in (relation.better, relation.worse)
        )
        difference = judged["difference_points"]
        body.append(
            [
                relation.claim, relation.metric, better, worse,
                plus_minus(difference["values"], sign=True), str(difference["n"]),
                judged["verdict"],
            ]
        )  # fmt: skip
    return _table(
        "What the papers say, as points above the same network untrained",
        ("relation", "by", "first", "second", "difference", "seeds", "verdict"),
        body,
    )


def _table(title: str, headings: Sequence[str], rows: Sequence[Sequence[str] | None]) -> str:
    body = [f"| {' | '.join(row)} |" for row in rows if row is not None]
    if not body:
        return ""
    return "\n".join(
        [f"{title}:", "", f"| {' | '.join(headings)} |", "|---" * len(headings) + "|", *body]
    )


def _shown(values: Values, group: str, metric: str) -> str:
    return plus_minus(list(values.get((group, "student", metric), {}).values()))


def plus_minus(values: Sequence[float], *, sign: bool = False) -> str:
    """Mean ± standard deviation over seeds, the latter from two seeds on."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):{'+' if sign else ''}.1f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.1f}"


BEGIN, END = "<!-- tables of proof.py: begin -->", "<!-- tables of proof.py: end -->"


def insert(path: Path, tables: str) -> None:
    """Puts the tables between the marks of a page; the rest of it stays.

    Raises:
        SystemExit: If the page has no marks.
    """
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no place for tables: add the lines {BEGIN} and {END}")
    write_text(path, f"{before}{begin}\n\n{tables}\n\n{end}{after}")


# --------------------------------------------------------------------------- results


def write_results(
    path: Path, *, preset: Mapping[str, Any], photos: Mapping[str, Any], records: Records,
    missing: Sequence[str],
) -> None:  # fmt: skip
    """Everything that the numbers depend on, beside them."""
    values = collect(records)
    judged = [judge(relation, values) for relation in RELATIONS]
    write_json(
        path,
        {
            "benchmark": "proof",
            "is_complete": not missing,
            "missing_cells": list(missing),
            "margin": {"linear_points": MARGIN_POINTS, "spreads": MARGIN_SPREADS},
            "settings": dict(preset),
            "photos": dict(photos),
            "report_environment": environment(),
            "relations": [_finite(found) for found in judged if found is not None],
            "rows": [
                {
                    "group": group, "metric": metric, "unit": "%",
                    **_finite(summary(by_seed.values())),
                    "values": {str(seed): value for seed, value in sorted(by_seed.items())},
                }
                for (group, _, metric), by_seed in sorted(values.items())
            ],
            "cells": list(records),
        },
    )  # fmt: skip


def _finite(value: Any) -> Any:
    """JSON has no NaN: the spread of one seed is null."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


# --------------------------------------------------------------------------- curves


def draw_curves(path: Path, records: Records) -> None:
    """Draws kNN accuracy against photos seen, the untrained level as a line; an SVG file."""
    groups = (*LABEL_FREE, *VARIANTS, "regress-ssl", "seed-ssl", "rob", "kd", "crd-labelled")
    lines = []
    for number, group in enumerate(groups):
        runs = [r["curve"] for r in records if r["group"] == group and r["curve"]]
        for index, curve in enumerate(runs):
            points = [
                (point["photos_seen"] / 1000, point["knn_percent"])
                for point in curve
                if "knn_percent" in point
            ]
            label = group if index == 0 else ""
            # Eight colours: the ninth group is the first colour again, dashed.
            css = f"s{number % 8}"
            lines.append(Line(label=label, points=points, css=css, dashed=number >= 8))
    lines = [line for line in lines if line.points]
    levels = [
        r["metrics"]["monitor knn-20"]
        for r in records
        if r["group"] == "untrained" and "monitor knn-20" in r["metrics"]
    ]
    if levels:
        level = statistics.mean(levels)
        end = max((x for line in lines for x, _ in line.points), default=1.0)
        points = [(0.0, level), (end, level)]
        lines.append(Line(label="untrained", points=points, css="s7", dashed=True))
    picture = line_plot(
        lines,
        width=880,
        height=480,
        title="kNN accuracy against photos seen",
        description=f"{len(lines)} lines",
        x_label="photos seen in training, thousands",
        y_label="kNN-20 top-1 on 1,000 photos, %",
    )
    write_svg(path, picture)
