"""The settings of post-training quantization: `--set NAME=VALUE` of an int8 export."""

import dataclasses

from edgeseed.core.console import note
from edgeseed.core.registry import unknown_name
from edgeseed.export.proof.gates import MIN_AGREEMENT
from edgeseed.export.quantize.ranges.observers import METHODS, RETIRED
from edgeseed.export.quantize.search.recovery import RecoveryConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuantizeConfig:
    """Settings of post-training quantization.

    Raises:
        UnknownNameError: If `calibrator` is none.
        ValueError: If a setting of recovery makes no sense; it says which.
    """

    calibrator: str = "auto"
    """How ranges are chosen: `minmax`, `photos` or `fisher` (`quantize/ranges/observers.py`), or
    `auto` to let the search choose. Names of earlier versions are taken, with a note."""
    equalize: bool = True
    """Whether channels of unlike range are scaled to like ranges where that changes no output."""
    bias_correction: bool = True
    """Whether each channel's mean is corrected to that of float, layer by layer."""
    gain_correction: bool = True
    """Whether each channel's deviation is, too; only with `bias_correction`."""
    second_order: bool = True
    """Whether the weights of a layer are rounded together, by the second moments of its inputs (as
    in GPTQ), where that comes nearer than rounding each alone. Needs 100 calibration photos."""
    min_agreement: float = 0.99
    """The search target: below this top-1 agreement with the float model, 0 to 1, the layers that
    lose most are left in float. `export` derives it from `--min-agreement`
    (`export.planning.search_target`)."""
    required_agreement: float = MIN_AGREEMENT
    """The gate's limit, 0 to 1, which `export` takes from `--min-agreement`. Layers that help
    little are left in float only to reach it, and a standard error more."""
    max_float_layers: int = 8
    """The most layers that the search may leave in float."""
    recover: bool = False
    """Whether the integer model is trained to imitate the float student; takes minutes."""
    recovery_steps: int = 600
    """Updates of that training."""
    recovery_lr: float = 0.02
    """Its learning rate, in steps of each weight's grid."""

    @property
    def recovery(self) -> RecoveryConfig:
        """The settings of recovery."""
        return RecoveryConfig(steps=self.recovery_steps, lr=self.recovery_lr)

    def __post_init__(self) -> None:
        _ = self.recovery  # which checks itself
        if (instead := RETIRED.get(self.calibrator)) is not None:
            note(f"calibrator={self.calibrator} is no longer there: {instead} is used instead")
            object.__setattr__(self, "calibrator", instead)
        if self.calibrator not in ("auto", *METHODS):
            raise unknown_name("calibrator", self.calibrator, ("auto", *METHODS))
