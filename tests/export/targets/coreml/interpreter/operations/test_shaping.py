"""Moves of elements: as torch has them, from a package that coremltools wrote."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from support.coreml_operations import Case, Interpret, check, values
from torch import Tensor


def blocks(x: Tensor) -> Tensor:
    """TensorFlow's space_to_depth with blocks of 2, place by place."""
    return torch.cat([x[..., row::2, column::2] for row in (0, 1) for column in (0, 1)], dim=1)


MOVES_OF_ELEMENTS: dict[str, Case] = {
    "reshape": (lambda mb, x: mb.reshape(x=x, shape=[4, -1]), lambda x: x.reshape(4, -1)),
    "reshape:zeros": (
        lambda mb, x: mb.reshape(x=x, shape=[0, -1, 0, 0]),
        lambda x: x.reshape(2, 8, 4, 6),
    ),
    "reshape_like": (
        lambda mb, x: mb.reshape_like(
            x=x, ref_tensors=(x, x), begins=(0, 1), ends=(1, 0), end_masks=(False, True)
        ),
        lambda x: x,
    ),
    "flatten2d": (lambda mb, x: mb.flatten2d(x=x, axis=-2), lambda x: x.reshape(16, 24)),
    "expand_dims": (
        lambda mb, x: mb.expand_dims(x=mb.reduce_sum(x=x, axes=[1]), axes=[0, -1]),
        lambda x: x.sum(1)[None, ..., None],
    ),
    "squeeze": (
        lambda mb, x: mb.squeeze(x=mb.reduce_sum(x=x, axes=[1, 2], keep_dims=True)),
        lambda x: x.sum((1, 2)),
    ),
    "transpose": (
        lambda mb, x: mb.transpose(x=x, perm=[0, -1, 1, 2]),
        lambda x: x.permute(0, 3, 1, 2),
    ),
    "shape": (lambda mb, x: mb.shape(x=x), lambda x: torch.tensor(x.shape)),
    "slice_by_index": (
        lambda mb, x: mb.slice_by_index(
            x=x, begin=[0, 1, -1, 0], end=[2, -1, 0, 6], stride=[1, 2, -1, 2]
        ),
        lambda x: x[:, 1:-1:2, [3, 2, 1], ::2],
    ),
    "slice_by_index:masks": (
        lambda mb, x: mb.slice_by_index(
            x=x, begin=[1, 3, 0, 2], end=[0, 0, 3, 0], begin_mask=[False, True, False, False],
            end_mask=[False, True, False, True], squeeze_mask=[True, False, False, False],
        ),
        lambda x: x[1, :, 0:3, 2:],
    ),
    "slice_by_index:last": (
        lambda mb, x: mb.slice_by_index(
            x=x, begin=[0, 0, 0, -1], end=[2, 8, 4, 0],
            squeeze_mask=[False, False, False, True],
        ),
        lambda x: x[..., -1],
    ),
    "slice_by_size": (
        lambda mb, x: mb.slice_by_size(x=x, begin=[0, 2, 1, -2], size=[2, 3, -1, 1]),
        lambda x: x[:, 2:5, 1:, 4:5],
    ),
    "concat": (
            lambda mb, x: mb.concat(values=(x, x), axis=-1),
            lambda x: torch.cat([x, x], -1),
        ),
    "concat:interleave": (
        lambda mb, x: mb.concat(values=(x, mb.relu(x=x)), axis=1, interleave=True),
        lambda x: torch.stack([x, x.relu()], 2).flatten(1, 2),
    ),
    "stack": (lambda mb, x: mb.stack(values=(x, x), axis=1), lambda x: torch.stack([x, x], 1)),
    "split": (lambda mb, x: mb.split(x=x, num_splits=2, axis=1), lambda x: x.chunk(2, 1)),
    "split:sizes": (
        lambda mb, x: mb.split(x=x, split_sizes=[1, 2, 3], axis=-1),
        lambda x: x.split([1, 2, 3], -1),
    ),
    "tile": (lambda mb, x: mb.tile(x=x, reps=[1, 2, 1, 3]), lambda x: x.repeat(1, 2, 1, 3)),
    "pad": (
        lambda mb, x: mb.pad(x=x, pad=[1, 0, 2, 1], mode="constant", constant_val=0.5),
        lambda x: F.pad(x, (2, 1, 1, 0), value=0.5),
    ),
    "pad:reflect": (
        lambda mb, x: mb.pad(x=x, pad=[1, 2, 3, 0], mode="reflect"),
        lambda x: F.pad(x, (3, 0, 1, 2), mode="reflect"),
    ),
    "pad:replicate": (
        lambda mb, x: mb.pad(x=x, pad=[0, 2, 1, 1], mode="replicate"),
        lambda x: F.pad(x, (1, 1, 0, 2), mode="replicate"),
    ),
    "reverse": (lambda mb, x: mb.reverse(x=x, axes=[1, -1]), lambda x: x.flip(1, 3)),
    "sliding_windows": (
        lambda mb, x: mb.sliding_windows(x=x, axis=2, size=3, stride=1),
        lambda x: x.unfold(2, 3, 1).movedim(-1, 3),
    ),
    "depth_to_space": (
        lambda mb, x: mb.depth_to_space(x=mb.space_to_depth(x=x, block_size=2), block_size=2),
        lambda x: x,
    ),
    "space_to_depth": (lambda mb, x: mb.space_to_depth(x=x, block_size=2), blocks),
    "pixel_shuffle": (
        lambda mb, x: mb.pixel_shuffle(x=x, upscale_factor=2),
        lambda x: F.pixel_shuffle(x, 2),
    ),
    "pixel_unshuffle": (
        lambda mb, x: mb.pixel_unshuffle(x=x, downscale_factor=np.uint32(2)),
        lambda x: F.pixel_unshuffle(x, 2),
    ),
    "space_to_batch": (
        lambda mb, x: mb.space_to_batch(
            x=x, block_shape=[2, 2], paddings=[[0, 0], [1, 1]]
        ),
        lambda x: torch.cat(
            [F.pad(x, (1, 1))[..., row::2, column::2] for row in (0, 1) for column in (0, 1)]
        ),
    ),
    "batch_to_space": (
        lambda mb, x: mb.batch_to_space(
            x=mb.space_to_batch(x=x, block_shape=[2, 3], paddings=[[0, 0], [0, 0]]),
            block_shape=[2, 3], crops=[[1, 0], [0, 2]],
        ),
        lambda x: x[..., 1:, :-2],
    ),
    "crop": (
        lambda mb, x: mb.crop(x=x, crop_height=[1, 0], crop_width=[2, 1]),
        lambda x: x[..., 1:, 2:-1],
    ),
    "reverse_sequence": (
        lambda mb, x: mb.reverse_sequence(x=x, lengths=[2, 4], seq_axis=2, batch_axis=0),
        lambda x: torch.stack([x[0][:, [1, 0, 2, 3]], x[1][:, [3, 2, 1, 0]]]),
    ),
    "fill_like": (
        lambda mb, x: mb.fill_like(ref_tensor=x, value=2.5),
        lambda x: torch.full_like(x, 2.5),
    ),
    "fill": (
        lambda mb, x: mb.fill(shape=mb.shape(x=x), value=1.5),
        lambda x: torch.full_like(x, 1.5),
    ),
    "range_1d": (
        lambda mb, x: mb.range_1d(
            start=1, end=mb.squeeze(x=mb.gather(x=mb.shape(x=x), indices=[1])), step=2
        ),
        lambda x: torch.arange(1, 8, 2),
    ),
}  # fmt: skip


def test_moves_of_elements(interpret: Interpret, mb: Any) -> None:
    check(interpret, mb, MOVES_OF_ELEMENTS, values(2, 8, 4, 6))


def test_a_slice_is_replaced(interpret: Interpret, mb: Any) -> None:
    x, update = values(3, 4), values(2, 2, seed=1)
    (found,) = interpret(
        lambda x, u: mb.slice_update(x=x, update=u, begin=[0, 1], end=[3, 3], stride=[2, 1]),
        x, update, target="iOS18",
    )  # fmt: skip
    wanted = x.clone()
    wanted[::2, 1:3] = update
    assert torch.equal(found, wanted)
