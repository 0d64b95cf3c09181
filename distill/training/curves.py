"""The picture of a run: is it learning, and how far is it from what can be reached?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeseed.core.line_plot import Line, line_plot
from edgeseed.core.svg import Svg, write_svg

_PANEL = 520
_HEIGHT = 320


def draw_curves(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Draws loss and floor, and kNN accuracy where it was measured, over epochs.

    Args:
        path: The SVG file.
        records: As in metrics.jsonl; those of whole epochs are drawn.
    """
    epochs = [record for record in records if record["kind"] == "epoch"]
    if not epochs:
        return
    panels = [_loss_panel(epochs)]
    if scored := [record for record in epochs if "knn" in record]:
        panels.append(_knn_panel(scored))
    picture = Svg(
        _PANEL * len(panels),
        max(panel.height for panel in panels),
        title="Curves of a run",
        description=f"{len(epochs)} epochs",
    )
    for index, panel in enumerate(panels):
        # Their axes stand in one line, whichever has the higher legend.
        picture.place(panel, _PANEL * index, picture.height - panel.height)
    write_svg(path, picture)


def _loss_panel(epochs: Sequence[dict[str, Any]]) -> Svg:
    lines = [Line(label="loss", points=_over_epochs(epochs, "loss"), css="s0")]
    if all("floor" in record for record in epochs):
        floors = _over_epochs(epochs, "floor")
        lines.append(Line(label="floor: the least it can be", points=floors, css="s1", dashed=True))
    return line_plot(
        lines,
        width=_PANEL,
        height=_HEIGHT,
        title="Loss",
        description=f"from {epochs[0]['loss']:.4g} to {epochs[-1]['loss']:.4g}",
        x_label="epoch",
        y_label="loss",
    )


def _knn_panel(scored: Sequence[dict[str, Any]]) -> Svg:
    points = _over_epochs(scored, "knn", factor=100)
    return line_plot(
        [Line(label="kNN accuracy", points=points, css="s2")],
        width=_PANEL,
        height=_HEIGHT,
        title="kNN accuracy",
        description=f"from {points[0][1]:.1f} % to {points[-1][1]:.1f} %",
        x_label="epoch",
        y_label="kNN accuracy, %",
    )


def _over_epochs(
    records: Sequence[dict[str, Any]], key: str, *, factor: float = 1.0
) -> list[tuple[float, float]]:
    return [(record["epoch"], factor * record[key]) for record in records]
