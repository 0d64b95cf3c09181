"""What a LiteRT file and its manifest say of each other, beside the numbers that it computes."""

from collections.abc import Iterator, Mapping

from edgeseed.core.bundle import Manifest
from edgeseed.core.preprocess import Preprocess
from edgeseed.export.file_metadata import compare_metadata, file_metadata
from edgeseed.export.target import Finding
from edgeseed.export.targets.litert.flatbuffer import SIGNATURE, File


def metadata_of(
    preprocess: Preprocess, *, precision: str, classes: tuple[str, ...] | None, input_type: str
) -> dict[str, str]:
    """The texts in a file; its input is of another order than in other formats, mostly bytes."""
    numbers = "bytes" if input_type == "uint8" else "pixels 0..255 as floats"
    values = f"{numbers} (height, width, channels)"
    return file_metadata(preprocess, precision=precision, classes=classes, values=values)


def check_file(
    file: File, manifest: Manifest, *, minimum_runtime: Mapping[str, str]
) -> Iterator[Finding]:
    """Differences between a file and its manifest.

    Args:
        file: The model.
        manifest: The bundle's.
        minimum_runtime: Which runtimes take such a file.
    """
    if dict(manifest.minimum_runtime) != dict(minimum_runtime):
        yield Finding(
            "minimum runtime",
            f"is {dict(minimum_runtime)}, the manifest says {dict(manifest.minimum_runtime)}",
        )
    if len(file.model.subgraphs) != 1:
        yield Finding("subgraphs", f"are {len(file.model.subgraphs)}, and the export writes one")
    keys = [each.signatureKey.decode() for each in file.model.signatureDefs or ()]
    if keys != [SIGNATURE]:
        yield Finding("signatures", f"are {keys}, and the export writes {SIGNATURE}")
    yield from _foreign(file)
    yield from _image(file)
    yield from _unread(file)
    yield from _metadata(file, manifest)


def _foreign(file: File) -> Iterator[Finding]:
    for operator in file.operators:
        if operator.kind in ("CUSTOM", "?", "CALL", "CALL_ONCE"):
            yield Finding(
                file.name(operator.outputs[0]), "is computed by what a stock runtime does not have"
            )


def _image(file: File) -> Iterator[Finding]:
    """The input's integers are the photo's bytes: their scale is 1 and their zero point 0."""
    (image,) = file.graph.inputs
    scales = file.scales(int(image))
    if file.dtype(int(image)) == "float32":
        if scales is not None:
            yield Finding("input", "it is float, and has a scale that an app may divide by")
        return
    if scales is None or (float(scales.scale[0]), int(scales.zero_point[0])) != (1.0, 0):
        yield Finding("input", "its bytes are not read as 0 to 255")


def _unread(file: File) -> Iterator[Finding]:
    read = {at for operator in file.operators for at in operator.inputs}
    read |= {int(at) for at in (*file.graph.outputs, *file.graph.inputs)}
    for at in range(len(file.tensors)):
        if at not in read:
            what = "is a weight" if file.is_constant(at) else "is a value"
            yield Finding(file.name(at), f"{what} that nothing reads")


def _metadata(file: File, manifest: Manifest) -> Iterator[Finding]:
    wanted = metadata_of(
        manifest.preprocess,
        precision=manifest.precision,
        classes=manifest.classes,
        input_type=manifest.inputs[0].dtype,
    )
    yield from compare_metadata(file.metadata(), wanted)
    name = (file.graph.name or b"").decode()
    if name != manifest.name:
        yield Finding("graph name", f"is {name!r}, the manifest's is {manifest.name!r}")
