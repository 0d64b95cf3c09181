"""What every model file says of itself, for an app that has the one file and no manifest."""

import json
from collections.abc import Iterator, Mapping

from edgeseed.core.preprocess import COLORS, Preprocess
from edgeseed.export.target import Finding

_LONGEST = 60


def file_metadata(
    preprocess: Preprocess,
    *,
    precision: str,
    classes: tuple[str, ...] | None,
    values: str = "pixels 0..255",
) -> dict[str, str]:
    """Texts by their names: preprocessing, input, precision and labels.

    Args:
        preprocess: The student's.
        precision: What the file was exported as.
        classes: Names of the classes; None for a student without a head.
        values: What the input's numbers are.
    """
    found = {
        "edgeseed.preprocess": json.dumps(preprocess.to_dict()),
        "edgeseed.input": f"{COLORS[preprocess.channels]} {values}, normalised inside the graph",
        "edgeseed.precision": precision,
    }
    if classes is not None:
        found["edgeseed.labels"] = json.dumps(list(classes), ensure_ascii=False)
    return found


def compare_metadata(found: Mapping[str, str], wanted: Mapping[str, str]) -> Iterator[Finding]:
    """A finding for each text that a file lacks, has in other words, or has too much."""
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            yield Finding(
                f"metadata {name}",
                f"is {_short(found.get(name))}, the manifest gives {_short(wanted.get(name))}",
            )


def _short(text: str | None) -> str:
    if text is None:
        return "missing"
    return repr(text if len(text) < _LONGEST else f"{text[: _LONGEST - 3]}...")
