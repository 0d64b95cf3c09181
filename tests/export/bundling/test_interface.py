"""Inputs and outputs as the manifest lists them."""

import dataclasses

import pytest
from support.export import CLASSES, tiny_preprocess

from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.export.added_outputs import parse_added
from edgeseed.export.bundling.interface import tensor_specs
from edgeseed.export.targets import TARGETS

SPEC = StudentSpec(
    architecture=Architecture(name="test_efficientnet", kwargs={}), preprocess=tiny_preprocess(),
    embedding_dim=24, classes=CLASSES,
)  # fmt: skip


@pytest.mark.parametrize(
    ("target", "shape"), [("onnx", ("batch", 3, 32, 32)), ("litert", ("batch", 32, 32, 3))]
)
def test_the_order_of_the_axes_is_the_targets(target: str, shape: tuple[int | str, ...]) -> None:
    (image,), _ = tensor_specs(
        SPEC, TARGETS.load(target), batch="dynamic", outputs=("embedding",), options={}
    )
    assert image.shape == shape
    assert image.semantics == "RGB pixels 0..255"


def test_grey_photos_that_are_wider_than_high_are_told_so() -> None:
    grey = dataclasses.replace(tiny_preprocess(), width=48, mean=(0.5,), std=(0.5,))
    (image,), _ = tensor_specs(
        dataclasses.replace(SPEC, preprocess=grey), TARGETS.load("onnx"), batch=4, outputs=(),
        options={},
    )  # fmt: skip
    assert image.shape == (4, 1, 32, 48)
    assert image.semantics.startswith("grey")


def test_outputs_have_their_widths_and_the_added_ones_come_last() -> None:
    _, outputs = tensor_specs(
        SPEC, TARGETS.load("onnx"), batch=1, outputs=("embedding", "logits"), options={},
        added=parse_added(["probabilities", "top2"]),
    )  # fmt: skip
    assert [(each.name, each.shape, each.dtype) for each in outputs] == [
        ("embedding", (1, 24), "float32"),
        ("logits", (1, 4), "float32"),
        ("probabilities", (1, 4), "float32"),
        ("top2_probabilities", (1, 2), "float32"),
        ("top2_indices", (1, 2), "int32"),
    ]
