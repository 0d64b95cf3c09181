import torch

from edgeseed.export.quantize.graph.layout import Kind
from edgeseed.export.quantize.graph.rewriting import quantizer_of_kind
from edgeseed.export.quantize.schemes.qnn import SCHEME as EIGHT_BITS
from edgeseed.export.quantize.schemes.qnn_w8a16 import SCHEME


def test_values_have_sixteen_bits_and_weights_eight() -> None:
    assert SCHEME.activation.dtype == torch.uint16
    assert SCHEME.weight == EIGHT_BITS.weight
    assert SCHEME.plain_qdq


def test_every_byte_of_a_photo_is_a_whole_number_of_steps() -> None:
    photo = quantizer_of_kind(Kind.IMAGE, 0, 255, SCHEME.activation)
    steps = torch.arange(256.0) / photo.scale
    assert torch.equal(steps, steps.round())
    assert steps[-1] == SCHEME.activation.high
