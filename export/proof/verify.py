"""`edgeseed verify`: recomputes every gate from the bundle alone."""

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from edgeseed.core.agreement import golden_error, golden_limit
from edgeseed.core.arrays import read_arrays
from edgeseed.core.bundle import (
    LABELS_FILE,
    MODEL_CARD,
    PHOTOS_FILE,
    SIMULATED_FILE,
    STUDENT_FILE,
    Bundle,
    GateResult,
    Manifest,
    read_bundle,
)
from edgeseed.core.config import to_plain
from edgeseed.core.environment import edgeseed_version
from edgeseed.core.errors import ArtifactError, GateError, SchemaVersionError, UsageError
from edgeseed.core.files import sha256_file
from edgeseed.core.network import StudentNetwork, load_student
from edgeseed.core.photos import open_photos
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.scratch import scratch_folder
from edgeseed.core.student import StudentSpec
from edgeseed.export.added_outputs import OWN_OUTPUTS, AddedOutput, added_problems, parse_added
from edgeseed.export.bundling.card import card_problems
from edgeseed.export.bundling.interface import tensor_specs
from edgeseed.export.proof import gates
from edgeseed.export.proof.diagnosis import layer_errors, likely_cause, worst_layers
from edgeseed.export.proof.golden import Golden, golden_inputs, read_golden
from edgeseed.export.proof.reference import Outputs, reference_outputs, rounded_draws
from edgeseed.export.proof.rounding import Simulated, read_simulated
from edgeseed.export.samples import Photos, preprocess_photos
from edgeseed.export.target import Model, NotRun, Precision, Target
from edgeseed.export.targets import TARGETS

_MORE_PHOTOS = "try more or more typical calibration photos or another --precision"
_RECOVERY = "let int8 learn with --recover, "
_NOT_ROUNDING = "more than rounding changed the file's outputs; export it again"
_ADVICE = {
    "parity": "the file does not compute what the student computes; export it again",
    "top1_agreement": f"{_MORE_PHOTOS}, or accept less with --min-agreement",
    "self_retrieval": f"{_MORE_PHOTOS}, or accept less with --min-agreement",
    "embedding_cosine": _MORE_PHOTOS,
    "rounding": _NOT_ROUNDING,
    "logits_rms": _NOT_ROUNDING,
    "logits_kl": _NOT_ROUNDING,
    "worst_cosine": _NOT_ROUNDING,
    "low_cosine": _NOT_ROUNDING,
    "scale": _NOT_ROUNDING,
    "neighbours": _NOT_ROUNDING,
    "channels": _NOT_ROUNDING,
    "accuracy_drop": f"{_MORE_PHOTOS}, or accept more with --max-drop",
    "added_outputs": "the file computes probabilities or classes wrongly; export it again",
    "batch": "export with --batch 1, or report the operator that mixes photos",
    "golden": "golden files, preprocessing and model do not belong together; export it again",
    "student": "the manifest describes another student; export it again",
    "recorded": "the manifest was edited; export it again",
    "contents": "the files were edited, or belong to another bundle; export it again",
    "lint": "export it again; see `edgeseed explain` for what stayed in float and why",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyResult:
    """What `verify` found."""

    bundle: str
    target: str
    precision: str
    runner: str
    """What computed the model here; a reference interpreter is not a device."""
    gates: tuple[GateResult, ...]
    notes: tuple[str, ...] = ()
    """What a reader of the gates should know: limits below the default, photos that stand in."""

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return all(gate.passed for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        plain: dict[str, Any] = to_plain(self)
        return {**plain, "passed": self.passed}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that the gates look at."""

    folder: Path
    manifest: Manifest
    target: Target
    model: Model
    network: StudentNetwork
    spec: StudentSpec
    proof: Photos
    golden: Golden
    simulated: Simulated | None = None
    """What rounding alone makes of the student's outputs; None for a float model, and in bundles
    of before this was kept."""
    against: Path | None = None
    """A student file from outside that the bundle is held to; no limit is the bundle's own then."""
    demanded: gates.Limits | None = None
    """With `against`: what its user demands, in place of the defaults."""

    @property
    def quantized(self) -> bool:
        """Whether the model is judged by agreement in place of parity."""
        return self.parity_limit is None

    @functools.cached_property
    def parity_limit(self) -> float | None:
        """The target's; of float16 as far as the student itself bears the rounding."""
        limit = self.target.parity_limit.get(cast(Precision, self.manifest.precision))
        if limit is None or self.manifest.precision != "fp16":
            return limit
        # Of the photos that the gate judges: it takes the worst, and more photos have a worse one.
        subject = (self.network, self.spec.preprocess, self.proof.pixels)
        reference = reference_outputs(*subject)
        return gates.float16_limit(rounded_draws(*subject, reference), least=limit)

    @property
    def rounded(self) -> bool:
        """Whether the model rounds its values more coarsely than float32, so that a tie may tip."""
        return self.manifest.precision != "fp32"

    @property
    def limits(self) -> gates.Limits:
        """What was demanded when it was exported; of a student from outside, what is now."""
        # What is exported has no gates yet, and is judged to the photo. Another machine adds in
        # another order, by which one photo may change its class.
        spare = 1 if self.manifest.gates else 0
        if self.against is not None:
            demanded = self.demanded or gates.Limits(parity=None)
            return dataclasses.replace(demanded, parity=self.parity_limit, spare_photos=spare)
        settings = self.manifest.provenance.export
        return gates.Limits(
            parity=self.parity_limit,
            spare_photos=spare,
            min_agreement=settings.min_agreement or gates.MIN_AGREEMENT,
            max_drop_points=gates.MAX_DROP_POINTS
            if settings.max_drop is None
            else settings.max_drop,
        )


def verify(
    bundle: str | Path,
    *,
    data: str | Path | None = None,
    against: str | Path | None = None,
    min_agreement: float | None = None,
    max_drop: float | None = None,
) -> VerifyResult:
    """Recomputes every gate of a bundle, from what lies in it.

    Without `against` this finds accidents: the student, the photos and the limits that it is judged
    by lie in the bundle, and whoever changes all of them alike is not found out.

    Args:
        bundle: The bundle's folder.
        data: Photos to judge agreement (and, with labels, accuracy) on, besides those in the
            bundle.
        against: The student file that the bundle is said to be made from, from a place that you
            trust. It takes the place of the one in the bundle, the limits are yours or the
            defaults, and what rounding costs is not taken from the bundle. Give `data` too: the
            photos in the bundle are its maker's choice.
        min_agreement: With `against`: least share of photos on which w8 and int8 decide as float
            does; 0.98 if not given. A bundle that was exported with less needs it.
        max_drop: With `against`: by how many points accuracy may be lower; 1 if not given.

    Returns:
        All gates, all passed.

    Raises:
        UsageError: If a limit is out of range, has no effect, or is given without `against`.
        ArtifactError: If a file is missing, added or changed, or is not what the manifest says.
        GateError: If a gate does not hold: which, by how much, the likely cause and what helps.
            Its `result` has all gates.
    """
    demanded = _demanded(min_agreement, max_drop, against=against)
    opened = read_bundle(bundle, check=True)
    evidence = gather(opened, against=None if against is None else Path(against), demanded=demanded)
    if min_agreement is not None and not (evidence.quantized or evidence.target.judges_natively):
        raise UsageError(
            "--min-agreement is for w8 and int8; this bundle is "
            f"{opened.manifest.precision}, which is held to the student's outputs: leave it out"
        )
    results = judge(evidence)
    if against is None:
        # Before `contents`: an edited gate is told as that, not by the card that it no longer fits.
        results.insert(-1, _recorded_gate(evidence, results))
    results += _judge_natively(evidence)
    compiled = evidence.target.compile_gate(opened.path, opened.manifest)
    if isinstance(compiled, GateResult):
        results.append(compiled)
    if data is not None:
        results += _judge_data(evidence, data)
    result = VerifyResult(
        bundle=str(bundle),
        target=opened.manifest.target,
        precision=opened.manifest.precision,
        runner=evidence.model.runner,
        gates=tuple(results),
        notes=(
            *_notes(evidence, data=data),
            *([str(compiled)] if isinstance(compiled, NotRun) else []),
        ),
    )
    try:
        require_passed(evidence, results)
    except GateError as error:
        error.result = result
        raise
    return result


def _demanded(
    min_agreement: float | None, max_drop: float | None, *, against: str | Path | None
) -> gates.Limits:
    """The limits of a caller who trusts nothing in the bundle."""
    given = {"--min-agreement": min_agreement, "--max-drop": max_drop}
    if against is None and (names := [name for name, each in given.items() if each is not None]):
        raise UsageError(
            f"{names[0]} belongs to --against STUDENT; without it a bundle is held to the limits "
            "that it was exported with"
        )
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise UsageError(f"--min-agreement is {min_agreement:g}; it is a share, from 0 to 1")
    # Written so that NaN is refused.
    if max_drop is not None and not max_drop >= 0:
        raise UsageError(f"--max-drop is {max_drop:g}; it is points of accuracy, from 0 on")
    return gates.Limits(
        parity=None,
        min_agreement=gates.MIN_AGREEMENT if min_agreement is None else min_agreement,
        max_drop_points=gates.MAX_DROP_POINTS if max_drop is None else max_drop,
    )


def _notes(evidence: Evidence, *, data: str | Path | None) -> Iterator[str]:
    limits, usual = evidence.limits, gates.Limits(parity=None)
    whose = "as it was exported" if evidence.against is None else "as you asked"
    if limits.parity is None and limits.min_agreement < usual.min_agreement:
        yield (
            f"judged by --min-agreement {limits.min_agreement:g}, {whose}; the default "
            f"is {usual.min_agreement:g}"
        )
    if limits.max_drop_points > usual.max_drop_points:
        yield (
            f"judged by --max-drop {limits.max_drop_points:g}, {whose}; the default is "
            f"{usual.max_drop_points:g}"
        )
    if limits.parity is None and evidence.simulated is None and evidence.against is None:
        yield (
            "made before the cost of rounding was kept, so quantized logits are not gated; export "
            "it again, or use --against STUDENT"
        )
    if evidence.against is not None and data is None:
        yield "judged on the bundle's own photos; add --data to judge it on yours"


def gather(
    bundle: Bundle, *, against: Path | None = None, demanded: gates.Limits | None = None
) -> Evidence:
    """Opens everything in a bundle.

    Args:
        bundle: The bundle.
        against: A student file to take in place of the bundle's own, and nothing to believe.
        demanded: The limits with `against`; None for the defaults.
    """
    manifest = bundle.manifest
    target = _known_target(bundle)
    network, spec = load_student(against or bundle.path / STUDENT_FILE)
    if against is not None:
        check_same_form(bundle, spec, against)
    return Evidence(
        folder=bundle.path,
        manifest=manifest,
        target=target,
        model=target.open(bundle.path, manifest),
        network=network,
        spec=spec,
        proof=read_proof(bundle.path),
        golden=read_golden(bundle.path),
        simulated=read_simulated(bundle.path) if against is None else None,
        against=against,
        demanded=demanded,
    )


def check_same_form(bundle: Bundle, spec: StudentSpec, against: Path) -> None:
    """Refuses a student that takes other photos, or gives other outputs, than the bundle.

    Raises:
        ArtifactError: If it does; the bundle was made from another student.
    """
    manifest = bundle.manifest
    (image, *_) = manifest.inputs
    own = {each.name: each.shape[-1] for each in manifest.outputs if each.name in OWN_OUTPUTS}
    wanted: dict[str, int | str] = {"embedding": spec.embedding_dim}
    if spec.classes is not None:
        wanted["logits"] = len(spec.classes)
    channels, height, width = spec.preprocess.shape
    form = tuple(image.shape[1:])  # formats have the channels first or last
    if own != wanted:
        found, asked = (
            ", ".join(f"{size} values of {name}" for name, size in sizes.items())
            for sizes in (own, wanted)
        )
        raise ArtifactError(
            f"{bundle.path} was not made from {against}: it gives {found}, the student {asked}"
        )
    if form not in ((channels, height, width), (height, width, channels)):
        shown, asked = (" x ".join(map(str, each)) for each in (form, spec.preprocess.shape))
        raise ArtifactError(
            f"{bundle.path} was not made from {against}: it takes photos of {shown}, the student "
            f"of {asked}"
        )


def _known_target(bundle: Bundle) -> Target:
    """The bundle's target, if this version has it and its precision.

    Raises:
        SchemaVersionError: If it does not; it names the version that does.
    """
    manifest = bundle.manifest
    writer = manifest.provenance.edgeseed_version or "another version"
    if manifest.target in TARGETS.names():
        target: Target = TARGETS.load(manifest.target)
        if manifest.precision in target.precisions:
            return target
    raise SchemaVersionError(
        f"{bundle.path}: this edgeseed {edgeseed_version()} has no target {manifest.target} with "
        f"precision {manifest.precision}; the bundle was made by edgeseed {writer}, which has"
    )


def read_proof(folder: Path) -> Photos:
    """The held-out photos of a bundle.

    Raises:
        ArtifactError: If they cannot be read.
    """
    arrays = read_arrays(folder / PHOTOS_FILE)
    if "pixels" not in arrays:
        raise ArtifactError(f"{folder / PHOTOS_FILE} holds no pixels; export the bundle anew")
    return Photos(pixels=arrays["pixels"], labels=arrays.get("labels"))


def judge(evidence: Evidence, *, reference: Outputs | None = None) -> list[GateResult]:
    """All gates that rest on the bundle's own photos.

    Args:
        evidence: The opened bundle.
        reference: The float student's outputs on those photos; computed where they are not known.
    """
    pixels = evidence.proof.pixels
    if reference is None:
        reference = reference_outputs(evidence.network, evidence.spec.preprocess, pixels)
    outputs = evidence.model.answer(pixels)
    return [
        _student_gate(evidence),
        *closeness_gates(evidence, outputs, reference, evidence.proof.labels),
        *_rounding_gates(evidence, outputs, reference),
        *_added_gates(evidence, outputs),
        # Where the format itself takes one photo at a time, there is no batch that could mix them.
        *([] if evidence.target.fixed_batch == 1 else [_batch_gate(evidence)]),
        _golden_gate(evidence),
        gates.flag_gate("lint", [str(finding) for finding in evidence.model.lint()], n=1),
        _contents_gate(evidence),
    ]


def closeness_gates(
    evidence: Evidence, outputs: Outputs, reference: Outputs, labels: npt.NDArray[np.int64] | None
) -> list[GateResult]:
    """Parity for float models, agreement for quantized ones, accuracy where labels are known."""
    limits = evidence.limits
    results = (
        gates.similarity_gates(outputs, reference, limits=limits)
        if limits.parity is None
        else [gates.parity_gate(outputs, reference, limit=limits.parity)]
    )
    if labels is not None and "logits" in reference:
        results.append(
            gates.accuracy_gate(
                outputs["logits"],
                reference["logits"],
                labels,
                max_drop_points=limits.max_drop_points,
            )
        )
    return results


def _rounding_gates(evidence: Evidence, outputs: Outputs, reference: Outputs) -> list[GateResult]:
    if evidence.limits.parity is not None:
        return []
    if evidence.against is not None:
        return gates.fixed_gates(outputs, reference)
    if evidence.simulated is None:
        return []
    shapes = {name: each.shape for name, each in reference.items()}
    kept = (evidence.simulated.outputs, evidence.simulated.again or reference)
    if any({name: each.shape for name, each in some.items()} != shapes for some in kept):
        raise ArtifactError(
            f"{evidence.folder / SIMULATED_FILE} is not of this student and these photos; "
            "export the bundle anew"
        )
    return gates.rounding_gates(
        outputs, reference, evidence.simulated, slack=evidence.target.rounding_slack
    )


def _added(manifest: Manifest) -> tuple[AddedOutput, ...]:
    """Outputs besides the student's own, as the export was asked for them.

    Raises:
        ArtifactError: If the manifest asks for what there is not.
    """
    try:
        return parse_added(manifest.provenance.export.add_outputs)
    except UsageError as error:
        raise ArtifactError(f"the manifest's provenance: {error}") from error


def _added_gates(evidence: Evidence, outputs: Mapping[str, npt.NDArray[Any]]) -> list[GateResult]:
    added = _added(evidence.manifest)
    if not added or evidence.spec.classes is None:
        return []  # the gate of the student says that it has none
    problems = added_problems(outputs, added)
    return [gates.flag_gate("added_outputs", problems, n=len(outputs["logits"]))]


def _student_gate(evidence: Evidence) -> GateResult:
    """The manifest and the labels say of the student what the student says of itself."""
    manifest, spec, folder = evidence.manifest, evidence.spec, evidence.folder
    problems = []
    student = evidence.against or folder / STUDENT_FILE
    if sha256_file(student) != manifest.student_sha256:
        name = evidence.against or STUDENT_FILE
        problems.append(f"{name} is not the student that was exported")
    if evidence.spec.architecture.name != manifest.name:
        problems.append(
            f"name is {manifest.name}, the student's architecture {spec.architecture.name}"
        )
    meant, given = spec.preprocess.to_dict(), manifest.preprocess.to_dict()
    problems += [
        f"preprocess.{key} is {given[key]} in the manifest, {meant[key]} in the student"
        for key in meant
        if given[key] != meant[key]
    ]
    if manifest.classes != spec.classes:
        problems.append(
            "classes in the manifest are not the student's: renamed or in another order"
        )
    if spec.classes is not None:
        lines = tuple((folder / LABELS_FILE).read_text(encoding="utf-8").splitlines())
        if lines != spec.classes:
            problems.append("labels.txt is not the student's: renamed or in another order")
    if manifest.embedding_dim != spec.embedding_dim:
        problems.append(
            f"embedding_dim is {manifest.embedding_dim}, the student's {spec.embedding_dim}"
        )
    batch = manifest.inputs[0].shape[0] if manifest.inputs else "batch"
    inputs, outputs = tensor_specs(
        spec,
        evidence.target,
        batch=batch if isinstance(batch, int) else "dynamic",
        outputs=("embedding", "logits")[: 1 if spec.classes is None else 2],
        options=manifest.provenance.export.options,
        added=_added(manifest),
    )
    for kind, said, own in (
        ("inputs", manifest.inputs, inputs),
        ("outputs", manifest.outputs, outputs),
    ):
        if said != own:
            problems.append(f"{kind} in the manifest are {said}, the student's {own}")
    return gates.flag_gate("student", problems, n=1)


def _batch_gate(evidence: Evidence) -> GateResult:
    pixels = np.asarray(evidence.proof.pixels[: max(gates.BATCHES)])
    alone = [evidence.model.infer(pixels[i : i + 1]) for i in range(len(pixels))]
    singles = {name: np.concatenate([one[name] for one in alone]) for name in alone[0]}
    together = {
        size: evidence.model.infer(pixels[:size])
        for size in gates.BATCHES
        if 1 < size <= len(pixels)
    }
    batch = evidence.manifest.inputs[0].shape[0]
    fixed = batch if isinstance(batch, int) else None
    return gates.batch_gate(singles, together, rounded=evidence.rounded, fixed=fixed)


def _contents_gate(evidence: Evidence) -> GateResult:
    """What the files say beside their numbers, found anew."""
    findings = evidence.target.check(
        evidence.folder, evidence.manifest, evidence.model, evidence.golden.inputs
    )
    problems = [str(finding) for finding in findings]
    card = evidence.folder / MODEL_CARD
    if card.is_file():  # while a bundle is made, it is written last
        problems += card_problems(card.read_text(encoding="utf-8"), evidence.manifest)
    return gates.flag_gate("contents", problems, n=1)


def _golden_gate(evidence: Evidence) -> GateResult:
    golden, limit = evidence.golden, golden_limit(evidence.manifest.precision)
    problems = []
    if not np.array_equal(golden_inputs(golden.photos, evidence.spec.preprocess), golden.inputs):
        problems.append(
            "golden/inputs.npy is not what the student's preprocessing makes of the photos: "
            "another resize mode, crop, size or channel order"
        )
    floats = reference_outputs(evidence.network, evidence.spec.preprocess, golden.inputs)
    for stored, computed, what in (
        (golden.float_outputs, floats, "golden/float.npz is not the float student's output"),
        (
            golden.model_outputs,
            evidence.model.answer(golden.inputs),
            "golden/model.npz is not the model's output",
        ),
    ):
        tolerance = limit if computed is not floats else golden_limit("fp32")
        if stored.keys() != computed.keys():
            has, meant = ", ".join(stored), ", ".join(computed)
            problems.append(f"{what}: it has {has}, meant were {meant}")
            continue
        worst = max(golden_error(name, stored[name], computed) for name in computed)
        if worst > tolerance:
            problems.append(f"{what} (relative error {worst:.2g}, limit {tolerance:g})")
    return gates.flag_gate("golden", problems, n=len(golden.inputs))


def _recorded_gate(evidence: Evidence, results: list[GateResult]) -> GateResult:
    """The manifest's values are those that the bundle gives now."""
    now = {gate.name: gate for gate in results}
    problems = []
    for gate in evidence.manifest.gates:
        found = now.get(gate.name)
        if found is None:
            problems.append(f"{gate.name} is recorded, and cannot be computed any more")
            continue
        if gate.n != found.n:
            problems.append(f"{gate.name}: n={gate.n} recorded, {found.n} found")
        # float16's limit is measured, by kernels that round a little differently on other machines.
        # So are the limits of rounding.
        measured = gate.name in gates.MEASURED or (
            gate.name == "parity" and evidence.manifest.precision == "fp16"
        )
        if not math.isclose(gate.limit, found.limit, rel_tol=0.1 if measured else 1e-9):
            problems.append(
                f"{gate.name}: limit {gate.limit:g} recorded, {found.limit:g} is in force"
            )
        # What `contents` finds it names itself, and better than two counts that differ.
        says_itself = gate.name == "contents" and found.value > 0
        if abs(gate.value - found.value) > _wobble(found) and not says_itself:
            problems.append(f"{gate.name}: {gate.value:.4g} recorded, {found.value:.4g} found")
    recorded = {gate.name for gate in evidence.manifest.gates}
    # Bundles of before have no `contents`; it finds the same whether it was recorded or not.
    missing = [name for name in now if name not in recorded | {"contents"}]
    problems += [f"{name} is not recorded" for name in missing]
    return gates.flag_gate("recorded", problems, n=len(evidence.manifest.gates))


def _wobble(gate: GateResult) -> float:
    """How far a value may move from one machine to the next: kernels round differently."""
    if gate.unit == "share of photos":
        return 2 / gate.n + 0.005
    if gate.unit == "points":
        return 200 / gate.n + 0.5
    if gate.unit in ("share of neighbours", "least cosine"):
        return 0.05
    return max(0.01, gate.limit)


def _judge_natively(evidence: Evidence) -> list[GateResult]:
    """Decisions and embeddings of the format's own engine, where `infer` is not that.

    Closeness is not asked of it: a Neural Engine sums in float16, and may.
    """
    pixels = evidence.proof.pixels
    outputs = evidence.model.infer_natively(pixels)
    if outputs is None:
        return []
    reference = reference_outputs(evidence.network, evidence.spec.preprocess, pixels)
    found = gates.similarity_gates(outputs, reference, limits=evidence.limits)
    return [dataclasses.replace(gate, name=f"{gate.name} on this machine") for gate in found]


def _judge_data(evidence: Evidence, data: str | Path) -> list[GateResult]:
    photos = open_photos(data)
    with scratch_folder() as scratch:
        samples = preprocess_photos(
            photos, evidence.spec.preprocess, classes=evidence.spec.classes, scratch=scratch
        )
        reference = reference_outputs(evidence.network, evidence.spec.preprocess, samples.pixels)
        outputs = evidence.model.answer(samples.pixels)
        found = [
            *closeness_gates(evidence, outputs, reference, samples.labels),
            *_added_gates(evidence, outputs),
        ]
    return [dataclasses.replace(gate, name=f"{gate.name} on {photos.name}") for gate in found]


def require_passed(evidence: Evidence, results: list[GateResult]) -> None:
    """Raises for the first gate that does not hold, with the cause where one is found.

    Raises:
        GateError: If there is one.
    """
    failed = [gate for gate in results if not gate.passed]
    if not failed:
        return
    gate = failed[0]
    others = f" (and {', '.join(other.name for other in failed[1:])})" if failed[1:] else ""
    cause = _named_cause(evidence, failed)
    explanation = "; ".join(part for part in (shortfall(gate), cause) if part)
    raise GateError(
        f"gate {gate.name}{others} failed: {explanation}; "
        f"{advice(gate, evidence.target, evidence.manifest.precision)}"
        f"{_other_version(evidence)}"
    )


def _other_version(evidence: Evidence) -> str:
    writer, own = evidence.manifest.provenance.edgeseed_version, edgeseed_version()
    if writer in (None, own):
        return ""
    return (
        f" (made by edgeseed {writer}, this is {own}: edgeseed=={writer} has the gates it passed)"
    )


def shortfall(gate: GateResult) -> str:
    """By how much a gate does not hold."""
    if gate.unit == "problems":
        return gate.detail
    return f"{gate.value:.4g} {gate.unit}, limit {gate.limit:g}"


def advice(gate: GateResult, target: Target, precision: str) -> str:
    """Which knob helps against a gate that a file of this precision does not hold."""
    known = {**_ADVICE, **target.advice}
    found = known.get(gate.name.partition(" on ")[0], "export it again")
    # Weights alone, as of w8, do not learn.
    return f"{_RECOVERY}{found}" if precision == "int8" and _MORE_PHOTOS in found else found


def _named_cause(evidence: Evidence, failed: list[GateResult]) -> str:
    gate = failed[0]
    # What is wrong with the file itself says more than a guess from its outputs could.
    lint = next((other.detail for other in failed if other.name == "lint"), "")
    if gate.unit == "problems":
        # It says itself what is wrong, but for outputs that are not those of the export.
        return lint or _cause(evidence) if gate.name == "golden" else ""
    return lint or _explain(evidence)


def _explain(evidence: Evidence) -> str:
    cause = _cause(evidence)
    if cause:
        return cause
    quantization = evidence.manifest.quantization
    errors = layer_errors(*_subject(evidence), quantization=quantization)
    return f"layers that add most error: {worst_layers(errors)}" if errors else ""


def _cause(evidence: Evidence) -> str:
    cause = likely_cause(
        *_subject(evidence),
        tolerance=0.02 if evidence.quantized else 1e-3,
        quantization=evidence.manifest.quantization,
    )
    return f"likely cause: {cause}" if cause else ""


def _subject(evidence: Evidence) -> tuple[Model, StudentNetwork, Preprocess, npt.NDArray[np.uint8]]:
    pixels = evidence.proof.pixels
    return evidence.model, evidence.network, evidence.spec.preprocess, pixels
