"""`edgeseed explain`: what an export did to each layer of a bundle, and what stayed in float."""

import dataclasses
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import fx

from edgeseed.core.bundle import GateResult, Manifest, read_bundle
from edgeseed.core.config import to_plain
from edgeseed.core.errors import UsageError
from edgeseed.core.files import atomic_file, readable_size
from edgeseed.core.records import CandidateScore, QuantizationRecord
from edgeseed.export.program import input_of, module_name
from edgeseed.export.proof.diagnosis import NUM_PHOTOS, LayerError, layer_errors
from edgeseed.export.proof.reference import comparable_graph, layer_names
from edgeseed.export.proof.scale_lint import RangeUse, range_uses
from edgeseed.export.proof.verify import Evidence, gather

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = (".png", ".svg", ".pdf")
_LAYERS = ("conv", "linear")
_FLOATS = {"fp32": "float32", "fp16": "float16", "w8": "float"}
_BLUE, _GREY, _RED, _INK = "#4477aa", "#b0b0b0", "#cc3311", "#333333"
_NUM_NAMED = 3
_LEAST_NAMED = 1e-4
"""What is printed as 0.00 % is not worth a name."""
_PLAIN = ("fp32", "fp16")
"""Precisions in which no layer has numbers of its own to be told."""
_FURTHEST_SOURCE = 4
# Of the picture's width: names of layers further right stand to the left of their pointers.
_TURN = 0.75


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
    """Agreement and distance, on so many photos, of every way of calibrating that was tried."""
    counted: Mapping[str, CandidateScore]
    """The same of those whose decisions were counted, by photos that judge nothing else."""
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
                line = f"  {name:<40} keeps {score.agreement:.1%}"
                line += f", distance {score.distance:.3g}"
                if score.photos:  # not in bundles of before this was written down
                    line += f", on {score.photos} photos"
                if counts := self.counted.get(name):
                    line += f"; counted {counts.agreement:.1%} of {counts.photos}"
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
        picture: Where to draw the errors, as PNG, SVG or PDF; None for no picture.

    Raises:
        UsageError: If the picture is to be of another kind.
        ArtifactError: If a file is missing, added or changed.
    """
    if picture is not None and Path(picture).suffix.lower() not in PICTURES:
        raise UsageError(f"--picture {picture}: its name must end in {', '.join(PICTURES)}")
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


def draw(explanation: Explanation, path: Path) -> None:
    """The error as it grows from layer to layer, the layers that add most named; and the ranges."""
    # Without pyplot: it would look for a display and keep figures alive.
    from matplotlib.figure import Figure

    rows = [row for row in explanation.layers if row.error is not None]
    stored = any(row.range is not None for row in rows)
    figure = Figure(figsize=(max(8.0, 0.14 * len(rows)), 6.5 if stored else 4.5), dpi=150)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(
        2 if stored else 1, 1, sharex=True, squeeze=False, height_ratios=[2, 1][: 1 + stored]
    )[:, 0]
    # matplotlib cuts off what is wider than the figure: at this size, ten letters an inch fit.
    title = textwrap.fill(explanation.headline(), width=round(10 * figure.get_figwidth()))
    figure.suptitle(title, fontsize=11, x=0.01, ha="left", color=_INK)
    _draw_errors(axes[0], explanation, rows)
    if stored:
        _draw_ranges(axes[1], rows)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel("convolutions and linear layers, in the order they run", color=_INK)
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
        each.margins(x=0.01)
    with atomic_file(path) as temporary:
        figure.savefig(
            temporary, format=path.suffix[1:].lower(), metadata=_NO_DATE.get(path.suffix)
        )


# The same bundle gives the same picture.
_NO_DATE: dict[str, dict[str, Any]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def _draw_errors(axes: "Axes", explanation: Explanation, rows: list[LayerRow]) -> None:
    places = range(len(rows))
    errors = [100 * (row.error or 0) for row in rows]
    added = [100 * (row.added or 0) for row in rows]
    colours = [_GREY if row.reason else _BLUE for row in rows]
    axes.fill_between(places, errors, color=_RED, alpha=0.08, linewidth=0)
    axes.plot(places, errors, color=_RED, linewidth=1.4, label="error at the layer's output")
    axes.bar(places, added, color=colours, width=0.75, label="added by the layer")
    if any(row.reason for row in rows):
        axes.bar([0], [0], color=_GREY, label="left in float")
    top = max(errors, default=0.0) or 1.0
    named = _by_height(list(map(rows.index, explanation.most())), len(rows))
    # Names stand above all of the curve, a line each, and the legend above the picture.
    axes.set_ylim(0, top * (1.1 + 0.12 * len(named)))
    for line, place in enumerate(named):
        row = rows[place]
        side: tuple[Literal["left", "right"], float] = (
            ("left", 0.0) if place < _TURN * len(rows) else ("right", 1.0)
        )
        axes.plot(place, errors[place], marker="o", markersize=3, color=_INK)
        axes.annotate(
            f" {row.layer or row.name} +{100 * (row.added or 0):.2g} % ",
            (place, errors[place]),
            xytext=(place, top * (1.1 + 0.12 * line)),
            ha=side[0],
            fontsize=8,
            color=_INK,
            arrowprops={"arrowstyle": "-", "color": _INK, "linewidth": 0.5, "relpos": (side[1], 0)},
        )
    axes.set_ylabel("error, % of the float\noutput's root mean square", color=_INK)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8, borderaxespad=0
    )


def _by_height(places: list[int], num_layers: int) -> list[int]:
    """Places in the order of their names' lines, so that no pointer crosses another's name.

    A name stands to the right of its pointer, so the leftmost is the highest; at the right end,
    where there is no room, to its left, and these stand above all others, the rightmost highest.
    """
    turn = _TURN * num_layers
    left = sorted((place for place in places if place < turn), reverse=True)
    return left + sorted(place for place in places if place >= turn)


def _draw_ranges(axes: "Axes", rows: list[LayerRow]) -> None:
    """Ranges as spans on a scale that shows small and large ones; red where values are cut off."""
    for place, row in enumerate(rows):
        if row.range is not None:
            cut = (row.beyond or 0.0) > 0.01
            axes.vlines(place, *row.range, color=_RED if cut else _BLUE, linewidth=3)
    axes.set_yscale("symlog", linthresh=1.0)
    axes.axhline(0, color=_INK, linewidth=0.5)
    axes.set_ylabel("range stored in\n8 bits (red: cuts\noff over 1 %)", color=_INK)
