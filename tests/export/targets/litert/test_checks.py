"""Mistakes in LiteRT files, made on purpose, the digests put right again."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeseed.core.bundle import read_bundle, seal_bundle
from edgeseed.core.errors import ArtifactError, GateError
from edgeseed.export import verify
from edgeseed.export.targets.litert.flatbuffer import File, StoredOperator, pack

pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert: pip install edgeseed[litert]")

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
Edit = Callable[[File], None]


@pytest.fixture(scope="module")
def bundles(litert_of: Callable[[str], Path]) -> dict[str, Path]:
    return {precision: litert_of(precision) for precision in ("fp32", "fp16", "w8", "int8")}


def layer(file: File, number: int, kinds: tuple[str, ...] = LAYERS) -> StoredOperator:
    return [each for each in file.operators if each.kind in kinds][number]


def change_constant(file: File, at: int, change: Callable[[Any], Any]) -> None:
    """Changes a stored tensor in place; its type stays."""
    value = file.constant(at)
    changed = np.ascontiguousarray(change(value.copy())).astype(value.dtype)
    buffer = file.model.buffers[file.tensors[at].buffer]
    buffer.data = np.frombuffer(changed.tobytes(), np.uint8)


def stored_weight(file: File, operator: StoredOperator) -> int:
    maker = file.makers().get(operator.inputs[1])
    return operator.inputs[1] if maker is None else maker.inputs[0]


def swap_colours(file: File) -> None:
    change_constant(file, stored_weight(file, layer(file, 0)), lambda value: value[..., ::-1])


def drop_a_bias(file: File) -> None:
    change_constant(file, layer(file, 3).inputs[2], np.zeros_like)


def double_a_weight(file: File) -> None:
    operator = layer(file, 3)
    change_constant(file, stored_weight(file, operator), lambda value: 2 * value)
    change_constant(file, operator.inputs[2], lambda value: 2 * value)


def shuffle_classes(file: File) -> None:
    head = layer(file, -1)
    for at in (stored_weight(file, head), head.inputs[2]):
        change_constant(file, at, lambda value: np.roll(value, 1, axis=0))


def zero_a_channel(file: File) -> None:
    def edit(value: Any) -> Any:
        value[0] = 0
        return value

    change_constant(file, stored_weight(file, layer(file, 5, ("CONV_2D",))), edit)


def drop_the_mean(file: File) -> None:
    (subtraction,) = [each for each in file.operators if each.kind == "SUB"]
    change_constant(file, subtraction.inputs[1], np.zeros_like)


def read_signed_bytes(file: File) -> None:
    scales = file.tensors[int(file.graph.inputs[0])].quantization
    scales.zeroPoint = np.array([128])


def halve_the_photo(file: File) -> None:
    file.tensors[int(file.graph.inputs[0])].quantization.scale = np.array([0.5], np.float32)


def forget_a_gate(file: File) -> None:
    """`x * sigmoid(x)` becomes `x * x`."""
    raw = [
        raw for operator, raw in zip(file.operators, file.graph.operators, strict=True)
        if operator.kind == "MUL" and not any(map(file.is_constant, operator.inputs))
    ][3]  # fmt: skip
    raw.inputs = np.array([raw.inputs[0], raw.inputs[0]], np.int32)


def swap_outputs(file: File) -> None:
    maps = file.model.signatureDefs[0].outputs
    maps[0].tensorIndex, maps[1].tensorIndex = maps[1].tensorIndex, maps[0].tensorIndex


def forget_the_signature(file: File) -> None:
    file.model.signatureDefs[0].signatureKey = "another"


def rename_the_graph(file: File) -> None:
    file.graph.name = "another"


def change_the_labels(file: File) -> None:
    for note in file.model.metadata:
        if note.name == b"edgeseed.labels":
            text = json.dumps(["red", "plain", "green", "blue"]).encode()
            file.model.buffers[note.buffer].data = np.frombuffer(text, np.uint8)


def drop_the_metadata(file: File) -> None:
    file.model.metadata = file.model.metadata[1:]


def leave_a_tensor(file: File) -> None:
    extra = type(file.tensors[0])()
    extra.name, extra.shape, extra.buffer = "left", np.array([1], np.int32), 0
    file.tensors.append(extra)


def double_an_activations_scale(file: File) -> None:
    at = list(file.activations())[4]
    scales = file.tensors[at].quantization
    scales.scale = scales.scale * np.float32(2)


def shift_a_zero_point(file: File) -> None:
    for at in list(file.activations())[3:]:
        scales = file.tensors[at].quantization
        if -100 < scales.zeroPoint[0] < 100:
            scales.zeroPoint = scales.zeroPoint + 1
            return
    raise AssertionError("no tensor has a zero point inside")


def shrink_all_ranges(file: File) -> None:
    for at in file.activations():
        scales = file.tensors[at].quantization
        scales.scale = scales.scale * np.float32(0.15)


def one_scale_for_all_channels(file: File) -> None:
    scales = file.tensors[stored_weight(file, layer(file, -1))].quantization
    scales.scale, scales.zeroPoint = scales.scale[:1], scales.zeroPoint[:1]


def a_weights_zero_point(file: File) -> None:
    scales = file.tensors[stored_weight(file, layer(file, 2))].quantization
    scales.zeroPoint = scales.zeroPoint + 3


def a_wider_stride_of_scales(file: File) -> None:
    """The scales of a layer's channels, in another order."""
    scales = file.tensors[stored_weight(file, layer(file, 4))].quantization
    scales.scale = scales.scale[::-1].copy()


# Faults of other precisions once more, and those that the same gate finds.
SLOW = (
    ("fp32", zero_a_channel), ("fp32", halve_the_photo), ("fp32", forget_a_gate),
    ("fp16", drop_a_bias),
    ("int8", shuffle_classes), ("int8", drop_a_bias), ("int8", a_wider_stride_of_scales),
)  # fmt: skip
FAULTS: list[tuple[str, Edit, str]] = [
    ("fp32", swap_colours, "parity"),
    ("fp32", drop_a_bias, "conv2d_3: each channel is off by a constant, so a bias was dropped"),
    ("fp32", double_a_weight, "conv2d_3: it is 2 times too large, so a scale is wrong"),
    ("fp32", shuffle_classes, "the head or the labels were shuffled"),
    ("fp32", zero_a_channel, "parity"),
    ("fp32", drop_the_mean, "mean is not subtracted"),
    ("fp32", read_signed_bytes, "its bytes are not read as 0 to 255|parity"),
    ("fp32", halve_the_photo, "its bytes are not read as 0 to 255|parity"),
    ("fp32", forget_a_gate, "parity"),
    ("fp32", swap_outputs, "the manifest says"),
    ("fp32", forget_the_signature, "signatures|Invalid signature|is not a model"),
    ("fp32", rename_the_graph, "graph name"),
    ("fp32", change_the_labels, "metadata edgeseed.labels"),
    ("fp32", drop_the_metadata, "metadata edgeseed"),
    ("fp32", leave_a_tensor, "left: is a value that nothing reads"),
    ("fp16", drop_a_bias, "parity"),
    ("w8", double_a_weight, "rounding|agreement|cosine"),
    ("w8", one_scale_for_all_channels, "one scale, not one an output channel|is not a model"),
    ("int8", double_an_activations_scale, "a scale is wrong: .* where the manifest records"),
    ("int8", shift_a_zero_point, "its zero point is .* where the manifest's range gives"),
    ("int8", shrink_all_ranges, r"stale calibration: \d+ of \d+ scales are not the manifest's"),
    ("int8", shuffle_classes, "the head or the labels were shuffled"),
    ("int8", drop_a_bias, "a bias was dropped|rounding"),
    ("int8", a_weights_zero_point, "a zero point that is not 0|is not a model"),
    ("int8", a_wider_stride_of_scales, "rounding|cosine|agreement"),
]


@pytest.mark.parametrize(
    ("precision", "edit", "message"),
    [
        pytest.param(
            precision, edit, message, id=f"{precision}-{edit.__name__}",
            marks=[pytest.mark.slow] if (precision, edit) in SLOW else [],
        )
        for precision, edit, message in FAULTS
    ],
)  # fmt: skip
def test_a_fault_is_caught_and_named(
    bundles: dict[str, Path], tmp_path: Path, precision: str, edit: Edit, message: str
) -> None:
    bundle = Path(shutil.copytree(bundles[precision], tmp_path / "bundle"))
    file = File((bundle / "model.tflite").read_bytes())
    edit(file)
    (bundle / "model.tflite").write_bytes(pack(file.model))
    seal_bundle(bundle, read_bundle(bundle, check=False).manifest)
    with pytest.raises((GateError, ArtifactError), match=message):
        verify(bundle)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "w8", "int8"])
def test_a_file_packed_again_without_a_fault_passes(
    bundles: dict[str, Path], tmp_path: Path, precision: str
) -> None:
    bundle = Path(shutil.copytree(bundles[precision], tmp_path / "bundle"))
    file = File((bundle / "model.tflite").read_bytes())
    (bundle / "model.tflite").write_bytes(pack(file.model))
    seal_bundle(bundle, read_bundle(bundle, check=False).manifest)
    assert verify(bundle).passed


@pytest.mark.parametrize("precision", ["fp16", "w8"])
def test_float_weights_under_another_precisions_name_are_caught(
    bundles: dict[str, Path], tmp_path: Path, precision: str
) -> None:
    bundle = Path(shutil.copytree(bundles[precision], tmp_path / "bundle"))
    shutil.copyfile(bundles["fp32"] / "model.tflite", bundle / "model.tflite")
    seal_bundle(bundle, read_bundle(bundle, check=False).manifest)
    with pytest.raises(GateError, match=f"float32 weights in a file that is to be {precision}"):
        verify(bundle)


def test_another_runtime_in_the_manifest_is_caught(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(bundles["fp32"], tmp_path / "bundle"))
    manifest = read_bundle(bundle).manifest
    seal_bundle(bundle, dataclasses.replace(manifest, minimum_runtime={"ai-edge-litert": "1.0"}))
    with pytest.raises(GateError, match="minimum runtime"):
        verify(bundle)
