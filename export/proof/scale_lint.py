"""Whether the integers of a quantized file belong to this student and to photos like these.

A range that was measured on other photos, or for another checkpoint, leaves every weight right and
every layer wrong. It shows in two places: the file's scales are not those that the manifest
records, or the values that the student really gives lie outside of the recorded ranges, or fill a
corner of them.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx

from edgeseed.core.records import QuantizationRecord
from edgeseed.export.quantize.scheme import Scheme
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.target import Finding

# Files may keep a scale in float16, which errs by one part in 2048.
_SAME_SCALE = 2e-3
# A range is recorded in full, its step stored as float32.
_SAME_FLOAT = 1e-6
# Calibrators cut off a thousandth of a tensor's values at most, entropy a hundredth of a few.
_TOO_MANY_BEYOND = 0.01
_TOO_LITTLE_USED = 0.1
_STALE_SHARE = 0.25
_LEAST_STALE = 2


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RangeUse:
    """How the student's values fill the range that a tensor is stored in."""

    stored: tuple[float, float]
    low: float
    """Least value that was seen."""
    high: float
    beyond: float
    """Share of the values outside of the stored range."""

    @property
    def used(self) -> float:
        """Largest magnitude seen over the largest that is stored."""
        stored = max(abs(end) for end in self.stored)
        return max(abs(self.low), abs(self.high)) / max(stored, 1e-30)

    @property
    def fits(self) -> bool:
        """Whether the range could have been measured on such values."""
        return self.beyond <= _TOO_MANY_BEYOND and self.used >= _TOO_LITTLE_USED


def range_uses(
    graph: fx.GraphModule, pixels: npt.NDArray[np.uint8], record: QuantizationRecord
) -> dict[str, RangeUse]:
    """Of every tensor whose range was measured.

    Args:
        graph: The float program, see `export.program.float_graph`.
        pixels: (N, 3, H, W) photos; a few are enough.
        record: The manifest's record of the quantization.
    """
    # What is stored as x + 3 has a range that no photo decided.
    ranges = {name: ends for name, ends in record.ranges.items() if name not in record.shifted}
    watcher = _Watcher(graph, ranges)
    with torch.inference_mode():
        watcher.run(torch.from_numpy(np.asarray(pixels)).float())
    return watcher.uses


class _Watcher(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, ranges: Mapping[str, tuple[float, float]]) -> None:
        super().__init__(graph)
        self.ranges = ranges
        self.uses: dict[str, RangeUse] = {}

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.name in self.ranges and isinstance(value, Tensor):
            self.uses[n.name] = _use(value, self.ranges[n.name])
        return value


def _use(value: Tensor, stored: tuple[float, float]) -> RangeUse:
    low, high = stored
    beyond = value > high
    # The lower end of other ranges is an activation's own: a ReLU stores nothing below zero.
    if low < 0 and abs(low + high) < 0.02 * high:
        beyond = beyond | (value < low)
    smallest, largest = torch.aminmax(value)
    return RangeUse(
        stored=stored,
        low=float(smallest),
        high=float(largest),
        beyond=float(beyond.float().mean()),
    )


def stale_calibration(uses: Mapping[str, RangeUse]) -> str:
    """One sentence if too many ranges do not fit what was seen, or an empty one."""
    unfit = {name: use for name, use in uses.items() if not use.fits}
    if len(unfit) < max(_LEAST_STALE, _STALE_SHARE * len(uses)):
        return ""
    name = max(unfit, key=lambda name: abs(np.log(max(unfit[name].used, 1e-12))))
    use = unfit[name]
    return (
        f"stale calibration: {len(unfit)} of {len(uses)} stored ranges do not fit these photos "
        f"({name} is stored in {use.stored[0]:.3g} to {use.stored[1]:.3g} and spans "
        f"{use.low:.3g} to {use.high:.3g}); they were measured on other photos or for another "
        "student"
    )


def lint_scales(scales: Iterable[float], record: QuantizationRecord) -> tuple[Finding, ...]:
    """Compares the scales of the tensors that a file stores with those that the manifest records.

    Args:
        scales: Of every quantized activation of the file.
        record: The manifest's record of the quantization.
    """
    if not record.ranges:
        return ()
    scheme: Scheme = SCHEMES.load(record.scheme)
    levels = scheme.activation.levels
    recorded = [(high - low) / levels for low, high in record.ranges.values()]
    # Steps that no photo decides: of the photo's own bytes, of a sigmoid's table.
    recorded += [1 / scheme.activation.byte_steps, scheme.activation.unit_end / levels]
    found = list(scales)
    wrong = [scale for scale in found if not _is_among(scale, recorded)]
    if not wrong:
        return ()
    nearest = min(recorded, key=lambda scale: abs(np.log(scale / max(wrong[0], 1e-30))))
    example = f"{wrong[0]:.3g} where the manifest records {nearest:.3g}"
    if len(wrong) < max(_LEAST_STALE, _STALE_SHARE * len(found)):
        return (Finding("integers", f"a scale is wrong: {example}"),)
    problem = (
        f"stale calibration: {len(wrong)} of {len(found)} scales are not the manifest's "
        f"({example}); the file was calibrated on other photos or for another student"
    )
    return (Finding("integers", problem),)


def lint_zero_points(
    stored: Iterable[tuple[str, float, int]], record: QuantizationRecord
) -> tuple[Finding, ...]:
    """Compares zero points with those that the recorded ranges imply.

    One that is off by one shifts every value of its tensor by a step: as much as all rounding of a
    network together, and too little for agreement to notice.

    Args:
        stored: Name, scale and zero point of every stored activation of the file, as it is written
            or read.
        record: The manifest's record of the quantization.
    """
    scheme: Scheme = SCHEMES.load(record.scheme)
    activation = scheme.activation
    scales, zeros, is_shifted = [], [], []
    for name, (low, high) in record.ranges.items():
        scale = (high - low) / activation.levels
        if scale > 0:
            scales.append(scale)
            zeros.append(round(activation.low - low / scale))
            is_shifted.append(name in record.shifted)
        z = round(3 / scale) if scale > 0 else 0
        if z > 0 and scheme.saturation_is_activation and np.isclose(3 / z, scale, rtol=_SAME_FLOAT):
            # A hard-swish's input, whose bytes are read as its gate as well; see `rewriting`.
            scales.append(1 / (2 * z))
            zeros.append(activation.low)
            is_shifted.append(False)
    findings = []
    for name, scale, zero in stored:
        # By chance a step of other origin (the photo's own bytes, a sum's) is near to one of a
        # hundred recorded ones. So only the step itself counts, to the last bits of float32.
        same = np.isclose(scales, scale, rtol=_SAME_FLOAT, atol=0)
        # Core ML's files keep it as float16, in which a large one is infinite.
        with np.errstate(over="ignore"):
            same |= np.asarray(scales, np.float16) == scale
        is_photo = np.isclose(scale, 1 / activation.byte_steps, rtol=_SAME_FLOAT, atol=0)
        # What is stored shifted is read with another zero point than it is written with.
        if is_photo or not same.any() or np.any(np.array(is_shifted)[same]):
            continue
        meant = np.array(zeros)[same]
        if zero not in meant:
            problem = f"its zero point is {zero} where the manifest's range gives {meant[0]}"
            findings.append(Finding(name, problem))
    return tuple(findings)


def _is_among(scale: float, recorded: Iterable[float]) -> bool:
    return any(abs(scale - each) <= _SAME_SCALE * each + 1e-7 for each in recorded)
