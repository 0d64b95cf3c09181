"""What an ONNX file and its manifest say of each other, beside the numbers that it computes."""

from collections.abc import Iterator, Mapping
from typing import Any

from onnx import ModelProto

from edgeseed.core.bundle import Manifest
from edgeseed.export.file_metadata import compare_metadata, file_metadata
from edgeseed.export.target import Finding

_DEFAULT_DOMAINS = ("", "ai.onnx")


def check_file(
    model: ModelProto, manifest: Manifest, *, minimum_runtime: Mapping[str, str]
) -> Iterator[Finding]:
    """Differences between a file and its manifest.

    Args:
        model: The file.
        manifest: The bundle's.
        minimum_runtime: Which runtimes take such a file, found anew.
    """
    said: Mapping[str, Any] = manifest.provenance.model
    opsets = {item.domain: item.version for item in model.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx"))
    if opset != said.get("opset"):
        yield Finding("opset", f"is {opset}, the manifest says {said.get('opset')}")
    if model.ir_version != said.get("ir_version"):
        yield Finding(
            "IR version", f"is {model.ir_version}, the manifest says {said.get('ir_version')}"
        )
    if dict(manifest.minimum_runtime) != dict(minimum_runtime):
        yield Finding(
            "minimum runtime",
            f"is {dict(minimum_runtime)}, the manifest says {dict(manifest.minimum_runtime)}",
        )
    yield from _foreign(model, opsets)
    yield from _unread(model)
    yield from _metadata(model, manifest)


def _foreign(model: ModelProto, opsets: Mapping[str, int]) -> Iterator[Finding]:
    """Operators that a stock runtime lacks, and weights that lie in another file."""
    foreign = {node.domain for node in model.graph.node if node.domain not in _DEFAULT_DOMAINS}
    foreign |= {domain for domain in opsets if domain not in _DEFAULT_DOMAINS}
    for domain in sorted(foreign):
        yield Finding(domain, "is a domain of operators that a stock runtime does not have")
    if model.functions:
        yield Finding(model.functions[0].name, "is a function of the file's own")
    for tensor in model.graph.initializer:
        if tensor.external_data:
            yield Finding(tensor.name, "lies in another file, which the manifest does not name")


def _unread(model: ModelProto) -> Iterator[Finding]:
    graph = model.graph
    read = {name for node in graph.node for name in node.input}
    given = {item.name for item in graph.output}
    for tensor in graph.initializer:
        if tensor.name not in read | given:
            yield Finding(tensor.name, "is a weight that nothing reads")
    for node in graph.node:
        if not read.union(given).intersection(node.output):
            yield Finding(node.name or node.output[0], "computes what nothing reads")


def _metadata(model: ModelProto, manifest: Manifest) -> Iterator[Finding]:
    wanted = file_metadata(
        manifest.preprocess, precision=manifest.precision, classes=manifest.classes
    )
    yield from compare_metadata({item.key: item.value for item in model.metadata_props}, wanted)
    if model.graph.name != manifest.name:
        yield Finding("graph name", f"is {model.graph.name!r}, the manifest's is {manifest.name!r}")
    if model.doc_string or model.graph.doc_string:
        yield Finding("documentation", "is in the file, and the export writes none")
