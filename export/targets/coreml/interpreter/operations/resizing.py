"""Resizing of the last axes, by the sampling grids of Core ML's operation reference."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from edgeseed.core.errors import WorkError
from edgeseed.export.targets.coreml.interpreter.operations._arguments import flag, integers

_SAMPLING_MODES = (
    "STRICT_ALIGN_CORNERS",
    "ALIGN_CORNERS",
    "DEFAULT",
    "OFFSET_CORNERS",
    "UNALIGN_CORNERS",
)


def _grid(size: int, new_size: int, sampling_mode: str) -> Tensor:
    """Where on an axis of `size` elements each new sample lies; (new_size,) in float64."""
    places = torch.arange(new_size, dtype=torch.float64)
    if sampling_mode == "UNALIGN_CORNERS":
        spacing = size / new_size
        grid = places * spacing + 0.5 * spacing - 0.5
    elif sampling_mode == "OFFSET_CORNERS":
        spacing = max(1, size - 1) / new_size
        grid = places * spacing + 0.5 * spacing
    elif sampling_mode == "DEFAULT":
        grid = places * (size / new_size)
    elif sampling_mode in {"ALIGN_CORNERS", "STRICT_ALIGN_CORNERS"}:
        grid = places * ((size - 1) / max(new_size - 1, 1))
        if new_size == 1 and sampling_mode == "ALIGN_CORNERS":
            grid = torch.full_like(places, (size - 1) / 2)
    else:
        known = ", ".join(_SAMPLING_MODES)
        raise WorkError(f"a resize has the sampling mode {sampling_mode}; known: {known}")
    return grid.clamp(0, size - 1)


def _linear(x: Tensor, axis: int, grid: Tensor) -> Tensor:
    """Samples between the two elements next to each point of the grid."""
    lower = grid.floor().long()
    upper = (lower + 1).clamp(max=x.shape[axis] - 1)
    shape = [1] * x.ndim
    shape[axis] = -1
    weight = (grid - lower).to(torch.float32).reshape(shape)
    return torch.lerp(x.index_select(axis, lower), x.index_select(axis, upper), weight)


def _resize_linear(x: Tensor, sizes: Mapping[int, int], sampling_mode: str) -> Tensor:
    for axis, new_size in sizes.items():
        if new_size != x.shape[axis] or sampling_mode == "OFFSET_CORNERS":
            x = _linear(x, axis, _grid(x.shape[axis], new_size, sampling_mode))
    return x


def _resize_nearest(x: Tensor, sizes: Mapping[int, int]) -> Tensor:
    """Each new element shows the old one its left edge falls into, as in torch's `nearest`."""
    for axis, new_size in sizes.items():
        places = torch.arange(new_size) * x.shape[axis] // new_size
        x = x.index_select(axis, places)
    return x


def _scaled(x: Tensor, height: Tensor | None, width: Tensor | None) -> dict[int, int]:
    factors = {-2: height, -1: width}
    return {
        axis: int(x.shape[axis] * (1.0 if factor is None else float(factor)))
        for axis, factor in factors.items()
    }


def upsample_nearest_neighbor(
    x: Tensor,
    scale_factor_height: Tensor | None = None,
    scale_factor_width: Tensor | None = None,
) -> Tensor:
    """The last two axes enlarged by factors; each element repeated."""
    return _resize_nearest(x, _scaled(x, scale_factor_height, scale_factor_width))


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: Tensor | None = None,
    scale_factor_width: Tensor | None = None,
    align_corners: Tensor | None = None,
    half_pixel_centers: Tensor | None = None,
) -> Tensor:
    """The last two axes enlarged by factors, with linear interpolation."""
    aligned = flag(align_corners, default=True)
    mode = "ALIGN_CORNERS" if aligned else "UNALIGN_CORNERS"
    if not aligned and not flag(half_pixel_centers, default=True):
        mode = "DEFAULT"
    return _resize_linear(x, _scaled(x, scale_factor_height, scale_factor_width), mode)


def resize_nearest_neighbor(
    x: Tensor, target_size_height: Tensor, target_size_width: Tensor
) -> Tensor:
    """The last two axes to a size, without interpolation."""
    return _resize_nearest(x, {-2: int(target_size_height), -1: int(target_size_width)})


def resize_bilinear(
    x: Tensor,
    target_size_height: Tensor,
    target_size_width: Tensor,
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last two axes to a size, with linear interpolation."""
    sizes = {-2: int(target_size_height), -1: int(target_size_width)}
    return _resize_linear(x, sizes, sampling_mode)


def resize(
    x: Tensor,
    shape: Tensor,
    resized_dims: Tensor,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """The last `resized_dims` axes to the last sizes of `shape`; a 0 keeps an axis."""
    count = int(resized_dims)
    sizes = {
        axis: size or x.shape[axis]
        for axis, size in zip(range(-count, 0), integers(shape)[-count:], strict=True)
    }
    if interpolation_mode == "LINEAR":
        return _resize_linear(x, sizes, sampling_mode)
    if (interpolation_mode, sampling_mode) == ("NEAREST_NEIGHBOR", "DEFAULT"):
        return _resize_nearest(x, sizes)
    # The reference gives sampling grids for the linear mode only.
    raise WorkError(
        f"resize {interpolation_mode} with sampling mode {sampling_mode} is not defined"
    )


OPERATIONS: Mapping[str, Callable[..., Tensor]] = {
    "resize": resize,
    "resize_bilinear": resize_bilinear,
    "resize_nearest_neighbor": resize_nearest_neighbor,
    "upsample_bilinear": upsample_bilinear,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}
