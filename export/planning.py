"""What a call of `export` comes to, and whether it makes sense, before a photo is read."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from edgeseed.core.config import build_config, to_plain
from edgeseed.core.errors import UsageError
from edgeseed.core.registry import unknown_name
from edgeseed.export.bundling.builder import Form
from edgeseed.export.program import Batch
from edgeseed.export.proof.gates import MAX_DROP_POINTS, MIN_AGREEMENT
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.selection import Attempt, Prefer
from edgeseed.export.target import Precision, Target
from edgeseed.export.targets import TARGETS
from edgeseed.profiles import load as load_profile
from edgeseed.profiles.schema import EngineFacts

AUTO = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """The arguments of `export`, but for the precisions and the places of their bundles."""

    student: Path
    target: str
    calibration: str | Path | None
    calibration_count: int | None
    profile: str | None
    prefer: Prefer
    min_agreement: float | None
    max_drop: float | None
    batch: Batch
    scheme: str | None
    keep_float: Sequence[str]
    recover: bool
    speed: bool
    verify: bool
    seed: int
    options: Mapping[str, Any]
    quantization: Mapping[str, Any]

    @property
    def asked_agreement(self) -> float:
        """What the gate asks."""
        return MIN_AGREEMENT if self.min_agreement is None else self.min_agreement

    def config(self) -> QuantizeConfig:
        """The settings of quantization."""
        asked = self.asked_agreement
        values: dict[str, Any] = {
            "min_agreement": search_target(asked), "required_agreement": asked, **self.quantization,
        }  # fmt: skip
        if self.recover:
            values["recover"] = True
        return build_config(QuantizeConfig, values=values, what="quantization")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a call comes to, before student and photos are read."""

    target: Target
    batch: Batch
    config: QuantizeConfig
    settings: dict[str, Any]
    """For the manifest."""
    makeable: Mapping[str, list[Form]]
    """By the precision that was asked for: what is to be made for it."""
    hopeless: list[Attempt]
    """What `auto` cannot try."""

    @property
    def forms(self) -> list[Form]:
        """All that is made."""
        return [form for forms in self.makeable.values() for form in forms]


def make_plan(call: Call, precisions: Collection[str]) -> Plan:
    """Checks a call, and says what it comes to.

    Raises:
        UsageError: If it does not make sense.
    """
    target: Target = TARGETS.load(call.target)
    engine = None if call.profile is None else load_profile(call.profile).engine_for(call.target)
    if call.prefer not in get_args(Prefer):
        raise unknown_name("preference", call.prefer, get_args(Prefer))
    asked, possible = ",".join(precisions), list[Form]()
    makeable: dict[str, list[Form]] = {}
    hopeless: list[Attempt] = []
    for precision in precisions:
        forms = _forms(target, precision, engine=engine, call=call)
        makeable[precision], blind = _sort_out(forms, target, precision, call.calibration)
        possible += forms
        hopeless += blind
    if call.scheme is not None and not any(form.scheme for form in possible):
        raise UsageError(
            f"--scheme is about the integers of int8; --precision {asked} of target "
            f"{target.name} has none"
        )
    _refuse_idle(possible, target, asked, call)
    batch, config = _choose_batch(target, call.batch), call.config()
    settings = {
        "target": call.target, "requested": asked, "batch": batch, "seed": call.seed,
        "min_agreement": call.asked_agreement,
        "max_drop": MAX_DROP_POINTS if call.max_drop is None else call.max_drop,
        "profile": call.profile, "keep_float": list(call.keep_float),
        "options": target_options(target, call.options), "quantization": to_plain(config),
    }  # fmt: skip
    return Plan(
        target=target, batch=batch, config=config, settings=settings,
        makeable=makeable, hopeless=hopeless,
    )  # fmt: skip


def refuse_list(precisions: Sequence[str]) -> None:
    """Refuses precisions that make no list of bundles.

    Raises:
        UsageError: It says which, and what to do.
    """
    asked = f"--precision {','.join(precisions)}"
    twice = [name for name in precisions if precisions.count(name) > 1]
    if not precisions:
        raise UsageError("--precision names none; give one, or several with commas")
    if twice:
        raise UsageError(f"{asked}: {twice[0]} is given twice; give each once")
    if AUTO in precisions:
        raise UsageError(
            f"{asked}: {AUTO} makes all and keeps one, so it goes with no other; leave out either"
        )


def search_target(min_agreement: float) -> float:
    """The agreement that the search for float layers aims at, for what the gate asks.

    It leaves half of what the gate lets go: the gate judges other photos than those that chose, and
    is met by chance where both ask the same. It aims at 99 % where the gate asks for less than 98.
    """
    return max(QuantizeConfig().min_agreement, min(1.0, 1 - (1 - min_agreement) / 2))


def _forms(target: Target, precision: str, *, engine: EngineFacts | None, call: Call) -> list[Form]:
    """What may be made: what the target has and the device runs, best first.

    Raises:
        UnknownNameError: If that is nothing.
    """
    if precision not in (*target.precisions, AUTO):
        raise unknown_name(
            f"precision of target {target.name}", precision, (*target.precisions, AUTO)
        )
    useful = target.precisions if engine is None else engine.precisions
    wanted = useful if precision == AUTO else (precision,)
    if precision not in (*useful, AUTO):
        raise UsageError(
            f"--precision {precision}: profile {call.profile} runs target {target.name} as "
            f"{' or '.join(useful)}; choose one of these, or leave out --profile"
        )
    preferred = call.scheme or (engine.scheme if engine else None)
    return [
        Form(precision=name, scheme=_choose_scheme(target, name, preferred))
        for name in (target.precisions if engine is None else _in_order(target, engine))
        if name in wanted
    ]


def _refuse_idle(forms: Sequence[Form], target: Target, asked: str, call: Call) -> None:
    """Refuses options that were given and would change nothing.

    Raises:
        UsageError: If there is one; it says when it has an effect.
    """
    integers = any(form.scheme for form in forms)
    # A target with an engine of its own judges decisions by that, also those of float models.
    decides = target.judges_natively or not all(f.precision in target.parity_limit for f in forms)
    of_integers = {
        "--keep-float": bool(call.keep_float),
        "--recover": call.recover,
        "--calibration-count": call.calibration_count is not None,
        **{f"--set {name}": True for name in call.quantization},
    }
    rules = (
        (of_integers, integers, "is about int8"),
        ({f"--prefer {call.prefer}": call.prefer != "speed"}, asked == AUTO,
         "is about --precision auto"),
        ({"--min-agreement": call.min_agreement is not None}, decides,
         "is about w8 and int8; fp32 and fp16 are judged by parity"),
    )  # fmt: skip
    for options, has_effect, when in rules:
        idle = [option for option, given in options.items() if given and not has_effect]
        if idle:
            raise UsageError(
                f"{idle[0]} {when}: with --precision {asked} it has no effect; leave it out"
            )


def _in_order(target: Target, engine: EngineFacts) -> list[Precision]:
    """The target's precisions that the device runs, in the device's order."""
    known: dict[str, Precision] = {name: name for name in target.precisions}
    return [known[name] for name in engine.precisions if name in known]


def _sort_out(
    forms: Sequence[Form], target: Target, precision: str, calibration: str | Path | None
) -> tuple[list[Form], list[Attempt]]:
    """The forms that can be made, and for `auto` those that cannot for want of photos."""
    if calibration is not None:
        return list(forms), []
    if precision == AUTO:
        # Judged by its decisions, which on coloured fields mean nothing.
        blind = [form for form in forms if form.precision not in target.parity_limit]
        hopeless = [
            Attempt(
                form=form,
                problem="needs photos to be judged by",
                helps="add --calibration FOLDER",
            )
            for form in blind
        ]
        return [form for form in forms if form not in blind], hopeless
    if forms[0].scheme is not None:
        raise UsageError(
            f"--precision {precision} needs photos to calibrate with; "
            "add --calibration FOLDER (labels are not needed)"
        )
    return list(forms), []


def _choose_scheme(target: Target, precision: Precision, scheme: str | None) -> str | None:
    known = target.schemes.get(precision, ())
    if not known:
        return None
    if scheme is not None and scheme not in known:
        raise unknown_name(f"scheme of {target.name} {precision}", scheme, known)
    return scheme or known[0]


def _choose_batch(target: Target, batch: Batch) -> Batch:
    if target.fixed_batch is None or batch == target.fixed_batch:
        return batch
    if batch != "dynamic":
        raise UsageError(
            f"--batch {batch}: target {target.name} takes photos {target.fixed_batch} at a time; "
            "leave it out"
        )
    return target.fixed_batch


def target_options(target: Target, options: Mapping[str, Any]) -> dict[str, Any]:
    """The target's options: its defaults, then the caller's.

    Raises:
        UnknownNameError: If the target has no such option.
    """
    for name in options:
        if name not in target.options:
            raise unknown_name(f"option of target {target.name}", name, target.options)
    return {**target.options, **options}


def sort_settings(
    target: str, settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings by name -> the target's options and the quantization's settings.

    Raises:
        UnknownNameError: If a name is neither.
    """
    options = TARGETS.load(target).options
    fields = [field.name for field in dataclasses.fields(QuantizeConfig)]
    for name in settings:
        if name not in options and name not in fields:
            raise unknown_name(f"setting of export to {target}", name, (*options, *fields))
    own = {name: value for name, value in settings.items() if name in options}
    return own, {name: value for name, value in settings.items() if name not in own}
