import pytest
import torch

from edgeseed.export.quantize.scales import quantizer_for_range, weight_scales
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.quantize.schemes.coreml import SCHEME


def test_scales_of_small_weights_are_numbers_of_float16() -> None:
    # EfficientNet-Lite0 of ImageNet has channels that are all but dead. Their scales were zero in
    # the package, and others were rounded after the integers had been made for them.
    torch.manual_seed(0)
    sizes = torch.tensor([1.0, 1e-3, 1e-5, 1e-9, 0.0]).view(-1, 1, 1, 1)
    scales = weight_scales(torch.randn(5, 8, 3, 3) * sizes, SCHEME.weight)
    assert (scales > 0).all()
    assert torch.equal(scales.half().float(), scales)


@pytest.mark.parametrize("name", ["coreml", "coreml-affine"])
def test_steps_of_activations_are_numbers_of_float16(name: str) -> None:
    # The package keeps them so, and the simulated program had others.
    quantizer = quantizer_for_range(-0.3, 5.623, SCHEMES.load(name).activation)
    assert quantizer.scale == float(torch.tensor(quantizer.scale).half())
