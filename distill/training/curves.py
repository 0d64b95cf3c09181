"""The picture of a run: is it learning, and how far is it from what can be reached?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgeseed.core.files import atomic_file


def draw_curves(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Draws loss and floor, and kNN accuracy where it was measured, over epochs.

    Args:
        path: The PNG.
        records: As in metrics.jsonl; those of whole epochs are drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    epochs = [record for record in records if record["kind"] == "epoch"]
    if not epochs:
        return
    scored = [record for record in epochs if "knn" in record]
    count = 1 + bool(scored)
    figure = Figure(figsize=(5 * count, 3.4))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, squeeze=False)[0]
    # Fixed margins: matplotlib's own layout takes as long as the drawing.
    figure.subplots_adjust(left=0.16 / count, right=0.98, bottom=0.15, top=0.95, wspace=0.3)
    _draw_loss(axes[0], epochs)
    if scored:
        _draw_knn(axes[1], scored)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_loss(axes: Any, epochs: Sequence[dict[str, Any]]) -> None:
    numbers = [record["epoch"] for record in epochs]
    axes.plot(numbers, [record["loss"] for record in epochs], marker=".", label="loss")
    if all("floor" in record for record in epochs):
        floors = [record["floor"] for record in epochs]
        axes.plot(numbers, floors, linestyle="--", label="floor: the least it can be")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.legend(frameon=False)


def _draw_knn(axes: Any, epochs: Sequence[dict[str, Any]]) -> None:
    axes.plot(
        [r["epoch"] for r in epochs], [100 * r["knn"] for r in epochs], marker=".", color="C2"
    )
    axes.set_xlabel("epoch")
    axes.set_ylabel("kNN accuracy [%]")
