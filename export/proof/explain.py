"""`edgeseed explain`: what an export did to each layer of a bundle, and what stayed in float."""

import dataclasses
import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import fx

from edgeseed.core.bundle import GateResult, Manifest, read_bundle
from edgeseed.core.config import to_plain
from edgeseed.core.errors import UsageError
from edgeseed.core.files import readable_size
from edgeseed.core.records import CandidateScore, QuantizationRecord
from edgeseed.core.svg import Scale, Svg, linear_ticks, text_width, tick_labels, write_svg
from edgeseed.export.program import input_of, module_name
from edgeseed.export.proof.diagnosis import NUM_PHOTOS, LayerError, layer_errors
from edgeseed.export.proof.reference import comparable_graph, layer_names
from edgeseed.export.proof.scale_lint import RangeUse, range_uses
from edgeseed.export.proof.verify import Evidence, gather

_LAYERS = ("conv", "linear")
_FLOATS = {"fp32": "float32", "fp16": "float16", "w8": "float"}
_NUM_NAMED = 3
_LEAST_NAMED = 1e-4
"""What is printed as 0.00 % is not worth a name."""
_PLAIN = ("fp32", "fp16")
"""Precisions in which no layer has numbers of its own to be told."""
_FURTHEST_SOURCE = 4
# Of the picture's width: names of layers further right stand to the left of their pointers.
_TURN = 0.75
# Pixels of the picture: its two panels and what stands around them.
_LEFT, _RIGHT, _LINE = 64.0, 16.0, 20.0
_ERRORS, _RANGES, _BETWEEN = 270.0, 140.0, 54.0
_ERROR, _ADDED, _KEPT_FLOAT, _CUT = "s1", "s0", "s7", "s4"
_CUT_SHARE = 0.01
"""A range that cuts off more of the values than this is drawn in another colour."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LayerRow:
    """One convolution or linear layer of the program, or one that was meant to be."""

    name: str
    """The program's, such as `conv2d_7`."""
    layer: str
    """The network's, such as `blocks.2.0.conv_pw`; `--keep-float` takes either."""
    computed: str
    """`int8`, `float`, `float16` or `float32`."""
    reason: str
    """Why it stayed in float."""
    error: float | None
    """Root mean square of its error over that of the float output, on the bundle's own photos."""
    added: float | None
    """What it adds to the error of the layer before."""
    range: tuple[float, float] | None
    """In which what it reads is stored."""
    beyond: float | None
    """Share of what it reads that the range cuts off."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """What `explain` found."""

    bundle: str
    name: str
    target: str
    precision: str
    size_bytes: int
    runner: str
    """What computed the layers; a reference interpreter is not a device."""
    weights: str
    """How they are stored."""
    scheme: str
    """Of the integers; empty for a float model."""
    calibrator: str
    tried: Mapping[str, CandidateScore]
    """All that was tried: calibrator and corrections -> agreement, distance, number of photos."""
    counted: Mapping[str, CandidateScore]
    """The same, with agreement of the acceptance photos."""
    gates: tuple[GateResult, ...]
    layers: tuple[LayerRow, ...]
    float_operations: dict[str, tuple[str, ...]]
    """Other operations that are not in integers, by the reason."""
    photos: int
    """How many the errors rest on."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def most(self) -> tuple[LayerRow, ...]:
        """The layers that add most error, the worst first."""
        rows = sorted(self.layers, key=lambda row: -(row.added or 0.0))
        return tuple(row for row in rows[:_NUM_NAMED] if (row.added or 0.0) >= _LEAST_NAMED)

    def headline(self) -> str:
        """What it is, in a line."""
        words = [f"{self.name}: {self.target} {self.precision}", readable_size(self.size_bytes)]
        shown = ("parity", "top1_agreement", "self_retrieval", "accuracy_drop")
        words += [
            f"{gate.name.replace('_', ' ')} {_number(gate)} (n={gate.n})"
            for gate in self.gates
            if gate.name in shown
        ]
        return ", ".join(words)

    def to_text(self) -> str:
        """As a table, the layers that add most error marked; of a float model only these."""
        lines = [
            self.headline(),
            f"weights: {self.weights}; layers run by {self.runner} on {self.photos} photos",
            "",
        ]
        lines += self._float_lines() if self.precision in _PLAIN else self._table_lines(self.layers)
        if self.float_operations:
            lines += ["", "not in integers:"]
            lines += [
                f"  {len(names):>3} x {reason}: {_some(names)}"
                for reason, names in self.float_operations.items()
            ]
        if self.tried:
            lines += ["", f"scheme {self.scheme}, calibrated by {self.calibrator}; tried:"]
            for name, score in self.tried.items():
                line = f"  {name:<40} agreement {score.agreement:.1%}"
                line += f", distance {score.distance:.3g}"
                if score.photos:  # not in bundles of before this was written down
                    line += f", on {score.photos} photos"
                if counts := self.counted.get(name):
                    line += f"; {counts.agreement:.1%} of {counts.photos} acceptance photos"
                lines.append(line)
        return "\n".join(lines)

    def _table_lines(self, rows: tuple[LayerRow, ...]) -> list[str]:
        worst = {row.name for row in self.most()}
        widest = max(len("layer"), *(len(row.layer or row.name) for row in rows))
        header = (
            f"{'layer':<{widest}}  computed    error   added  {'reads, stored in':<16}  cut off"
        )
        return [header, *(_line(row, widest, mark=row.name in worst) for row in rows)]

    def _float_lines(self) -> list[str]:
        largest = max((row.error or 0.0 for row in self.layers), default=0.0)
        computed = " and ".join(dict.fromkeys(row.computed for row in self.layers))
        line = f"{len(self.layers)} layers in {computed}, errors up to {largest:.1e} of the output"
        named = tuple(row for row in self.layers if row in self.most())
        if not named:
            return [f"{line}; none adds as much as {_LEAST_NAMED:.2%}"]
        return [f"{line}; those that add most:", "", *self._table_lines(named)]


def _number(gate: GateResult) -> str:
    if gate.unit == "share of photos":
        return f"{gate.value:.1%}"
    return f"{gate.value:.2g}" + (" points" if gate.unit == "points" else "")


def _line(row: LayerRow, widest: int, *, mark: bool) -> str:
    error = "      -       -" if row.error is None else f"{row.error:7.2%} {row.added:7.2%}"
    span = "" if row.range is None else f"{row.range[0]:.3g} to {row.range[1]:.3g}"
    beyond = "" if row.beyond is None else f"{row.beyond:7.2%}"
    end = "  <- adds most" if mark else ""
    reads = f"{span:<16}  {beyond:<7}"
    name = f"{row.layer or row.name:<{widest}}"
    return f"{name}  {row.computed:<8} {error}  {reads}{end}  {row.reason}".rstrip()


def _some(names: tuple[str, ...]) -> str:
    rest = len(names) - 4
    return ", ".join(names[:4]) + (f" and {rest} more" if rest > 0 else "")


def explain(bundle: str | Path, *, picture: str | Path | None = None) -> Explanation:
    """Measures the error of every layer of a bundle, on the photos that lie in it.

    Args:
        bundle: The bundle's folder, of any target and precision.
        picture: Where to draw the errors, as SVG; None for no picture.

    Raises:
        UsageError: If the picture is to be of another kind.
        ArtifactError: If a file is missing, added or changed.
    """
    if picture is not None and Path(picture).suffix.lower() != ".svg":
        raise UsageError(
            f"--picture {picture}: pictures are SVG, which every browser shows; "
            f"name it {Path(picture).with_suffix('.svg').name}"
        )
    opened = read_bundle(bundle)
    evidence = gather(opened)
    manifest, pixels = opened.manifest, evidence.proof.pixels[:NUM_PHOTOS]
    record = manifest.quantization
    errors = layer_errors(
        evidence.model,
        evidence.network,
        evidence.spec.preprocess,
        pixels,
        quantization=manifest.quantization,
    )
    explanation = Explanation(
        bundle=str(bundle),
        name=manifest.name,
        target=manifest.target,
        precision=manifest.precision,
        size_bytes=opened.model_size_bytes,
        runner=evidence.model.runner,
        weights=_weights(manifest),
        scheme="" if record is None else record.scheme,
        calibrator="" if record is None else record.calibrator,
        tried={} if record is None else record.tried,
        counted={} if record is None else record.counted,
        gates=manifest.gates,
        layers=_rows(manifest, errors, _reads(evidence), _modules(evidence)),
        float_operations=_float_operations(record, errors),
        photos=len(pixels),
    )
    if picture is not None:
        draw(explanation, Path(picture))
    return explanation


def _weights(manifest: Manifest) -> str:
    if manifest.quantization is not None:
        return manifest.quantization.weights
    if manifest.precision == "w8":
        return str(manifest.provenance.model.get("weights", "int8 per output channel"))
    return _FLOATS[manifest.precision]


def _reads(evidence: Evidence) -> dict[str, RangeUse]:
    """By layer, the stored tensor that it reads and how the photos fill its range."""
    if evidence.manifest.quantization is None:
        return {}
    graph = comparable_graph(
        evidence.network, evidence.spec.preprocess, evidence.manifest.quantization
    )
    pixels = evidence.proof.pixels[:NUM_PHOTOS]
    uses = range_uses(graph, pixels, evidence.manifest.quantization)
    found = {}
    for name in layer_names(graph):
        (node,) = [each for each in graph.graph.nodes if each.name == name]
        source = _stored_source(input_of(node), uses)
        if source is not None:
            found[name] = uses[source]
    return found


def _modules(evidence: Evidence) -> dict[str, str]:
    """The network's name of each node of the program."""
    graph = comparable_graph(
        evidence.network, evidence.spec.preprocess, evidence.manifest.quantization
    )
    return {node.name: module_name(node) for node in graph.graph.nodes}


def _stored_source(node: fx.Node, uses: Mapping[str, RangeUse]) -> str | None:
    """The stored tensor behind paddings, views and a photo's normalisation."""
    for _ in range(_FURTHEST_SOURCE):
        if node.name in uses:
            return node.name
        if not node.all_input_nodes:
            return None
        node = node.all_input_nodes[0]
    return None


def _rows(
    manifest: Manifest,
    errors: list[LayerError],
    reads: Mapping[str, RangeUse],
    modules: Mapping[str, str],
) -> tuple[LayerRow, ...]:
    record = manifest.quantization
    integer = {} if record is None else record.integer_operators
    reasons = {} if record is None else record.float_operators
    measured = {layer.name: layer for layer in errors}
    # Of what the model does not show, the layers that were to be integers are told all the same.
    names = [*measured]
    names += [name for name, kind in integer.items() if kind in _LAYERS and name not in measured]
    return tuple(
        LayerRow(
            name=name,
            layer=modules.get(name, ""),
            computed="int8" if name in integer else _FLOATS.get(manifest.precision, "float"),
            reason=reasons.get(name, ""),
            error=measured[name].error if name in measured else None,
            added=measured[name].added if name in measured else None,
            range=reads[name].stored if name in reads else None,
            beyond=reads[name].beyond if name in reads else None,
        )
        for name in names
    )


def _float_operations(
    record: QuantizationRecord | None, errors: list[LayerError]
) -> dict[str, tuple[str, ...]]:
    layers = {layer.name for layer in errors}
    grouped: dict[str, list[str]] = {}
    for name, reason in ({} if record is None else record.float_operators).items():
        if name not in layers:
            grouped.setdefault(reason, []).append(name)
    return {reason: tuple(names) for reason, names in grouped.items()}


# --------------------------------------------------------------------------- the picture


def draw(explanation: Explanation, path: Path) -> None:
    """The error as it grows from layer to layer, the layers that add most named; and the ranges."""
    rows = [row for row in explanation.layers if row.error is not None]
    width = max(880.0, _LEFT + _RIGHT + 13.0 * len(rows))
    title = textwrap.wrap(explanation.headline(), width=int((width - _LEFT) / 8))
    stored = any(row.range is not None for row in rows)
    head = _LINE * len(title) + 44
    height = head + _ERRORS + (_BETWEEN + _RANGES if stored else 0) + 44
    worst = ", ".join(row.layer or row.name for row in explanation.most()) or "none"
    picture = Svg(
        width,
        height,
        title=explanation.headline(),
        description=f"{len(rows)} layers; those that add most error: {worst}",
    )
    for index, line in enumerate(title):
        picture.text(_LEFT, _LINE * (index + 1), line, css="name")
    across = Scale(-0.5, max(0.5, len(rows) - 0.5), _LEFT, width - _RIGHT)
    _draw_errors(picture, explanation, rows, across, top=head)
    if stored:
        _draw_ranges(picture, rows, across, top=head + _ERRORS + _BETWEEN)
    bottom = height - 44
    for tick in linear_ticks(0, max(1, len(rows) - 1), int(width / 62)):
        if tick == int(tick):
            picture.text(across(tick), bottom + 17, f"{tick:.0f}", anchor="middle")
    what = "convolutions and linear layers, in the order they run"
    picture.text(across.end, bottom + 35, what, anchor="end")
    write_svg(path, picture)


def _draw_errors(
    picture: Svg, explanation: Explanation, rows: list[LayerRow], across: Scale, *, top: float
) -> None:
    errors = [100 * (row.error or 0) for row in rows]
    most = max(errors, default=0.0) or 1.0
    named = _by_height(list(map(rows.index, explanation.most())), len(rows))
    # Names stand above all of the curve, a line each.
    up = Scale(0.0, most * (1.1 + 0.12 * len(named)), top + _ERRORS, top)
    _draw_legend(picture, rows, y=top - 14)
    ticks = linear_ticks(0, most, 4)
    for tick, label in zip(ticks, tick_labels(ticks), strict=True):
        picture.line(across.start, up(tick), across.end, up(tick), css="grid")
        picture.text(across.start - 8, up(tick) + 4, f"{label} %", anchor="end")
    points = [(across(place), up(error)) for place, error in enumerate(errors)]
    ends = ((across(0), up(0)), (across(max(0, len(rows) - 1)), up(0)))
    picture.path([ends[0], *points, ends[1]], css=f"area {_ERROR}", closed=True)
    wide = 0.75 * (across(1) - across(0))
    for place, row in enumerate(rows):
        added = max(0.0, 100 * (row.added or 0))
        tooltip = f"{row.layer or row.name}: error {row.error or 0:.2%}, adds {row.added or 0:.2%}"
        picture.add(
            "rect", x=across(place) - wide / 2, y=up(added), width=wide, height=up(0) - up(added),
            css=f"bar {_KEPT_FLOAT if row.reason else _ADDED}", tooltip=tooltip,
        )  # fmt: skip
    picture.path(points, css=f"edge {_ERROR}")
    picture.line(across.start, up(0), across.end, up(0), css="axis")
    for line, place in enumerate(named):
        row = rows[place]
        x, y = across(place), up(most * (1.1 + 0.12 * line))
        picture.line(x, up(errors[place]), x, y, css="leader")
        picture.add("circle", cx=x, cy=up(errors[place]), r=3, css=f"dot {_ERROR}")
        on_the_right = place < _TURN * len(rows)
        label = f"{row.layer or row.name} +{100 * (row.added or 0):.2g} %"
        anchor = "start" if on_the_right else "end"
        picture.text(x + (5 if on_the_right else -5), y + 4, label, anchor=anchor, css="value")


def _draw_legend(picture: Svg, rows: list[LayerRow], *, y: float) -> None:
    entries = [
        (_ERROR, "error, share of the output's root mean square"),
        (_ADDED, "added by the layer"),
    ]
    if any(row.reason for row in rows):
        entries.append((_KEPT_FLOAT, "added by a layer in float"))
    x: float = _LEFT
    for css, label in entries:
        picture.add("rect", x=x, y=y - 9, width=10, height=10, css=f"bar {css}")
        picture.text(x + 16, y, label)
        x += 34 + text_width(label, size=12.5)


def _by_height(places: list[int], num_layers: int) -> list[int]:
    """Places in the order of their names' lines, so that no pointer crosses another's name.

    A name stands to the right of its pointer, so the leftmost is the highest; at the right end,
    where there is no room, to its left, and these stand above all others, the rightmost highest.
    """
    turn = _TURN * num_layers
    left = sorted((place for place in places if place < turn), reverse=True)
    return left + sorted(place for place in places if place >= turn)


def _draw_ranges(picture: Svg, rows: list[LayerRow], across: Scale, *, top: float) -> None:
    """Ranges as spans on a scale for small and large ones; another colour where one cuts off."""
    spans = [row.range for row in rows if row.range is not None]
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    up = Scale(_squeezed(min(low, 0.0)), _squeezed(max(high, 1.0)), top + _RANGES, top)
    title = "range in which the layer's input is stored in 8 bits"
    picture.text(_LEFT, top - 12, title)
    if any(_cuts(row) for row in rows):
        x = _LEFT + text_width(title, size=12.5)
        picture.add("rect", x=x, y=top - 21, width=10, height=10, css=f"bar {_CUT}")
        picture.text(x + 16, top - 12, "cuts off over 1 % of the values")
    for tick in (-100.0, -10.0, -1.0, 0.0, 1.0, 10.0, 100.0):
        if up.low <= _squeezed(tick) <= up.high:
            y = up(_squeezed(tick))
            picture.line(across.start, y, across.end, y, css="axis" if tick == 0 else "grid")
            picture.text(across.start - 8, y + 4, f"{tick:g}", anchor="end")
    for place, row in enumerate(rows):
        if row.range is not None:
            x, css = across(place), f"whisker {_CUT if _cuts(row) else _ADDED}"
            start, end = (up(_squeezed(each)) for each in row.range)
            picture.line(x, start, x, end, css=css, stroke_width=4)


def _cuts(row: LayerRow) -> bool:
    return (row.beyond or 0.0) > _CUT_SHARE


def _squeezed(value: float) -> float:
    """Linear around zero, logarithmic far from it, for both signs."""
    return math.copysign(math.log10(1 + abs(value)), value)
