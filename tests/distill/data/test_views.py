"""Views against Pillow's and torchvision's own operations, and what chance may depend on."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as tv

from edgeseed.distill.data.views import _NUM_DRAWS as NUM_DRAWS
from edgeseed.distill.data.views import (
    PRESETS,
    Augmenter,
    Crop,
    ViewPlan,
    ViewSettings,
    center_crop,
    moco_crop,
    simclr_crop,
    uniforms,
    weak_crop,
)
from edgeseed.distill.data.views import _draw as draw

SQUARE = np.array([[40, 40]])


def canvases(count: int = 4, side: int = 40, *, seed: int = 0) -> Tensor:
    """Smooth pictures: noise of a few pixels' width."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(noise, (side, side), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8)


def view(
    crop: Crop, images: Tensor, *, seed: int = 0, period: int = 0, shapes: np.ndarray | None = None
) -> Tensor:
    augmenter = Augmenter(ViewPlan(crops=(crop,)), seed=seed)
    if shapes is None:
        shapes = np.repeat(SQUARE, len(images), 0)
    return augmenter(images, shapes, np.arange(len(images)), period=period, step=0)[0]


def drawn(crop: Crop, count: int, *, shapes: np.ndarray | None = None) -> Any:
    numbers = uniforms(0, 0, 0, np.arange(count), count=NUM_DRAWS)
    if shapes is None:
        shapes = np.repeat(SQUARE, count, 0)
    return draw(crop, numbers, shapes.astype(float))


def test_center_crop_of_its_own_size_changes_nothing() -> None:
    images = canvases()
    torch.testing.assert_close(view(center_crop(40), images), images / 255)


@pytest.mark.parametrize("size", [16, 24, 64])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_resize_is_pillows(size: int, kind: str) -> None:
    images = canvases()
    crop = Crop(size=size, scale=(1, 1), ratio=(1, 1), centered=True, flip=0, interpolation=kind)  # type: ignore[arg-type]
    made = view(crop, images)
    for image, got in zip(images, made, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        resized = picture.resize((size, size), getattr(Image.Resampling, kind.upper()))
        expected = torch.from_numpy(np.asarray(resized).copy()).permute(2, 0, 1) / 255
        # Pillow rounds to whole values after the rows and again after the columns.
        torch.testing.assert_close(got, expected, atol=2.1 / 255, rtol=0)


def test_random_crop_is_the_crop_that_was_drawn() -> None:
    crop = Crop(size=24, scale=(0.2, 0.6), flip=0.5)
    images = canvases(6)
    made, draws = view(crop, images), drawn(crop, 6)
    for i in range(6):
        # The crop's corners lie between pixels: sample its pixel centres by grid_sample instead.
        x = draws.left[i] + (np.arange(24) + 0.5) / 24 * draws.width[i]
        y = draws.top[i] + (np.arange(24) + 0.5) / 24 * draws.height[i]
        if draws.flip[i]:
            x = x[::-1]
        grid = torch.from_numpy(np.stack(np.meshgrid(2 * x - 1, 2 * y - 1), -1)).float()
        expected = torch.nn.functional.grid_sample(
            images[i : i + 1] / 255, grid[None], padding_mode="border", align_corners=False
        )
        # Crops of over 24 pixels are shrunk, with antialiasing, which grid_sample has not.
        loose = max(draws.width[i], draws.height[i]) * 40 > 24
        torch.testing.assert_close(made[i], expected[0], atol=0.08 if loose else 1e-4, rtol=0)


def test_crops_have_the_area_and_the_true_proportions_that_were_asked_for() -> None:
    shapes = np.repeat([[200, 100]], 4000, 0)
    draws = drawn(Crop(size=32, scale=(0.1, 0.3)), 4000, shapes=shapes)
    area = draws.width * draws.height
    ratio = draws.width * 200 / (draws.height * 100)
    assert 0.1 <= area.min() < 0.11
    assert 0.29 < area.max() <= 0.3 + 1e-9
    assert 3 / 4 - 1e-9 <= ratio.min() < 0.76
    assert 1.32 < ratio.max() <= 4 / 3 + 1e-9
    assert (draws.left + draws.width <= 1 + 1e-9).all()
    # As many wide as tall: the ratio is uniform in its logarithm.
    assert abs(np.log(ratio).mean()) < 0.01


def test_crop_of_a_very_long_photo_falls_back_to_the_largest_that_fits() -> None:
    draws = drawn(Crop(size=32, scale=(0.9, 1.0)), 50, shapes=np.repeat([[1000, 100]], 50, 0))
    np.testing.assert_allclose(draws.height, 1.0)
    np.testing.assert_allclose(draws.width, 4 / 3 / 10)


def test_flip_mirrors_left_and_right() -> None:
    crop = Crop(size=40, scale=(1, 1), ratio=(1, 1), centered=True, flip=1.0)
    images = canvases()
    torch.testing.assert_close(view(crop, images), images.flip(3) / 255)


def colour_crop(**changes: float) -> Crop:
    return Crop(
        size=40, scale=(1, 1), ratio=(1, 1), centered=True, flip=0, jitter=1.0, **changes  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colours_change_as_in_torchvision(name: str) -> None:
    crop, images = colour_crop(**{name: 0.3}), canvases(8)
    factors = drawn(crop, 8).colour[:, ("brightness", "contrast", "saturation").index(name)]
    made = view(crop, images)
    for image, factor, got in zip(images, factors, made, strict=True):
        expected = getattr(tv, f"adjust_{name}")(image / 255, float(factor))
        # torchvision's luma is .2989/.587/.114, ours the unrounded .299.
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=0)
    assert np.ptp(factors) > 0.2


def test_hue_turns_colours_and_leaves_grey_and_lightness_alone() -> None:
    crop = colour_crop(hue=0.5)
    grey = torch.full((4, 3, 40, 40), 100, dtype=torch.uint8)
    torch.testing.assert_close(view(crop, grey), grey / 255, atol=1e-5, rtol=0)
    # Muted colours, so that nothing is clipped.
    images = (canvases().float() * 0.2 + 100).to(torch.uint8)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    made = view(crop, images)
    torch.testing.assert_close(
        (made * luma).sum(1), (images / 255 * luma).sum(1), atol=1e-4, rtol=0
    )
    assert float((made - images / 255).abs().max()) > 0.02


def test_grey_is_luma_in_all_channels() -> None:
    crop = Crop(size=40, scale=(1, 1), ratio=(1, 1), centered=True, flip=0, grey=1.0)
    images = canvases()
    expected = tv.rgb_to_grayscale(images / 255, num_output_channels=3)
    torch.testing.assert_close(view(crop, images), expected, atol=1e-3, rtol=0)


def test_solarize_inverts_what_is_light() -> None:
    crop = Crop(size=40, scale=(1, 1), ratio=(1, 1), centered=True, flip=0, solarize=1.0)
    images = canvases()
    torch.testing.assert_close(view(crop, images), tv.solarize(images / 255, 0.5))


def test_blur_is_torchvisions_away_from_the_border() -> None:
    crop = Crop(
        size=40, scale=(1, 1), ratio=(1, 1), centered=True, flip=0, blur=1.0,
        blur_sigma=(8.4, 8.4),
    )  # fmt: skip
    sigma = 8.4 * 40 / 224  # stated for 224 pixels
    images = canvases()
    expected = tv.gaussian_blur(images / 255, [15, 15], [sigma, sigma])
    inner = (slice(None), slice(None), slice(10, 30), slice(10, 30))
    torch.testing.assert_close(view(crop, images)[inner], expected[inner], atol=1e-3, rtol=0)


def test_views_of_a_photo_depend_on_nothing_but_seed_photo_and_pass() -> None:
    images, crop = canvases(6), moco_crop(24)
    together = view(crop, images)
    augmenter = Augmenter(ViewPlan(crops=(crop,)), seed=0)
    alone = augmenter(images[4:5], SQUARE, np.array([4]), period=0, step=7)[0]
    torch.testing.assert_close(alone[0], together[4], atol=1e-6, rtol=0)
    assert not torch.equal(view(crop, images, period=1), together)
    assert not torch.equal(view(crop, images, seed=1), together)
    assert torch.equal(view(crop, images), together)


def test_two_views_of_a_photo_differ() -> None:
    plan = ViewPlan(crops=(moco_crop(24), moco_crop(24)))
    one, other = Augmenter(plan, seed=0)(
        canvases(), np.repeat(SQUARE, 4, 0), np.arange(4), period=0, step=0
    )
    assert float((one - other).abs().mean()) > 0.02


def test_mixup_blends_the_batch_with_itself_reversed_in_every_view_alike() -> None:
    images, shapes = canvases(4), np.repeat(SQUARE, 4, 0)
    crops = (weak_crop(24), weak_crop(16))
    call = {"period": 2, "step": 3}
    plain = Augmenter(ViewPlan(crops=crops), seed=5)(images, shapes, np.arange(4), **call)
    mixed = Augmenter(ViewPlan(crops=crops, mixup=True), seed=5)(
        images, shapes, np.arange(4), **call
    )
    share = float(uniforms(5, 2, -1, 3, count=1)[0, 0])
    assert 0.02 < share < 0.98
    for before, after in zip(plain, mixed, strict=True):
        torch.testing.assert_close(after, share * before + (1 - share) * before.flip(0))


def test_numbers_are_uniform_and_independent() -> None:
    numbers = uniforms(3, 1, np.arange(20_000), count=4)
    assert 0 <= numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    np.testing.assert_allclose(numbers.mean(0), 0.5, atol=0.01)
    np.testing.assert_allclose(numbers.var(0), 1 / 12, atol=0.002)
    correlation = np.corrcoef(np.column_stack([numbers, np.roll(numbers[:, 0], 1)]).T)
    assert np.abs(correlation - np.eye(5)).max() < 0.03


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_gives_pixels_of_its_size(name: str) -> None:
    made = view(PRESETS[name](32), canvases())
    assert made.shape == (4, 3, 32, 32)
    assert made.dtype == torch.float32
    assert 0 <= float(made.min()) <= float(made.max()) <= 1


def test_small_views_are_not_blurred_and_simclr_is_milder_on_them() -> None:
    assert simclr_crop(32).blur == moco_crop(32).blur == 0
    assert simclr_crop(224).blur == moco_crop(224).blur == 0.5
    assert simclr_crop(32).brightness == simclr_crop(224).brightness / 2


def test_settings_change_what_they_name_and_nothing_else() -> None:
    plan = ViewPlan(crops=(moco_crop(64), moco_crop(32)), mixup=True)
    changed = ViewSettings(flip=0.0, jitter_strength=0.5, min_scale=0.5, mixup=False).apply(plan)
    large, small = changed.crops
    assert not changed.mixup
    assert (large.flip, large.brightness, large.hue, large.grey) == (0, 0.2, 0.05, 0.2)
    assert (large.scale, small.scale) == ((0.5, 1.0), (0.2, 1.0))
    assert ViewSettings().apply(plan) == plan


def test_preset_keeps_the_methods_sizes() -> None:
    plan = ViewSettings(preset="weak").apply(ViewPlan(crops=(moco_crop(64), moco_crop(32))))
    assert plan.crops == (weak_crop(64), weak_crop(32))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("size", 4, "size=4 must be at least 8"),
        ("scale", (0.5, 0.2), "scale="),
        ("ratio", (0.0, 1.0), "ratio="),
        ("flip", 1.5, "flip=1.5 is a probability"),
    ],
)
def test_crop_refuses_what_cannot_be_meant(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Crop(**{"size": 32, field: value})  # type: ignore[arg-type]


def test_memory_layout_is_as_asked() -> None:
    augmenter = Augmenter(ViewPlan(crops=(weak_crop(16),)), seed=0, channels_last=True)
    (made,) = augmenter(canvases(), np.repeat(SQUARE, 4, 0), np.arange(4), period=0, step=0)
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_large_batches_are_made_in_parts_that_fit_together() -> None:
    images = canvases(150, 16)
    shapes = np.repeat([[16, 16]], 150, 0)
    made = view(moco_crop(16), images, shapes=shapes)
    assert made.shape == (150, 3, 16, 16)
    assert not math.isnan(float(made.sum()))
    torch.testing.assert_close(made[140:], view_of(moco_crop(16), images, 140))


def view_of(crop: Crop, images: Tensor, start: int) -> Tensor:
    indices = np.arange(start, len(images))
    augmenter = Augmenter(ViewPlan(crops=(crop,)), seed=0)
    shapes = np.repeat([[16, 16]], len(indices), 0)
    return augmenter(images[start:], shapes, indices, period=0, step=0)[0]
