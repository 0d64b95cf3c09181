"""`edgeseed export`: a student file becomes a proven bundle."""

import dataclasses
import inspect
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, Protocol, cast, overload

from edgeseed.core.bundle import Bundle, GateResult
from edgeseed.core.config import to_plain
from edgeseed.core.console import note, say, warn
from edgeseed.core.environment import environment
from edgeseed.core.errors import GateError, UsageError, WorkError
from edgeseed.core.files import atomic_directory, readable_size
from edgeseed.core.network import StudentNetwork, load_student
from edgeseed.core.options import insert_arguments
from edgeseed.core.photos import count_shared_by_hash
from edgeseed.core.pretrained import student_file
from edgeseed.core.records import QuantizationRecord, SelectionRecord, SpeedRecord
from edgeseed.core.scratch import scratch_folder
from edgeseed.core.student import StudentSpec
from edgeseed.export.added_outputs import check_added, parse_added
from edgeseed.export.bundling.builder import (
    BundleBuilder,
    StudentWork,
    baseline_precision,
    compare_with_float,
)
from edgeseed.export.bundling.writer import BuiltBundle, ExportSource, seal
from edgeseed.export.call import AnyCall, ExportCall, ExportListCall, Prefer
from edgeseed.export.photo_statistics import check_photos
from edgeseed.export.planning import AUTO, ExportPlan, make_plan, refuse_list, target_calls
from edgeseed.export.proof.verify import require_passed
from edgeseed.export.quantize.search.policy import POLICY
from edgeseed.export.samples import (
    MAX_CALIBRATION,
    SYNTHETIC,
    Samples,
    draw_samples,
)
from edgeseed.export.selection import (
    PrecisionTrial,
    build_candidate,
    select,
    selected_speed,
    time_candidates,
)
from edgeseed.export.target import NotRun, Target
from edgeseed.export.targets import TARGETS
from edgeseed.profiles import load as load_profile

_One = ParamSpec("_One")
_Several = ParamSpec("_Several")

_HOST = "host"
# Below this share or count, photos that the student was trained on are a few among others.
_LEAST_SHARED, _FEWEST_SHARED = 0.05, 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What `export` made."""

    bundle: str
    target: str
    precision: str
    model: str
    size_bytes: int
    """Of the model alone."""
    gates: tuple[GateResult, ...]
    quantization: QuantizationRecord | None
    speed: SpeedRecord | None
    """Beside the float model on this machine; None where nothing was compared."""
    selection: SelectionRecord | None
    """What `auto` tried, chose, and why."""
    seconds: float
    """By the clock; of several precisions, the first one's hold what all share."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        plain: dict[str, Any] = to_plain(self)
        for name in ("quantization", "speed", "selection"):
            block = getattr(self, name)
            plain[name] = None if block is None else block.to_dict()
        return plain


class _Export(Protocol[_One, _Several]):
    """What type checkers see of `export`: the constructors of its two calls."""

    @overload
    def __call__(self, *arguments: _One.args, **settings: _One.kwargs) -> ExportResult: ...
    @overload
    def __call__(
        self, *arguments: _Several.args, **settings: _Several.kwargs
    ) -> tuple[ExportResult, ...]: ...


def _typed(
    one: Callable[_One, object], several: Callable[_Several, object]
) -> Callable[[Callable[..., Any]], _Export[_One, _Several]]:
    def decorate(function: Callable[..., Any]) -> _Export[_One, _Several]:
        function.__doc__ = insert_arguments(function.__doc__ or "", cast("type[Any]", one))
        # For `help` and notebooks, which would show `*arguments, **settings`.
        function.__signature__ = inspect.signature(one)  # type: ignore[attr-defined]
        return cast("_Export[_One, _Several]", function)

    return decorate


@_typed(ExportCall, ExportListCall)
def export(  # they are those of ExportCall, added by the decorator
    *arguments: Any, **settings: Any
) -> ExportResult | tuple[ExportResult, ...]:
    """Exports a student as a bundle, and proves it.

    With a list of targets or precisions, a bundle of each in `out`, in less time than by a call for
    each: photos, trace, the float student's answers and the float model that int8 is timed beside
    are shared. So all are proven on the same photos: those held out from calibration, if w8 or
    int8 is among them. With a list of targets and `auto`, one bundle, in `out` itself.

    Returns:
        Where the bundle is, and its gates; of a list a tuple, in its order, targets first. The
        seconds of what is shared are those of the first that was made.

    Raises:
        UsageError: If the call does not make sense: unknown target or precision, no calibration
            photos, an argument that would have no effect, or a list with `auto` or one twice.
        WorkError: If the target cannot express the network.
        GateError: If a gate does not hold, for `auto` in every precision; nothing is written then.
    """
    several = any(not isinstance(settings.get(name, ""), str) for name in ("target", "precision"))
    call = ExportListCall(*arguments, **settings) if several else ExportCall(*arguments, **settings)
    if not isinstance(call.precision, str):
        refuse_list(call.precision)
    with student_file(call.student) as file:
        made = _export_file(dataclasses.replace(call, student=file))
    return tuple(made) if several else made[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wanted:
    """One bundle that is to be made."""

    targets: tuple[str, ...]
    """More than one for `auto`, which keeps the best of all."""
    precision: str
    label: str
    """What tells it from the others: its folder in `out`; empty for one alone."""


def _list_wanted(call: AnyCall, targets: Sequence[str]) -> list[_Wanted]:
    precisions = [call.precision] if isinstance(call.precision, str) else list(call.precision)
    if precisions == [AUTO]:
        return [_Wanted(targets=tuple(targets), precision=AUTO, label="")]
    # A list of one is a list: its bundle has a folder of its own, as those of more.
    by_target = not isinstance(call.target, str)
    by_precision = not isinstance(call.precision, str)
    return [
        _Wanted(
            targets=(target,),
            precision=precision,
            label="-".join([target] * by_target + [precision] * by_precision),
        )
        for target in targets
        for precision in precisions
    ]


def _export_file(call: AnyCall) -> list[ExportResult]:
    """Makes each bundle at its place, which is `out` or lies in it."""
    out = Path(call.out)
    times = [time.monotonic()]
    calls = target_calls(call)
    wanted = _list_wanted(call, list(calls))
    plans = {
        name: make_plan(own, [each.precision for each in wanted if name in each.targets])
        for name, own in calls.items()
    }
    network, spec = load_student(Path(call.student))
    for plan in plans.values():
        plan.target.require_modules()
        _check_channels(plan.target, spec)
    check_added(parse_added(call.add_outputs), spec.classes)
    # The float models first: the others are timed beside them.
    order = sorted(
        wanted, key=lambda each: each.precision != baseline_precision(plans[each.targets[0]].target)
    )
    bundles: list[Bundle] = []
    with atomic_directory(out) as folder, scratch_folder() as scratch:
        samples = _draw(call, list(plans.values()), network, spec, scratch)
        builders = _make_builders(call, plans, network, spec, samples, scratch)
        for each in order:
            inside = folder / each.label
            inside.mkdir(exist_ok=True)
            if len(wanted) > 1:
                say(f"making {each.targets[0]} {each.precision}")
            try:
                bundles.append(_make(call, plans, builders, each, inside))
            except (GateError, WorkError) as error:
                if len(wanted) == 1:
                    raise
                named = f"{each.label}: {error}"
                if isinstance(error, GateError):
                    raise GateError(named, result=error.result) from error
                raise WorkError(named) from error
            times.append(time.monotonic())
    times[-1] = time.monotonic()
    made = {
        each.label: _result(bundle, out=out / each.label, seconds=end - start)
        for each, bundle, start, end in zip(order, bundles, times, times[1:], strict=False)
    }
    return [made[each.label] for each in wanted]


def _make_builders(
    call: AnyCall,
    plans: Mapping[str, ExportPlan],
    network: StudentNetwork,
    spec: StudentSpec,
    samples: Samples,
    scratch: Path,
) -> dict[str, BundleBuilder]:
    """One for each target; what does not depend on the target is computed once for all."""
    found: dict[str, BundleBuilder] = {}
    work = None
    for name, plan in plans.items():
        source = ExportSource(
            student=Path(call.student), network=network, spec=spec, samples=samples,
            settings=plan.settings, environment=environment(),
        )  # fmt: skip
        work = work or StudentWork(source, scratch)
        own = scratch / name
        own.mkdir()
        found[name] = BundleBuilder(
            source, plan.target, batch=plan.batch, config=plan.config, scratch=own,
            keep_float=call.keep_float, work=work,
        )  # fmt: skip
    return found


def _check_channels(target: Target, spec: StudentSpec) -> None:
    channels = spec.preprocess.channels
    if channels not in target.channels:
        able = [name for name in TARGETS.names() if channels in TARGETS.load(name).channels]
        raise UsageError(
            f"--target {target.name} takes photos of {' or '.join(map(str, target.channels))} "
            f"channels, and this student has {channels}; use --target {' or '.join(able)}"
        )


def _draw(
    call: AnyCall,
    plans: Sequence[ExportPlan],
    network: StudentNetwork,
    spec: StudentSpec,
    scratch: Path,
) -> Samples:
    """The photos, with what there is to say of them."""
    decide = any(
        variant.precision not in plan.target.parity_limit
        for plan in plans
        for variant in plan.variants
    )
    samples = draw_samples(
        call.calibration,
        spec.preprocess,
        classes=spec.classes,
        scratch=scratch,
        calibrate=any(variant.scheme for plan in plans for variant in plan.variants),
        correcting=POLICY.bias_correction.of_size(*spec.preprocess.size) if decide else 0,
        max_calibration=call.calibration_count or MAX_CALIBRATION,
        seed=call.seed,
    )
    if shared := photos_trained_on(samples, spec):
        samples = samples.described(trained_on=shared)
    _say_what_proves(samples, max_drop=call.max_drop)
    if call.calibration is not None and decide:
        samples = samples.described(
            statistics=check_photos(samples.deciding, network, spec.preprocess)
        )
    return samples


def _make(
    call: AnyCall,
    plans: Mapping[str, ExportPlan],
    builders: Mapping[str, BundleBuilder],
    wanted: _Wanted,
    folder: Path,
) -> Bundle:
    """One bundle that was asked for, proven."""
    timed = call.speed and call.profile in (None, _HOST)
    if wanted.precision == AUTO:
        targets = [builders[name].target for name in wanted.targets]
        candidates = _try_all(plans, builders, _by_preference(wanted.targets, call.profile))
        baseline = baseline_precision(targets[0])
        return _keep_best(
            candidates, folder, timed=timed, prefer=call.prefer, profile=call.profile,
            baseline=f"{targets[0].name} {baseline}" if len(targets) > 1 else baseline,
        )  # fmt: skip
    (target,) = wanted.targets
    plan, builder = plans[target], builders[target]
    made = builder.make(plan.variants_of[wanted.precision][0], folder)
    if call.verify:
        compiled = plan.target.compile_gate(folder, made.bundle.manifest)
        if isinstance(compiled, NotRun):
            note(str(compiled))
        elif compiled is not None:
            say(f"{compiled.name}: {compiled.detail}")
        own = [compiled] if isinstance(compiled, GateResult) else []
        require_passed(made.evidence, [*made.gates, *own])
    return _with_speed(builder, made) if timed else made.bundle


def _by_preference(targets: Sequence[str], profile: str | None) -> list[str]:
    """Targets in the order of a profile's engines; without a profile as they are."""
    if profile is None:
        return list(targets)
    engines = [engine.target for engine in load_profile(profile).engines]
    return sorted(targets, key=engines.index)


def _try_all(
    plans: Mapping[str, ExportPlan], builders: Mapping[str, BundleBuilder], targets: Sequence[str]
) -> list[PrecisionTrial]:
    """All candidates of `auto`, those that could not be tried behind them."""
    made, skipped = [], []
    for name in targets:
        plan, builder, label = plans[name], builders[name], name if len(targets) > 1 else ""
        made += [
            build_candidate(builder, variant, builder.scratch / variant.precision, target=label)
            for variant in plan.variants_of[AUTO]
        ]
        skipped += [dataclasses.replace(trial, target=label) for trial in plan.skipped]
    return made + skipped


def photos_trained_on(samples: Samples, spec: StudentSpec) -> bool | dict[str, int]:
    """Whether a student was trained on the photos, as far as its file tells.

    Returns:
        True for a set that it was trained on, or on an unknown part of; for others that hold some
        of the same files, how many `photos` `of` how many that can be compared; else False.
    """
    photos = samples.source
    if photos is None or photos.fingerprint in spec.trained_on_all_of:
        return photos is not None
    shared = count_shared_by_hash(photos, spec.photo_hashes)
    if shared.count >= max(_FEWEST_SHARED, _LEAST_SHARED * shared.num_compared):
        return {"photos": shared.count, "of": shared.num_compared}
    return not shared.num_compared and photos.fingerprint in spec.trained_on


def _say_what_proves(samples: Samples, *, max_drop: float | None) -> None:
    """A warning where the proof is less than a reader of the gates would think."""
    if samples.synthetic:
        warn(
            f"no photos were given: {len(samples.proof)} {SYNTHETIC} stand in for them, which show "
            "that the file computes what the student computes, and no more; add --calibration "
            "FOLDER to prove it on yours"
        )
    if shared := samples.description.trained_on:
        some = samples.description.source
        if isinstance(shared, Mapping):
            some = f"{shared['photos']:,} of {shared['of']:,} photos of {some} that can be compared"
        note(
            f"the student was trained on {some}, and is surer of these photos than of any that "
            "come after: on those it will agree less often than the gates say; give --calibration "
            "photos that it was not trained on, if there are any"
        )
    if max_drop is not None and samples.proof.labels is None:
        warn(
            "--max-drop has no effect here: it needs --calibration in class folders named as the "
            "student's classes; it is kept for `edgeseed verify --data`"
        )


def _keep_best(
    candidates: Sequence[PrecisionTrial],
    folder: Path,
    *,
    timed: bool,
    prefer: Prefer,
    profile: str | None,
    baseline: str,
) -> Bundle:
    """Chooses among the candidates and copies the chosen one into `folder`."""
    speeds = time_candidates(candidates, baseline=baseline) if timed else {}
    selection = select(candidates, speeds, baseline=baseline, prefer=prefer, profile=profile)
    made = selection.candidate.made
    assert made is not None
    shutil.copytree(made.bundle.path, folder, dirs_exist_ok=True)
    return seal(
        folder,
        dataclasses.replace(
            made.bundle.manifest,
            speed=selected_speed(selection, baseline=baseline),
            selection=selection.record,
        ),
    )


def _with_speed(builder: BundleBuilder, made: BuiltBundle) -> Bundle:
    """For int8: the bundle with its speed beside float written down, and a warning if it lost."""
    manifest = made.bundle.manifest
    if manifest.quantization is None:
        return made.bundle
    record = compare_with_float(builder, made)
    if record.speedup is not None and record.speedup <= 1:
        warn(
            f"{manifest.precision} is not faster than {record.baseline} here: "
            f"{record.speedup:.2f} times as fast on one thread; ship it for its size only, or "
            "let --precision auto choose"
        )
    return seal(made.bundle.path, dataclasses.replace(manifest, speed=record))


def _result(bundle: Bundle, *, out: str | Path, seconds: float) -> ExportResult:
    manifest = bundle.manifest
    result = ExportResult(
        bundle=str(out),
        target=manifest.target,
        precision=manifest.precision,
        model=manifest.model,
        size_bytes=bundle.model_size_bytes,
        gates=manifest.gates,
        quantization=manifest.quantization,
        speed=manifest.speed,
        selection=manifest.selection,
        seconds=seconds,
    )
    say(
        f"exported {out}: {result.target} {result.precision}, "
        f"{readable_size(result.size_bytes)}, {seconds:.1f} s"
    )
    return result
