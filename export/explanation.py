"""`edgeseed explain`: what quantization did to each layer of a bundle, and what stayed in float."""

import dataclasses
from pathlib import Path
from typing import Any

from edgeseed.core.bundle import read_bundle
from edgeseed.core.config import to_plain
from edgeseed.core.errors import UsageError
from edgeseed.export.verification.diagnosis import layer_errors
from edgeseed.export.verification.run import gather


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class LayerRow:
    """One layer of the program."""

    name: str
    computed: str
    """`int8`, or `float`."""
    reason: str
    """Why it stayed in float."""
    error: float | None
    """Root mean square of its error over that of the float output, on the bundle's own photos."""
    added: float | None
    """What it adds to the error of the layer before."""
    range: tuple[float, float] | None
    """Of its stored output."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanation:
    """What `explain` found."""

    bundle: str
    target: str
    precision: str
    scheme: str
    calibrator: str
    tried: dict[str, dict[str, float]]
    """Agreement and distance of every way of calibrating that was tried."""
    layers: tuple[LayerRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        plain: dict[str, Any] = to_plain(self)
        return plain

    def to_text(self) -> str:
        """As a table, the layers that add most error marked."""
        widest = max(len(row.name) for row in self.layers)
        most = sorted((row.added or 0.0 for row in self.layers), reverse=True)[:3]
        lines = [f"{'layer':<{widest}}  computed    error   added  output range"]
        for row in self.layers:
            error = "      -       -" if row.error is None else f"{row.error:7.2%} {row.added:7.2%}"
            span = "" if row.range is None else f"{row.range[0]:.3g} to {row.range[1]:.3g}"
            mark = "  <- adds most" if row.added and row.added in most else ""
            line = f"{row.name:<{widest}}  {row.computed:<8} {error}  {span}{mark}  {row.reason}"
            lines.append(line.rstrip())
        lines += ["", f"calibrated by {self.calibrator}; tried:"]
        lines += [
            f"  {name:<32} keeps {score['agreement']:.1%}, distance {score['distance']:.3g}"
            for name, score in self.tried.items()
        ]
        return "\n".join(lines)


def explain(bundle: str | Path, *, picture: str | Path | None = None) -> Explanation:
    """Measures the error of every layer of a quantized bundle, on the photos that lie in it.

    Args:
        bundle: The bundle's folder.
        picture: Where to draw the errors, as PNG or SVG; None for no picture.

    Raises:
        UsageError: If the bundle is not quantized.
        ArtifactError: If a file is missing, added or changed.
    """
    opened = read_bundle(bundle)
    record = opened.manifest.quantization
    if record is None:
        raise UsageError(
            f"{bundle} is {opened.manifest.precision}: no layer was quantized; "
            "explain reads bundles exported with --precision int8"
        )
    evidence = gather(opened)
    errors = layer_errors(
        evidence.model,
        evidence.network,
        evidence.spec.preprocess,
        evidence.proof.pixels,
        quantization=record,
    )
    measured = {layer.name: layer for layer in errors}
    names = [name for name, kind in record["integer"].items() if kind in ("conv", "linear")]
    names += [name for name in record["float"] if name not in names]
    order = list(measured) + [name for name in names if name not in measured]
    ranges = record.get("ranges", {})
    rows = tuple(
        LayerRow(
            name=name,
            computed="int8" if name in record["integer"] else "float",
            reason=record["float"].get(name, ""),
            error=measured[name].error if name in measured else None,
            added=measured[name].added if name in measured else None,
            range=tuple(ranges[name]) if name in ranges else None,
        )
        for name in order
    )
    explanation = Explanation(
        bundle=str(bundle),
        target=opened.manifest.target,
        precision=opened.manifest.precision,
        scheme=record["scheme"],
        calibrator=record["calibrator"],
        tried=record["tried"],
        layers=rows,
    )
    if picture is not None:
        draw(explanation, Path(picture))
    return explanation


def draw(explanation: Explanation, path: Path) -> None:
    """Bars of the error a layer adds under the line of the error so far; float layers in grey."""
    # Without pyplot: it would look for a display and keep figures alive.
    from matplotlib.figure import Figure

    rows = [row for row in explanation.layers if row.error is not None]
    figure = Figure(figsize=(max(6.0, 0.16 * len(rows)), 4), layout="constrained")
    axes = figure.add_subplot()
    places = range(len(rows))
    colours = ["tab:blue" if row.computed == "int8" else "tab:grey" for row in rows]
    axes.bar(places, [100 * (row.added or 0) for row in rows], color=colours, label="added")
    axes.plot(places, [100 * (row.error or 0) for row in rows], color="tab:red", label="so far")
    axes.set_xticks(places, [row.name for row in rows], rotation=90, fontsize=6)
    axes.set_ylabel("error, % of the layer's RMS")
    axes.set_title(f"{explanation.target} {explanation.precision}, {explanation.calibrator}")
    axes.legend()
    figure.savefig(path, dpi=150)
