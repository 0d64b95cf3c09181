"""`MODEL_CARD.md` of a bundle: how the model is called, what was proven, what it was made from."""

from collections.abc import Mapping

from edgeseed.core.bundle import Manifest
from edgeseed.core.preprocess import COLORS, Preprocess
from edgeseed.core.records import PhotosRecord, SelectionCandidate
from edgeseed.export.samples import SYNTHETIC


def model_card(manifest: Manifest) -> str:
    """`MODEL_CARD.md`: what the model is, how it is called, and what was proven."""
    preprocess, image = manifest.preprocess, manifest.inputs[0]
    outputs = "\n".join(_output_rows(manifest))
    gates = "\n".join(_gate_rows(manifest))
    runtime = ", ".join(
        f"{name} >= {version}" for name, version in manifest.minimum_runtime.items()
    )
    photos = manifest.provenance.photos
    return f"""# {manifest.name}, {manifest.target} {manifest.precision}

Model file: `{manifest.model}`. Runs on {runtime}.

## Call it

1. {_resize_step(preprocess)}
   ({preprocess.interpolation}, antialiased).
2. {_cut_step(preprocess)}, upright, {_colours(preprocess)}.
3. Give it as `{image.name}`, {list(image.shape)} {image.dtype}, values 0 to 255.
   Mean and std are inside the model: do not normalise.

| output | shape | type | what |
|---|---|---|---|
{outputs}

`golden/` holds {_golden_of(photos)}, the inputs that they must become, and the outputs that
the model must give.

## Proven

{_proven_on(photos)}

| gate | value | limit | passed | n | detail |
|---|---|---|---|---|---|
{gates}

`edgeseed verify` recomputes all of it from this folder.
{_speed_lines(manifest)}{_selection_lines(manifest)}
## Built from

Student {manifest.name}, sha256 `{manifest.student_sha256[:16]}...`;
edgeseed {manifest.provenance.edgeseed_version}.
"""


def _resize_step(preprocess: Preprocess) -> str:
    if preprocess.width is None:
        return f"Resize the photo's shorter side to {preprocess.resize} pixels"
    return f"Resize the photo until it covers {preprocess.box_text}"


def _cut_step(preprocess: Preprocess) -> str:
    if preprocess.width is None:
        return f"Cut out the centre square of {preprocess.image_size} pixels"
    height, width = preprocess.size
    return f"Cut out the centre, {height} pixels high and {width} wide"


def _colours(preprocess: Preprocess) -> str:
    if preprocess.channels == 1:
        return "as grey: (19595 R + 38470 G + 7471 B + 32768) >> 16"
    return COLORS[preprocess.channels]


def _golden_of(photos: PhotosRecord) -> str:
    return SYNTHETIC if photos.source == SYNTHETIC else "photos"


def _proven_on(photos: PhotosRecord) -> str:
    if photos.source == SYNTHETIC:
        return (
            f"On {photos.proof} {SYNTHETIC}, not on photos: none were given. "
            "`edgeseed export --calibration FOLDER` proves it on yours."
        )
    held_out = " held out from calibration" if photos.calibration else ""
    # A student is surer of what it was trained on, and agreement is higher there.
    known = photos.trained_on
    some = "which"
    if isinstance(known, Mapping):
        some = f"{known['photos']:,} of {known['of']:,} of which, as far as they can be compared,"
    trained_on = f", {some} the student was trained on" if known else ""
    return f"On {photos.proof} photos{held_out} (source: {photos.source}{trained_on})."


def _speed_lines(manifest: Manifest) -> str:
    record = manifest.speed
    if record is None:
        return ""
    if not record.timed:
        return f"\n## Speed\n\nNot compared: {record.reason}.\n"
    own = record.compared.get(manifest.precision)
    if own is None:  # several targets were compared
        own = record.compared[f"{manifest.target} {manifest.precision}"]
    return (
        f"\n## Speed\n\n{record.speedup:.2f} times as fast as {record.baseline} on the "
        f"machine that exported it (one photo, one thread, {own.n} rounds in turns; "
        f"{record.runner}). `edgeseed profile` measures it on the device.\n"
    )


def _selection_lines(manifest: Manifest) -> str:
    record = manifest.selection
    if record is None:
        return ""
    rows = "\n".join(
        f"| {row.name} | {row.verdict} | {_time(row)} | {row.reason} |" for row in record.candidates
    )
    head = "| precision | verdict | one photo | why |\n|---|---|---|---|"
    return f"\n## Chosen\n\n{record.why}.\n\n{head}\n{rows}\n"


def _time(row: SelectionCandidate) -> str:
    return "not timed" if row.median_ms is None else f"{row.median_ms:.2f} ms"


def card_problems(text: str, manifest: Manifest) -> list[str]:
    """What a model card says otherwise than its manifest.

    Its sentences may be those of another version; its facts are compared: outputs, gates, and how
    the model is called.
    """
    lines = text.splitlines()
    wanted = [*_output_rows(manifest), *_gate_rows(manifest)]
    problems = [f"MODEL_CARD.md lacks the row {row!r}" for row in wanted if row not in lines]
    headers = {"| output |", "| gate |", "| precision |"}
    rows = [line for line in lines if line.startswith("| ") and line.split("|")[1:2]]
    known = {row.split("|")[1] for row in wanted} | {line.split("|")[1] for line in headers}
    tried = () if manifest.selection is None else manifest.selection.candidates
    known |= {f" {row.name} " for row in tried}
    problems += [f"MODEL_CARD.md has the row {row!r}" for row in rows
                 if row.split("|")[1] not in known]  # fmt: skip
    preprocess = manifest.preprocess
    for fact in (
        f"# {manifest.name}, {manifest.target} {manifest.precision}",
        _resize_step(preprocess),
        _cut_step(preprocess),
        f"`{manifest.model}`",
        manifest.student_sha256[:16],
    ):
        if fact not in text:
            problems.append(f"MODEL_CARD.md does not say {fact!r}")
    return problems


def _output_rows(manifest: Manifest) -> list[str]:
    return [
        f"| `{o.name}` | {list(o.shape)} | {o.dtype} | {o.semantics} |" for o in manifest.outputs
    ]


def _gate_rows(manifest: Manifest) -> list[str]:
    return [
        f"| {g.name} | {g.value:.4g} {g.unit} | {g.limit:g} "
        f"| {'yes' if g.passed else 'NO'} | {g.n} | {g.detail} |"
        for g in manifest.gates
    ]
