"""The page that the quickstart ends with."""

import json
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from edgeseed.core.bundle import GateResult
from edgeseed.core.files import readable_size
from edgeseed.core.line_plot import Line, line_plot
from edgeseed.core.svg import Scale, Svg, number
from edgeseed.distill.evaluation.baseline import BaselineMetric
from edgeseed.distill.evaluation.metric import Metric
from edgeseed.quickstart_result import (
    QuickstartResult,
    Shipped,
    Trained,
    commands_for_own_photos,
    p90_ms,
)
from edgeseed.runtime import Comparison
from edgeseed.runtime.report import page
from edgeseed.runtime.report.comparison import SECTIONS
from edgeseed.runtime.report.page import Cell, Section

_LANE = 54


def write_report(result: QuickstartResult, comparison: Comparison, *, curves: Path) -> None:
    """Writes the page: one file that loads nothing.

    Args:
        result: What was found; `result.report` is where the page goes.
        comparison: Of the bundles that were measured.
        curves: The distillation's metrics.jsonl.
    """
    rows = [row for group in comparison.groups for row in group.rows]
    colours = {row.label: index for index, row in enumerate(rows)}
    found = result.student.evaluation
    markup = page.render_page(
        title="edgeseed quickstart",
        lead=_lead(result),
        sections=[
            _accuracies(result),
            _learning(curves),
            _bundles(result),
            *(section(comparison, colours) for section in SECTIONS),
            _commands(result),
        ],
        foot=f"edgeseed {found.environment['edgeseed']}, commit "
        f"{found.environment['commit'] or 'unknown'}, {found.environment['cpu']}, "
        f"{found.environment['cores']} cores; seed {result.seed}; {result.seconds:.0f} s in all. "
        "Digits are small and easy: these figures show that the stages work, and nothing of how "
        "another set of photos will do.",
    )
    page.write_page(result.report, markup)


def _lead(result: QuickstartResult) -> str:
    student, alone = (_best(item) for item in (result.student, result.alone))
    untrained = _untrained(result, "linear").mean_percent
    fp32, int8 = (_named(result, name) for name in ("onnx-fp32", "onnx-int8"))
    share = int8.exported.size_bytes / fp32.exported.size_bytes
    return (
        f"The distilled student reads {student.top1_percent:.1f} % of {student.n} unseen digits "
        f"right by a linear probe, {_against(student, untrained)} the same network untrained and "
        f"{_against(student, alone.top1_percent)} the same network that trained for as long "
        f"without a teacher. In int8 it takes {share:.0%} of the bytes and "
        f"decides as the float model on {_agreement(int8)}."
    )


def _against(metric: Metric, level: float) -> str:
    difference = metric.top1_percent - level
    return f"{abs(difference):.1f} points {'above' if difference > 0 else 'below'}"


def _untrained(result: QuickstartResult, name: str) -> BaselineMetric:
    baseline = result.student.evaluation.baseline
    found = None if baseline is None else baseline.metric(name)
    assert found is not None
    return found


def _best(trained: Trained) -> Metric:
    return trained.evaluation.metric("linear")


def _named(result: QuickstartResult, name: str) -> Shipped:
    return next(item for item in result.bundles if item.name == name)


def _agreement(shipped: Shipped) -> str:
    gate = next(gate for gate in shipped.verified.gates if "agreement" in gate.name)
    return f"{gate.value:.1%} of {gate.n} photos that it was not calibrated on"


# --------------------------------------------------------------------------- accuracy


def _accuracies(result: QuickstartResult) -> Section:
    trained = (result.student, result.alone, result.teacher)
    level = _untrained(result, "linear").mean_percent
    names = [metric.name for metric in result.student.evaluation.metrics]
    rows: list[list[Cell | str]] = [
        [
            Cell(text=item.what, detail=f"{item.epochs} epochs", css=f"s{index}"),
            *(_metric_cell(item.evaluation.metric(name)) for name in names),
            f"{item.seconds:.0f} s",
        ]
        for index, item in enumerate(trained)
    ]
    rows.insert(2, _untrained_row(result, names))
    table = page.table(
        ("", *names, "training"), rows, caption="Accuracy of frozen features on unseen digits"
    )
    caption = (
        "Dot: top-1 of a linear probe on frozen features. Bar: 95 % interval from the number of "
        "test photos alone; benchmarks/results has the spread over seeds. Dashed: the same network "
        "untrained."
    )
    return Section(
        title="What the teacher is worth",
        lead=_worth(result),
        markup=page.figure(lambda width: _dots(trained, level, width), caption=caption) + table,
    )


def _worth(result: QuickstartResult) -> str:
    """What came of training, each way, above the network that it started from."""
    names = [metric.name for metric in result.student.evaluation.metrics]
    student, alone = (
        ", ".join(f"{_gain(result, item, name):+.1f}" for name in names)
        for item in (result.student, result.alone)
    )
    return (
        "The student and its twin are the same network on the same photos for the same time; one "
        "of them had a teacher. No label was used in training any of the three. The same network "
        "untrained is the level that both have to rise above: on digits, features of random "
        f"weights go far. With the teacher it rose by {student} points ({', '.join(names)}), alone "
        f"by {alone}."
    )


def _gain(result: QuickstartResult, trained: Trained, name: str) -> float:
    """Points above the network untrained."""
    top1 = trained.evaluation.metric(name).top1_percent
    return top1 - _untrained(result, name).mean_percent


def _untrained_row(result: QuickstartResult, names: Sequence[str]) -> list[Cell | str]:
    baseline = result.student.evaluation.baseline
    assert baseline is not None
    cells: list[Cell | str] = []
    for name in names:
        metric = _untrained(result, name)
        spread = "" if metric.sd_percent is None else f"± {metric.sd_percent:.1f} over seeds"
        cells.append(Cell(text=f"{metric.mean_percent:.1f} %", detail=spread))
    count = len(baseline.seeds)
    head = Cell(
        text=f"{baseline.network}, untrained", detail=f"{count} seed{'s' if count > 1 else ''}"
    )
    return [head, *cells, "none"]


def _metric_cell(metric: Metric) -> Cell:
    spread = 1.96 * metric.standard_error_percent
    return Cell(text=f"{metric.top1_percent:.1f} %", detail=f"± {spread:.1f}, n={metric.n}")


def _dots(trained: tuple[Trained, ...], level: float, width: int) -> Svg:
    metrics = [_best(item) for item in trained]
    spans = [1.96 * metric.standard_error_percent for metric in metrics]
    low = min(level, *(m.top1_percent - span for m, span in zip(metrics, spans, strict=True)))
    svg = Svg(
        width,
        24 + _LANE * len(trained) + 40,
        title="Linear-probe accuracy",
        description="; ".join(
            f"{item.what}: {metric.top1_percent:.1f} %"
            for item, metric in zip(trained, metrics, strict=True)
        )
        + f"; untrained: {level:.1f} %",
    )
    scale = Scale(max(0.0, low - 3), 100.0, 12, width - 12)
    bottom = svg.height - 40
    for tick in scale.ticks(max(3, width // 120)):
        svg.line(scale(tick), 12, scale(tick), bottom, css="grid")
        svg.text(scale(tick), bottom + 17, f"{tick:g} %", anchor="middle")
    svg.line(scale(level), 12, scale(level), bottom, css="limit")
    for index, (item, metric, span) in enumerate(zip(trained, metrics, spans, strict=True)):
        y = 24 + _LANE * index + 30
        value, css = metric.top1_percent, f"s{index}"
        svg.text(12, y - 14, item.what, css="name")
        svg.line(scale(value - span), y, scale(min(100.0, value + span)), y, css=f"whisker {css}")
        svg.add("circle", cx=scale(value), cy=y, r=6, css=f"dot {css}")
        svg.text(scale(value), y + 20, f"{value:.1f} %", anchor="middle", css="value")
    return svg


# --------------------------------------------------------------------------- learning


def _learning(curves: Path) -> Section:
    lines = [json.loads(line) for line in curves.read_text(encoding="utf-8").splitlines()]
    points = [
        (float(line["epoch"]), float(line["loss"]))
        for line in lines
        if line.get("loss") is not None and line.get("epoch") is not None
    ]
    return Section(
        title="Did it learn?",
        lead="The distance between what the student says and what the teacher says; zero would be "
        "a student that is its teacher.",
        markup=page.figure(
            lambda width: _curve(points, width), caption="Loss of the distillation, by epoch."
        ),
    )


def _curve(points: list[tuple[float, float]], width: int) -> Svg:
    first, last = points[0][1], points[-1][1]
    return line_plot(
        [Line(label="loss", points=points, css="s0")],
        width=width,
        height=260,
        title="Distillation loss",
        description=f"from {first:.3f} to {last:.3f} in {len(points)} epochs",
        x_label="epoch",
        y_label="loss",
        from_zero=True,
    )


# --------------------------------------------------------------------------- bundles


def _bundles(result: QuickstartResult) -> Section:
    rows: list[list[Cell | str]] = [
        [
            Cell(text=item.name, detail=f"run by {item.verified.runner}"),
            readable_size(item.exported.size_bytes),
            _gate_cell(item),
            "not measured here" if item.result is None else _latency(item),
        ]
        for item in result.bundles
    ]
    gates = Markup().join(
        page.heading(item.name)
        + page.table(
            ("gate", "value", "limit", "n"),
            [_gate_row(gate) for gate in item.verified.gates],
            caption=f"Gates of {item.name}",
        )
        for item in result.bundles
    )
    head = ("bundle", "model", "closeness to the float student", "p90")
    return Section(
        title="What ships",
        lead="Each bundle was verified from its own files, against the student in PyTorch. Core ML "
        "ran in edgeseed's reference interpreter of its graph, which is not a device: on an iPhone "
        "it has not been run.",
        markup=page.table(head, rows, caption="Bundles") + page.folded("All gates", gates),
    )


def _latency(item: Shipped) -> str:
    assert item.result is not None
    return f"{number(p90_ms(item.result))} ms"


def _gate_cell(item: Shipped) -> Cell:
    gates = {gate.name: gate for gate in item.verified.gates}
    for word in ("agreement", "parity"):
        for name, gate in gates.items():
            if word in name:
                shown = f"{gate.value:.1%}" if word == "agreement" else f"{gate.value:.1e}"
                return Cell(text=shown, detail=f"{name}, n={gate.n}")
    return Cell(text="–")


def _gate_row(gate: GateResult) -> list[Cell | str]:
    mark = "good" if gate.passed else "bad"
    return [
        Cell(text=gate.name, detail=gate.detail),
        Cell(text=f"{gate.value:.4g} {gate.unit}", css=mark),
        f"{gate.limit:.4g}",
        str(gate.n),
    ]


def _commands(result: QuickstartResult) -> Section:
    return Section(
        title="Now with your photos",
        lead="These are the commands that ran, and below them the same for a folder of your own.",
        markup=page.code("\n".join(result.commands))
        + page.heading("On your own photos")
        + page.code("\n".join(commands_for_own_photos())),
    )
