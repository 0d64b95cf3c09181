"""What a call of `export` comes to, and whether it makes sense, before a photo is read."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from edgeseed.core.config import build_config, to_plain
from edgeseed.core.errors import UsageError
from edgeseed.core.records import ExportSettings
from edgeseed.core.registry import unknown_name
from edgeseed.export.added_outputs import parse_added
from edgeseed.export.bundling.builder import Variant
from edgeseed.export.call import AnyCall, Batch, ExportCall, Prefer
from edgeseed.export.proof.gates import MAX_DROP_POINTS, MIN_AGREEMENT
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.selection import PrecisionTrial
from edgeseed.export.target import Precision, Target
from edgeseed.export.targets import TARGETS
from edgeseed.profiles import load as load_profile
from edgeseed.profiles.schema import EngineFacts

AUTO = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """What a call comes to, before student and photos are read."""

    target: Target
    batch: Batch
    config: QuantizeConfig
    settings: ExportSettings
    """For the manifest."""
    variants_of: Mapping[str, list[Variant]]
    """By the precision that was asked for: what is to be made for it."""
    skipped: list[PrecisionTrial]
    """What `auto` cannot try."""

    @property
    def variants(self) -> list[Variant]:
        """All that is made."""
        return [variant for variants in self.variants_of.values() for variant in variants]


def target_calls(call: AnyCall) -> dict[str, ExportCall]:
    """The call of each target: with those of its own options, and its own scheme, if several.

    Raises:
        UsageError: If there is no target, one twice, or an option or scheme that none has.
    """
    names = [call.target] if isinstance(call.target, str) else list(call.target)
    twice = [name for name in names if names.count(name) > 1]
    if not names:
        raise UsageError("--target names none; give one, or several with commas")
    if twice:
        raise UsageError(f"--target {','.join(names)}: {twice[0]} is given twice; give each once")
    targets: dict[str, Target] = {name: TARGETS.load(name) for name in names}
    values = {field.name: getattr(call, field.name) for field in dataclasses.fields(call)}
    if len(names) == 1:
        return {names[0]: ExportCall(**{**values, "target": names[0], "precision": ""})}
    known = dict.fromkeys(name for target in targets.values() for name in target.options)
    for name in call.options:
        if name not in known:
            raise unknown_name(f"option of targets {', '.join(names)}", name, known)
    schemes = {name: _all_schemes(target) for name, target in targets.items()}
    if call.scheme is not None and not any(call.scheme in each for each in schemes.values()):
        all_schemes = dict.fromkeys(scheme for each in schemes.values() for scheme in each)
        raise unknown_name(f"scheme of targets {', '.join(names)}", call.scheme, all_schemes)
    return {
        name: ExportCall(
            **{
                **values,
                "target": name,
                "precision": "",
                "options": {n: v for n, v in call.options.items() if n in target.options},
                "scheme": call.scheme if call.scheme in schemes[name] else None,
            }
        )
        for name, target in targets.items()
    }


def _all_schemes(target: Target) -> set[str]:
    return {scheme for schemes in target.schemes.values() for scheme in schemes}


def make_plan(call: ExportCall, precisions: Collection[str]) -> ExportPlan:
    """Checks a call of one target, and says what it comes to.

    Raises:
        UsageError: If it does not make sense.
    """
    target: Target = TARGETS.load(call.target)
    engine = None if call.profile is None else load_profile(call.profile).engine_for(call.target)
    if call.prefer not in get_args(Prefer):
        raise unknown_name("preference", call.prefer, get_args(Prefer))
    options = target_options(target, call.options)
    target.check_options(options)
    added = [each.name for each in parse_added(call.add_outputs)]
    if added and not target.adds_outputs:
        able = [name for name in TARGETS.names() if TARGETS.load(name).adds_outputs]
        raise UsageError(
            f"--add-outputs {','.join(added)}: target {target.name} adds no outputs; use --target "
            f"{' or '.join(able)}, or leave it out"
        )
    asked, possible = ",".join(precisions), list[Variant]()
    variants_of: dict[str, list[Variant]] = {}
    skipped: list[PrecisionTrial] = []
    for precision in precisions:
        variants = _list_variants(target, precision, engine=engine, call=call)
        possible += variants
        variants, refused = _split_unavailable(variants, target, precision, options)
        variants_of[precision], needs_photos = _split_variants(
            variants, target, precision, call.calibration
        )
        skipped += refused + needs_photos
    if call.scheme is not None and not any(variant.scheme for variant in possible):
        raise UsageError(
            f"--scheme is about the integers of int8; --precision {asked} of target "
            f"{target.name} has none"
        )
    _reject_unused_options(possible, target, asked, call)
    batch, config = _choose_batch(target, call.batch), quantize_config(call)
    settings = ExportSettings(
        target=call.target,
        requested=asked,
        batch=batch,
        seed=call.seed,
        min_agreement=_required_agreement(call),
        max_drop=MAX_DROP_POINTS if call.max_drop is None else call.max_drop,
        profile=call.profile,
        keep_float=list(call.keep_float),
        add_outputs=added,
        options=options,
        quantization=to_plain(config),
    )
    return ExportPlan(
        target=target, batch=batch, config=config, settings=settings,
        variants_of=variants_of, skipped=skipped,
    )  # fmt: skip


def _required_agreement(call: AnyCall) -> float:
    return MIN_AGREEMENT if call.min_agreement is None else call.min_agreement


def quantize_config(call: AnyCall) -> QuantizeConfig:
    """The settings of quantization that a call asks for."""
    asked = _required_agreement(call)
    values: dict[str, Any] = {
        "min_agreement": search_target(asked), "required_agreement": asked, **call.quantization,
    }  # fmt: skip
    if call.recover:
        values["recover"] = True
    return build_config(QuantizeConfig, values=values, what="quantization")


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


def _list_variants(
    target: Target, precision: str, *, engine: EngineFacts | None, call: AnyCall
) -> list[Variant]:
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
        Variant(precision=name, scheme=_choose_scheme(target, name, preferred))
        for name in (target.precisions if engine is None else _in_order(target, engine))
        if name in wanted
    ]


def _reject_unused_options(
    variants: Sequence[Variant], target: Target, asked: str, call: AnyCall
) -> None:
    """Refuses options that were given and would change nothing.

    Raises:
        UsageError: If there is one; it says when it has an effect.
    """
    integers = any(variant.scheme for variant in variants)
    # A target with an engine of its own has a gate of top-1 agreement, for float models too.
    decides = target.judges_natively or not all(
        f.precision in target.parity_limit for f in variants
    )
    of_integers = {
        "--keep-float": bool(call.keep_float),
        "--recover": call.recover,
        "--calibration-count": call.calibration_count is not None,
        **{f"--set {name}": True for name in call.quantization},
    }
    all_integer = [
        variant.scheme
        for variant in variants
        if variant.scheme is not None and not SCHEMES.load(variant.scheme).float_layers
    ]
    settings = call.quantization
    of_float_layers = {
        "--keep-float": bool(call.keep_float),
        # None at all may be asked for anywhere.
        "--set max_float_layers": str(settings.get("max_float_layers", 0)) != "0",
    }
    rules = (
        (of_integers, integers, "is about int8"),
        (of_float_layers, len(all_integer) < len(variants),
         f"is about layers in float, and scheme {all_integer[0] if all_integer else ''} has none"),
        ({f"--prefer {call.prefer}": call.prefer != "speed"}, asked == AUTO,
         "is about --precision auto"),
        ({"--min-agreement": call.min_agreement is not None}, decides,
         "is about w8 and int8; fp32 and fp16 are judged by parity"),
    )  # fmt: skip
    for options, has_effect, when in rules:
        unused = [option for option, given in options.items() if given and not has_effect]
        if unused:
            raise UsageError(
                f"{unused[0]} {when}: with --precision {asked} it has no effect; leave it out"
            )


def _in_order(target: Target, engine: EngineFacts) -> list[Precision]:
    """The target's precisions that the device runs, in the device's order."""
    known: dict[str, Precision] = {name: name for name in target.precisions}
    return [known[name] for name in engine.precisions if name in known]


def _split_unavailable(
    variants: Sequence[Variant], target: Target, precision: str, options: Mapping[str, Any]
) -> tuple[list[Variant], list[PrecisionTrial]]:
    """The variants that the target's options leave, and for `auto` the others.

    Raises:
        UsageError: If that is none that was asked for by name.
    """
    why = {
        each.precision: target.unavailable(each.precision, each.scheme, options)
        for each in variants
    }
    if precision != AUTO and (reason := next(iter(why.values()))):
        raise UsageError(f"--precision {precision}: {reason}")
    refused = [
        PrecisionTrial(variant=each, problem=why[each.precision])
        for each in variants
        if why[each.precision]
    ]
    return [each for each in variants if not why[each.precision]], refused


def _split_variants(
    variants: Sequence[Variant], target: Target, precision: str, calibration: str | Path | None
) -> tuple[list[Variant], list[PrecisionTrial]]:
    """The variants that can be made, and for `auto` those that cannot for want of photos."""
    if calibration is not None:
        return list(variants), []
    if precision == AUTO:
        # Their gate is top-1 agreement, which means nothing on coloured fields.
        needs_photos = [
            variant for variant in variants if variant.precision not in target.parity_limit
        ]
        skipped = [
            PrecisionTrial(
                variant=variant,
                problem="needs photos to be judged by",
                helps="add --calibration FOLDER",
            )
            for variant in needs_photos
        ]
        return [variant for variant in variants if variant not in needs_photos], skipped
    if variants[0].scheme is not None:
        raise UsageError(
            f"--precision {precision} needs photos to calibrate with; "
            "add --calibration FOLDER (labels are not needed)"
        )
    return list(variants), []


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
    targets: Sequence[str], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings by name -> the targets' options and the quantization's settings.

    Raises:
        UnknownNameError: If a name is neither.
    """
    options = dict.fromkeys(name for target in targets for name in TARGETS.load(target).options)
    fields = [field.name for field in dataclasses.fields(QuantizeConfig)]
    for name in settings:
        if name not in options and name not in fields:
            where = f"setting of export to {','.join(targets)}"
            raise unknown_name(where, name, (*options, *fields))
    own = {name: value for name, value in settings.items() if name in options}
    return own, {name: value for name, value in settings.items() if name not in own}
