"""The page of `edgeseed compare --html`."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from markupsafe import Markup

from edgeseed.core.svg import number
from edgeseed.runtime.accuracy import Accuracy, Share
from edgeseed.runtime.ranking import (
    MIN_BETWEEN_RUNS,
    MIN_DIFFERENCE,
    MIN_REPEATS,
    OTHER_PHOTOS,
    Comparison,
    Group,
    Headline,
    Row,
    headline_estimate,
    is_disturbed,
    photo_set,
)
from edgeseed.runtime.report import charts, page
from edgeseed.runtime.report.charts import Series, TimeUnit
from edgeseed.runtime.report.page import Cell, Section
from edgeseed.runtime.result import Result
from edgeseed.runtime.summary import NS_PER_MS, Estimate
from edgeseed.runtime.validity import MAX_DRIFT

MB = 1e6
NONE = "–"

Colours = dict[str, int]


def write_comparison(comparison: Comparison, path: str | Path) -> None:
    """Write the page: one file that loads nothing."""
    page.write_page(path, render_comparison(comparison))


def render_comparison(comparison: Comparison) -> str:
    """The page as HTML."""
    rows = [row for group in comparison.groups for row in group.rows]
    colours = {row.label: number for number, row in enumerate(rows)}
    newest = max(row.result.measured_at for row in rows)
    environment = rows[0].result.environment
    return page.render_page(
        title=f"Latency of {rows[0].label}" if len(rows) == 1 else f"{len(rows)} results compared",
        lead=_lead(comparison),
        sections=[section(comparison, colours) for section in SECTIONS],
        foot=f"edgeseed {environment['edgeseed']}, commit {environment['commit'] or 'unknown'}; "
        f"newest measurement {newest}. Every figure is of the machine, the engine and the "
        "versions above, and of no other.",
    )


# --------------------------------------------------------------------------- the answer


def _lead(comparison: Comparison) -> str:
    group = comparison.groups[0]
    best = group.rows[0]
    if not best.result.valid:
        return f"No result here is valid. {best.label}: {best.result.reasons[0].message}."
    share = _SHARES[group.headline]
    sentences = [
        f"With {best.label}, {share} {_time(best, group)} on "
        f"{_machine_name(best.result)}{_against_first(best, group)}."
    ]
    sentences += _quality_sentence(best)
    results = [row.result for group in comparison.groups for row in group.rows]
    if disturbed := sum(is_disturbed(result) for result in results):
        sentences.append(
            f"Other work kept the machine busy during {disturbed} of {len(results)} results, so "
            "that p50 is compared: the slow runs are the neighbours'."
        )
    if invalid := sum(not result.valid for result in results):
        sentences.append(f"Not valid, and not ranked: {invalid} of {len(results)} results.")
    if len(comparison.groups) > 1:
        sentences.append(
            f"The results are of {len(comparison.groups)} machines or protocols; only those "
            "measured alike are ranked with each other."
        )
    return " ".join(sentences)


_SHARES: dict[Headline, str] = {
    "p90": "nine of ten images take at most",
    "p50": "half of the images take at most",
    "mean": "an image takes on average",
}


def _time(row: Row, group: Group) -> str:
    estimate = headline_estimate(row.result, group.headline)
    text = TimeUnit.fitting(estimate.value).estimate(estimate)
    return text.replace("(", "(95 % interval ")


def _unit(group: Group) -> TimeUnit:
    return TimeUnit.fitting(
        max(headline_estimate(row.result, group.headline).value for row in group.rows)
    )


def _against_first(best: Row, group: Group) -> str:
    first = next(row for row in group.rows if row.result is group.first)
    if best is first:
        others = [row for row in group.rows if row is not first and row.result.valid]
        if not others:
            return ""
        if others[0].verdict == "indistinguishable":
            return f", which is indistinguishable from {others[0].label}"
        return f", the fastest of {1 + len(others)}; next is {others[0].label}"
    if best.verdict == "indistinguishable":
        return f", which is indistinguishable from {first.label}"
    times = 1 / best.ratio.value
    return f", {number(times, digits=2)} times as fast as {first.label}"


def _quality_sentence(best: Row) -> Iterator[str]:
    accuracy = best.result.accuracy
    if accuracy is None:
        return
    if accuracy.agreement is not None:
        yield (
            f"It gives the float student's answer on {_percent(accuracy.agreement)} of "
            f"{accuracy.n} photos."
        )
    if accuracy.top1 is not None and accuracy.float_top1 is not None:
        yield (
            f"It is right on {_percent(accuracy.top1)}, the float student on "
            f"{_percent(accuracy.float_top1)}."
        )


def _machine_name(result: Result) -> str:
    machine = result.device.machine
    return machine.model or machine.cpu


# --------------------------------------------------------------------------- sections


def _per_group(comparison: Comparison, render: Callable[[Group], Markup]) -> Markup:
    """One group's markup, or every group's under its own heading."""
    if len(comparison.groups) == 1:
        return render(comparison.groups[0])
    return Markup().join(
        page.heading(f"Protocol {group.title}") + render(group) for group in comparison.groups
    )


def _results(comparison: Comparison, colours: Colours) -> Section:
    def render(group: Group) -> Markup:
        times = f"{group.headline} × the first"
        head = ("", "p50", "p90", "p99", times, "top-1", "agreement")
        rows = [_result_cells(row, group, colours) for row in group.rows]
        return page.table(head, rows, caption=group.title) + page.notes(_remarks(group))

    lead = f"Protocol {comparison.groups[0].title}. " if len(comparison.groups) == 1 else ""
    lead += "Small print below a figure is its 95 % interval, and below a share how many photos."
    if comparison.photos and comparison.same_photos:
        lead += f" {_sentence(comparison.photos_text())}"
    return Section(
        title="Results",
        lead=lead,
        markup=_per_group(comparison, render) + page.notes(_photo_remarks(comparison)),
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def _photo_remarks(comparison: Comparison) -> list[Cell]:
    """Where the accuracies are of different photos: that they are, and which mark means which."""
    if comparison.same_photos:
        return []
    sets = "; ".join(f"{mark} {text}" for mark, text in comparison.photos.items())
    warning = f"They are {OTHER_PHOTOS}. {sets}."
    return [Cell(text="top-1 and agreement.", detail=warning, css="flag")]


def _result_cells(row: Row, group: Group, colours: Colours) -> list[Cell | str]:
    accuracy = row.result.accuracy
    unit = _unit(group)
    engine = row.result.engine
    threads = "1 thread" if engine.threads == 1 else f"{engine.threads} threads"
    what = f"{row.result.bundle.precision}, {threads}, {row.result.num_runs:,} runs"
    return [
        Cell(text=row.label, detail=what, css=f"s{colours[row.label] % charts.COLOURS}"),
        *_latency_cells(row.result, unit),
        _verdict_cell(row),
        _share_cell(None if accuracy is None else accuracy.top1, row.photos),
        _share_cell(None if accuracy is None else accuracy.agreement, row.photos),
    ]


def _latency_cells(result: Result, unit: TimeUnit) -> list[Cell]:
    if result.latency is None:
        mean = TimeUnit.fitting(result.mean_ms).format(result.mean_ms)
        return [
            Cell(text=NONE),
            Cell(text=f"mean {mean}", detail="spread unknown"),
            Cell(text=NONE),
        ]
    latency = result.latency
    return [_estimate_cell(each, unit) for each in (latency.p50, latency.p90, latency.p99)]


def _estimate_cell(estimate: Estimate, unit: TimeUnit) -> Cell:
    value, _, interval = unit.estimate(estimate).partition(" (")
    return Cell(text=value, detail=interval.rstrip(")"))


def _verdict_cell(row: Row) -> Cell:
    if not row.result.valid:
        return Cell(text="not valid", detail="not ranked", css="bad")
    if row.verdict == "first":
        return Cell(text="1", detail="first")
    css = {"faster": "good", "slower": "bad"}.get(row.verdict, "")
    return Cell(text=f"{row.ratio.value:.2f}", detail=row.verdict, css=css)


def _share_cell(share: Share | None, mark: str) -> Cell:
    if share is None:
        return Cell(text=NONE)
    return Cell(
        text=f"{_percent(share)} {mark}".rstrip(),
        detail=f"{100 * share.low:.1f} … {100 * share.high:.1f}, n={share.n:,}",
    )


def _percent(share: Share) -> str:
    return f"{100 * share.value:.1f} %"


def _remarks(group: Group) -> list[Cell]:
    return [
        Cell(
            text=f"{row.label}: {'not valid, ' if reason.invalidates else ''}{reason.code}.",
            detail=_sentence(reason.message),
            css="bad" if reason.invalidates else "flag",
        )
        for row in group.rows
        for reason in row.result.reasons
    ]


NO_SAMPLES = "Not drawn: the runner keeps no samples."


def _distributions(comparison: Comparison, colours: Colours) -> Section:
    def render(group: Group) -> Markup:
        unit, series = _series(group, colours)
        if not series:
            return page.paragraph(NO_SAMPLES)
        caption = "Hill: how often each latency occurred. Upright line: p50. Dot: p90, "
        caption += "with a bar for its 95 % interval. Short tick: p99."
        if out := charts.beyond(series):
            slowest = max(item.summary.max for item in series)
            total = sum(item.samples.size for item in series)
            caption += f" {out:,} of {total:,} runs were slower than the picture shows, up to "
            caption += f"{number(slowest)} {unit.name}."
        return page.figure(charts.ridgeline(series, unit=unit), caption=caption)

    return Section(
        title="How long one image takes",
        lead="A narrow hill is a model that an app can count on; a second hill or a long foot is "
        "something that interrupts it.",
        markup=_per_group(comparison, render),
    )


def _tails(comparison: Comparison, colours: Colours) -> Section:
    def render(group: Group) -> Markup:
        unit, series = _series(group, colours)
        if not series:
            return page.paragraph(NO_SAMPLES)
        caption = "Read at “1 in 100”: one run in a hundred took longer than the line's height. "
        caption += "Each line ends where fewer than five runs are left to judge by."
        return page.figure(charts.tail(series, unit=unit), caption=caption)

    return Section(
        title="The slow runs",
        lead="A mean hides them, a user does not miss them: what one frame in ten, in a hundred, "
        "in a thousand costs.",
        markup=_per_group(comparison, render),
    )


def _timelines(comparison: Comparison, colours: Colours) -> Section:
    def render(group: Group) -> Markup:
        unit, series = _series(group, colours)
        if not series:
            return page.paragraph(NO_SAMPLES)
        caption = f"Line: median of each stretch of the run, in {unit.name}. Band: p10 to p90. "
        caption += f"Dashed: {MAX_DRIFT} times the start; a run that ends above it does not count, "
        caption += "unless the protocol is sustained, which is there to show it."
        draw = charts.timeline(series, unit=unit, max_drift=MAX_DRIFT)
        return page.figure(draw, caption=caption)

    return Section(
        title="In the course of the run",
        lead="A line that climbs is a device that heats up, or a neighbour that woke.",
        markup=_per_group(comparison, render),
    )


def _layers(comparison: Comparison, colours: Colours) -> Section:
    rows = [row for group in comparison.groups for row in group.rows]
    timed = [row for row in rows if row.result.layers is not None]
    untold = [row.label for row in rows if row.result.layers is None]
    markup = _kinds_table(timed, colours) if timed else Markup()
    for row in timed:
        slowest = charts.bars(_layer_bars(row, colours), title=f"Slowest layers of {row.label}")
        markup += page.heading(row.label) + page.figure(slowest, caption=_layer_caption(row))
    if untold:
        markup += page.paragraph(f"Not told by the engine: {', '.join(untold)}.")
    return Section(
        title="Where the time goes",
        lead="Layers as the engine runs them, after its fusions. They are timed in runs of their "
        "own, which looking at the clock makes slower: the shares count, not the sums.",
        markup=markup,
    )


_KINDS, _SLOWEST = 8, 8


def _kinds_table(rows: list[Row], colours: Colours) -> Markup:
    """Each result's share of time by kind of layer, the largest first."""
    shares = [_shares_by_kind(row.result) for row in rows]
    totals: dict[str, float] = {}
    for share in shares:
        for kind, value in share.items():
            totals[kind] = totals.get(kind, 0.0) + value
    kinds = sorted(totals, key=lambda kind: -totals[kind])[:_KINDS]
    body: list[list[Cell | str]] = []
    for row, share in zip(rows, shares, strict=True):
        others = sum(value for kind, value in share.items() if kind not in kinds)
        cells = [f"{100 * share[kind]:.0f} %" if kind in share else NONE for kind in kinds]
        name = Cell(text=row.label, css=f"s{colours[row.label] % charts.COLOURS}")
        body.append([name, *cells, f"{100 * others:.0f} %"])
    return page.table(["", *kinds, "others"], body, caption="Share of time by kind of layer")


def _shares_by_kind(result: Result) -> dict[str, float]:
    assert result.layers is not None
    spent: dict[str, int] = {}
    for layer in result.layers.layers:
        spent[layer.kind] = spent.get(layer.kind, 0) + layer.mean_ns
    return {kind: ns / sum(spent.values()) for kind, ns in spent.items()}


def _layer_bars(row: Row, colours: Colours) -> list[charts.Bar]:
    assert row.result.layers is not None
    layers = row.result.layers.layers
    total = sum(layer.mean_ns for layer in layers)
    slowest = sorted(layers, key=lambda layer: -layer.mean_ns)[:_SLOWEST]
    return [
        charts.Bar(
            label=f"{layer.name} ({layer.kind}, {layer.unit})",
            colour=colours[row.label],
            value=layer.mean_ns / NS_PER_MS,
            text=f"{TimeUnit.fitting(layer.mean_ns / NS_PER_MS).format(layer.mean_ns / NS_PER_MS)}"
            f", {100 * layer.mean_ns / total:.0f} %",
        )
        for layer in slowest
    ]


def _layer_caption(row: Row) -> str:
    layers = row.result.layers
    assert layers is not None
    shown = sorted((layer.mean_ns for layer in layers.layers), reverse=True)
    share = sum(shown[:_SLOWEST]) / sum(shown)
    run_ms = layers.run_ns / NS_PER_MS
    each = TimeUnit.fitting(run_ms).format(run_ms)
    return (
        f"The slowest of {len(layers.layers)} layers that took time, with {100 * share:.0f} % of "
        f"it; means of {layers.runs} runs, which took {each} each."
    )


def _tradeoffs(comparison: Comparison, colours: Colours) -> Section:
    def render(group: Group) -> Markup:
        quality, points = _points(group, colours)
        if not points:
            return page.paragraph(
                "No result here has an accuracy: profile with --data to run photos."
            )
        if len({row.photos for row in group.rows if photo_set(row.result) is not None}) > 1:
            return page.paragraph(f"Not drawn: the accuracies are {OTHER_PHOTOS}.")
        caption = "A disc's area is the model's size on disk, its cross the 95 % intervals. "
        caption += "Dotted: what no other model here beats in both."
        draw = charts.tradeoff(
            points, unit=_unit(group), quality=quality, percentile=group.headline
        )
        return page.figure(draw, caption=caption)

    return Section(
        title="Quality, latency and size",
        lead="Up is better, left is faster, small is easier to ship.",
        markup=_per_group(comparison, render),
    )


def _points(group: Group, colours: Colours) -> tuple[str, list[charts.Point]]:
    """Top-1 where every result has it, else agreement with the float student."""
    for quality in ("top-1", "agreement"):
        rows = [row for row in group.rows if _quality(row.result.accuracy, quality)]
        if rows and (len(rows) == len(group.rows) or quality == "agreement"):
            name = "top-1" if quality == "top-1" else "agreement with the float student"
            return name, [_point(row, quality, group, colours) for row in rows]
    return "", []


def _quality(accuracy: Accuracy | None, quality: str) -> Share | None:
    if accuracy is None:
        return None
    return accuracy.top1 if quality == "top-1" else accuracy.agreement


def _point(row: Row, quality: str, group: Group, colours: Colours) -> charts.Point:
    share = _quality(row.result.accuracy, quality)
    assert share is not None
    return charts.Point(
        label=row.label,
        colour=colours[row.label],
        latency=headline_estimate(row.result, group.headline).scaled(_unit(group).per_ms),
        quality=Estimate(value=share.value, low=share.low, high=share.high),
        size_mb=row.result.bundle.size_bytes / MB,
        valid=row.result.valid,
    )


def _costs(comparison: Comparison, colours: Colours) -> Section:
    rows = [row for group in comparison.groups for row in group.rows]
    head = ("", "size", "CPU time", "load", "first run", "engine's memory", "power")
    return Section(
        title="What it costs besides",
        lead="Load and first run are one measurement each, in a process of their own with the "
        "model's file in the system's cache.",
        markup=page.table(
            head, [_cost_cells(row, colours) for row in rows], caption="Size, start-up and memory"
        ),
    )


def _cost_cells(row: Row, colours: Colours) -> list[Cell | str]:
    result = row.result
    power = result.power
    energy = NONE
    if power is not None and result.energy_mj is not None:
        energy = f"{number(power.mean_w)} W, {number(result.energy_mj)} mJ an image"
    cpu = NONE if result.cpu_ms is None else TimeUnit.fitting(result.cpu_ms).format(result.cpu_ms)
    return [
        Cell(text=row.label, css=f"s{colours[row.label] % charts.COLOURS}"),
        f"{number(result.bundle.size_bytes / MB)} MB",
        Cell(text=cpu, detail="an image"),
        f"{number(result.load_ms)} ms",
        f"{number(result.first_run_ms)} ms",
        _memory_cell(result),
        Cell(text=energy, detail="not measurable here" if power is None else power.source),
    ]


def _memory_cell(result: Result) -> Cell:
    memory = result.memory
    if memory.peak_mib is None or memory.python_mib is None:
        return Cell(text=NONE)
    return Cell(
        text=f"{number(memory.peak_mib - memory.python_mib)} MiB",
        detail=f"peak {number(memory.peak_mib)}, Python {number(memory.python_mib)}",
    )


def _places(comparison: Comparison, colours: Colours) -> Section:
    rows = [row for group in comparison.groups for row in group.rows]
    facts = [(row, dict(_facts(row.result))) for row in rows]
    names = list(facts[0][1])
    body = [[Cell(text=name), *(Cell(text=values[name]) for _, values in facts)] for name in names]
    shared = [line for line in body if len({_text(cell) for cell in line[1:]}) == 1]
    differing = [line for line in body if len({_text(cell) for cell in line[1:]}) > 1]
    markup = page.table(
        ("", "every result" if len(rows) > 1 else rows[0].label),
        [line[:2] for line in shared],
        caption="What was the same for all results",
        css="prose",
    )
    if differing:
        markup += page.heading("Where they differ") + page.table(
            ("", *(row.label for row in rows)),
            differing,
            caption="What differed between the results",
            css="prose",
        )
    return Section(
        title="Where and how",
        lead="A latency is a fact about a machine on a day; this is the machine and the day.",
        markup=markup,
    )


def _text(cell: Cell | str) -> str:
    return cell.text if isinstance(cell, Cell) else cell


def _facts(result: Result) -> Iterator[tuple[str, str]]:
    machine, protocol = result.device.machine, result.protocol
    yield "device", f"{result.device.device} ({result.device.title})"
    yield "board or computer", machine.model or "not told"
    yield "processor", f"{machine.cpu}, {machine.architecture}"
    yield "cores", _cores(result)
    yield "processor's generation", _generation(result)
    yield "clock", _clock(result)
    yield "device's own tools", _state(result)
    yield "memory", NONE if machine.memory_mib is None else f"{machine.memory_mib / 1024:.1f} GiB"
    yield "isolation", _isolation(result)
    yield (
        "other work before",
        _load(result.load_before.other_cores, result.load_before.load_average),
    )
    yield (
        "other work during",
        _load(result.load_during.other_cores, result.load_during.load_average),
    )
    yield "temperature", _temperature(result)
    yield "power", result.power_unavailable or "measured, see above"
    yield "system", machine.system
    python = "" if machine.python is None else f", Python {machine.python}"
    yield "engine", f"{result.engine.name} {result.engine.version}{python}"
    yield "measured by", f"the {result.engine.runner} runner"
    yield "engine settings", _settings(result)
    yield "compute unit", _placement(result)
    yield (
        "protocol",
        f"{protocol.name}: at least {protocol.min_runs:,} runs and {protocol.min_seconds:g} s, "
        "one image after another",
    )
    warm = result.warm_up
    yield "warm-up", f"{warm.seconds:.1f} s, {_STEADY[warm.steady]}"
    yield "self-check", _golden(result)
    yield "photos", _photos(result.accuracy)
    yield "measured at", result.measured_at


_STEADY = {True: "steady", False: "not steady", None: "of a fixed length"}


def _cores(result: Result) -> str:
    machine = result.device.machine
    quota = "" if machine.cpu_quota is None else f", quota {machine.cpu_quota:g}"
    return f"{machine.usable_cores} of {machine.logical_cores} usable{quota}"


def _generation(result: Result) -> str:
    machine = result.device.machine
    sets = ", ".join(machine.instruction_sets) or "instruction sets not told"
    if machine.cpu_parts:
        return f"cores {', '.join(machine.cpu_parts)}; {sets}"
    if machine.cpu_family is None:
        return "not told"
    numbers = f"family {machine.cpu_family}, model {machine.cpu_model}"
    return f"{numbers}, stepping {machine.cpu_stepping}; {sets}"


def _state(result: Result) -> str:
    if result.state_before is None:
        return NONE
    facts = ", ".join(f"{name} {value}" for name, value in result.state_before.facts.items())
    limits = [
        limit
        for state in (result.state_before, result.state_after)
        if state is not None
        for limit in state.throttling
    ]
    return "; ".join([facts, *dict.fromkeys(limits)])


def _clock(result: Result) -> str:
    machine = result.device.machine
    if not machine.frequency_mhz:
        return "not told by this system"
    frequencies = sorted(machine.frequency_mhz.values())
    governors = ", ".join(machine.governors) or "unknown"
    return f"{frequencies[0]:.0f} to {frequencies[-1]:.0f} MHz, governor {governors}"


def _isolation(result: Result) -> str:
    machine = result.device.machine
    kinds = [machine.container] if machine.container else []
    if machine.virtual_machine:
        kinds.append("virtual machine")
    return " in a ".join(kinds) or "none seen"


def _load(cores: float | None, average: float | None) -> str:
    if cores is None:
        return "not told" if average is None else f"load average {average:.2f}"
    return f"{cores:.2f} cores"


def _temperature(result: Result) -> str:
    if result.thermals is None or not result.thermals.after.temperature_c:
        return "not told by this system"
    before = max(result.thermals.before.temperature_c.values(), default=float("nan"))
    after = max(result.thermals.after.temperature_c.values())
    return f"hottest sensor {before:.0f} °C before, {after:.0f} °C after"


def _settings(result: Result) -> str:
    return ", ".join(f"{name} {value}" for name, value in result.engine.settings.items()) or NONE


def _placement(result: Result) -> str:
    placement = result.placement
    share = "" if placement.share is None else f", {placement.share:.0%} of its nodes"
    told = ", which nodes ran where is not told by the engine" if placement.nodes is None else share
    return f"asked for {placement.requested}, ran on {placement.actual}{told}"


def _golden(result: Result) -> str:
    golden = result.golden
    if golden is None:
        return "none: the runner cannot compare outputs"
    worst = max(golden.relative_error.values())
    limit = f"limit {golden.tolerance:g}"
    if worst == 0:
        return f"{golden.n} golden photos, equal to the last bit ({limit})"
    return f"{golden.n} golden photos, off by at most {worst:.1e} of the largest value ({limit})"


def _photos(accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return "none"
    return f"{accuracy.n}: {accuracy.source}" + (f" ({accuracy.note})" if accuracy.note else "")


MEANINGS = (
    ("p50, p90, p99", "Half, nine tenths and 99 hundredths of the runs took at most this long. "
     "p90 is the headline, as in MLPerf Mobile: a mean hides the slow runs."),
    ("95 % interval", "How sure this run is of its own figure, from order statistics and widened "
     "for runs that are not independent of each other. Another day or another unit of the same "
     "device may differ by more: measure again before trusting a small difference."),
    ("× the first", "The figure divided by the first result's; below 1 is faster. It is of p90, or "
     "of p50 where other processes kept the machine busy during a run: there p90 is a fact about "
     "the neighbours. Two results are called indistinguishable when their intervals overlap or "
     f"they are less than {MIN_DIFFERENCE:.0%} apart, which two runs of one model are. Where each "
     f"bundle has {MIN_REPEATS} runs or more, the runs are compared, not the images in them: that "
     f"tells less apart, down to {MIN_BETWEEN_RUNS:.0%}. Only results of one protocol on one "
     "machine are ranked."),
    ("top-1", "Share of labelled photos whose highest class is the label, run on the device; the "
     "interval is Wilson's."),
    ("agreement", "Share of photos on which the model on the device and the float student give the "
     "same top class; without classes, whose nearest float embedding is that of the same photo. It "
     "needs no label."),
    ("load, first run", "Opening the model in a fresh process, and the first image after that: "
     "what a user waits for when an app starts."),
    ("CPU time", "What all threads together computed for one image. A neighbour that takes the "
     "core away adds its whole turn to a latency, and to this only what the caches lost: where a "
     "machine is shared, it moves far less than p90."),
    ("engine's memory", "The most memory that was resident, without Python and numpy, which an app "
     "does not have."),
    ("drift", "Median of the last tenth of the runs over that of the first. Above "
     f"{MAX_DRIFT} the device throttles or is shared."),
    ("not valid", "Too few runs, the wrong compute unit, or throttling: the figure is shown, and "
     "ranked nowhere. A flag without “not valid” is something to know, and the figure counts."),
)  # fmt: skip


def _meanings(comparison: Comparison, colours: Colours) -> Section:
    return Section(title="What the numbers mean", markup=page.definitions(MEANINGS))


SECTIONS = (
    _results,
    _distributions,
    _tails,
    _timelines,
    _layers,
    _tradeoffs,
    _costs,
    _places,
    _meanings,
)


# --------------------------------------------------------------------------- series


def _series(group: Group, colours: Colours) -> tuple[TimeUnit, list[Series]]:
    unit = _unit(group)
    rows = [row for row in group.rows if row.result.latency is not None]
    return unit, [_one_series(row, group, colours[row.label], unit) for row in rows]


def _one_series(row: Row, group: Group, colour: int, unit: TimeUnit) -> Series:
    samples = np.asarray(row.result.samples_ns, dtype=np.float64)
    assert row.result.latency is not None
    return Series(
        label=row.label,
        colour=colour,
        samples=samples / NS_PER_MS * unit.per_ms,
        summary=row.result.latency.scaled(unit.per_ms),
        headline="p50" if group.headline == "p50" else "p90",
        valid=row.result.valid,
    )
