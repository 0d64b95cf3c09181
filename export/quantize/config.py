"""Settings of post-training quantization."""

import dataclasses

from edgeseed.core.console import note
from edgeseed.core.registry import unknown_name
from edgeseed.export.proof.gates import MIN_AGREEMENT
from edgeseed.export.quantize.ranges.observers import METHODS, RETIRED
from edgeseed.export.quantize.search.recovery import RecoveryConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeConfig:
    """Settings of post-training quantization."""

    calibrator: str = "auto"
    """How ranges are chosen: `minmax`, `photos` or `fisher` (`quantize/ranges/observers.py`), or
    `auto` to let the search choose. Names of earlier versions are taken, with a note."""
    equalize: bool = True
    """Whether channels of unlike range are evened out where that is exact."""
    bias_correction: bool = True
    """Whether the mean of each channel is brought back, layer by layer."""
    gain_correction: bool = True
    """Whether its deviation is, too, where biases are corrected."""
    second_order: bool = True
    """Whether weights are rounded together, by how the inputs of their layer go together, where
    that comes nearer than rounding each alone. Takes a hundred photos to calibrate with."""
    min_agreement: float = 0.99
    """Below this share of kept decisions, in whole photos, the layers that lose most are left in
    float. `export` asks for more where its gate does (`export.planning.search_target`)."""
    required_agreement: float = MIN_AGREEMENT
    """What the gate asks: only for it, and a standard error more, are layers left in float that
    help little."""
    max_float_layers: int = 8
    """Most layers that the search may leave in float."""
    recover: bool = False
    """Whether the integer model learns from the float student: minutes in place of seconds."""
    recovery_steps: int = 600
    """How many updates it learns for."""
    recovery_lr: float = 0.02
    """How fast it learns, in steps of each weight's grid."""

    @property
    def recovery(self) -> RecoveryConfig:
        """How it learns."""
        return RecoveryConfig(steps=self.recovery_steps, lr=self.recovery_lr)

    def __post_init__(self) -> None:
        _ = self.recovery  # which checks itself
        if (instead := RETIRED.get(self.calibrator)) is not None:
            note(f"calibrator={self.calibrator} is no longer there: {instead} is used instead")
            object.__setattr__(self, "calibrator", instead)
        if self.calibrator not in ("auto", *METHODS):
            raise unknown_name("calibrator", self.calibrator, ("auto", *METHODS))
