"""What EsViT and RoB share: crops, heads, centres, and the loss against its literal formula."""

import math
from typing import Any

import pytest
import timm
import torch
from support.distill import tiny_student
from torch import Tensor, nn
from torch.nn import functional as F

from edgeseed.core.errors import ConfigError
from edgeseed.core.network import StudentNetwork
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.student import Architecture
from edgeseed.distill.losses import entropy
from edgeseed.distill.methods import _dino
from edgeseed.distill.methods._dino import (
    Center,
    CropOutputs,
    DinoConfig,
    DinoHead,
    by_size,
    check_crops,
    embed_views,
    local_size,
    match_regions,
    multi_crop_plan,
    prototypes_used,
    region_cross_entropies,
    region_entropies,
    score_regions,
    score_views,
    to_regions,
    view_cross_entropies,
)
from edgeseed.distill.methods.esvit import other_views
from edgeseed.distill.networks.features import Features as TrunkFeatures
from edgeseed.distill.networks.features import extract
from edgeseed.distill.networks.frozen import Student
from edgeseed.distill.teachers.heads import dino_head_from_weights

Rows = list[list[float]]


def waves(*shape: int, shift: float) -> Tensor:
    """Numbers without a generator, so that golden values hold for ever."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return torch.sin(1.7 * steps + shift).reshape(shape)


# --------------------------------------------------------------------------- the loss


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def cross_entropy(target: list[float], scores: list[float], tau: float) -> float:
    log_sum = math.log(sum(math.exp(score / tau) for score in scores))
    return -sum(p * (s / tau - log_sum) for p, s in zip(target, scores, strict=True))


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def literal_view_loss(student: list[Rows], target: list[Rows], tau: float) -> float:
    """L_V of methods.md A.4 over all q and v ≠ q, one number after another, in Python floats."""
    losses = [
        sum(cross_entropy(p, s, tau) for p, s in zip(target[q], student[v], strict=True))
        / len(target[q])
        for q in range(len(target))
        for v in range(len(student))
        if v != q
    ]
    return sum(losses) / len(losses)


def literal_region_loss(
    student: list[list[Rows]],
    target: list[list[Rows]],
    student_features: list[list[Rows]],
    teacher_features: list[list[Rows]],
    tau: float,
) -> float:
    """L_R of methods.md A.4; all lists are [view][photo][region]."""
    losses = []
    for q in range(len(target)):
        for v in range(len(student)):
            if v == q:
                continue
            for b in range(len(student[v])):
                regions = range(len(student[v][b]))
                for i in regions:
                    alike = [
                        cosine(student_features[v][b][i], feature)
                        for feature in teacher_features[q][b]
                    ]
                    match = alike.index(max(alike))
                    loss = cross_entropy(target[q][b][match], student[v][b][i], tau)
                    losses.append((loss, 1 / len(regions) / len(student[v])))
    pairs = sum(v != q for q in range(len(target)) for v in range(len(student)))
    return sum(loss * share for loss, share in losses) / pairs


# 3 photos, 5 prototypes, 4-dimensional features; 2 large crops of 4 regions, 2 small ones of 1.
B, K, D, V = 3, 5, 4, 4
VIEW_SCORES = waves(V, B, K, shift=0)
TEACHER_VIEW_SCORES = waves(2, B, K, shift=1)


def from_rows(rows: Tensor, *, num_large: int, num_small: int) -> list[Tensor]:
    """The authors' layout, all rows of all crops, to ours: (B, V, R, …) for each size."""
    large, small = rows.split([2 * B * num_large, 2 * B * num_small])
    return [
        part.unflatten(0, (2, B, -1)).transpose(0, 1) for part in (large, small) if part.numel()
    ]


REGION_SCORES = from_rows(waves(2 * B * 4 + 2 * B, K, shift=2), num_large=4, num_small=1)
(TEACHER_REGION_SCORES,) = from_rows(waves(2 * B * 4, K, shift=3), num_large=4, num_small=0)
REGIONS = from_rows(waves(2 * B * 4 + 2 * B, D, shift=4), num_large=4, num_small=1)
(TEACHER_REGIONS,) = from_rows(waves(2 * B * 4, D, shift=5), num_large=4, num_small=0)


def center_of(value: Tensor) -> Center:
    center = Center(len(value), momentum=0.9).double()
    center.value.copy_(value)
    return center


def losses_of(view_center: Center, region_center: Center, tau: float) -> tuple[Tensor, Tensor]:
    """(Q, V) losses of views and regions."""
    target = view_center(TEACHER_VIEW_SCORES, tau=tau)
    region_target = region_center(TEACHER_REGION_SCORES, tau=tau)
    region_losses = [
        region_cross_entropies(
            scores, region_target, match_regions(features, TEACHER_REGIONS), tau=0.1
        )
        for scores, features in zip(REGION_SCORES, REGIONS, strict=True)
    ]
    return view_cross_entropies(VIEW_SCORES, target, tau=0.1), torch.cat(region_losses, dim=1)


PAIRS = other_views(2, V)


def test_losses_have_the_values_of_the_authors_code() -> None:
    # microsoft/esvit, main_esvit.py, DDINOLoss and DINOLoss, run in float64 on these numbers: a
    # first step at a teacher's temperature of 0.04, and a second at 0.05 with the moved centres.
    centers = [center_of(0.1 * waves(K, shift=shift)) for shift in (6, 7)]
    views, regions = losses_of(centers[0], centers[1], 0.04)
    loss = 0.5 * views[PAIRS].mean() + 0.5 * regions[PAIRS].mean()
    assert loss.item() == pytest.approx(3.816855408747999)
    assert views[PAIRS].mean().item() == pytest.approx(2.196669181931598)
    centers[0].update(TEACHER_VIEW_SCORES)
    centers[1].update(TEACHER_REGION_SCORES)
    assert centers[0].value.tolist() == pytest.approx(
        [-0.02343586025126417, 0.09512443614227117, -0.0010766594885315756,
         -0.09484699284761462, 0.025517685146335976]
    )  # fmt: skip
    assert centers[1].value.tolist() == pytest.approx(
        [0.05812243281165491, 0.05531376882374984, -0.07237618195500621,
         -0.03666322369768258, 0.0818238909881493]
    )  # fmt: skip
    views, regions = losses_of(centers[0], centers[1], 0.05)
    loss = 0.5 * views[PAIRS].mean() + 0.5 * regions[PAIRS].mean()
    assert loss.item() == pytest.approx(3.8567897373163054)


def test_losses_are_the_formula() -> None:
    centers = [center_of(torch.zeros(K, dtype=torch.float64)) for _ in range(2)]
    views, regions = losses_of(centers[0], centers[1], 0.07)
    target = [[softmax([x / 0.07 for x in row]) for row in v] for v in TEACHER_VIEW_SCORES.tolist()]
    expected = literal_view_loss(VIEW_SCORES.tolist(), target, 0.1)
    assert views[PAIRS].mean().item() == pytest.approx(expected)

    def by_view(parts: list[Tensor]) -> list[list[Rows]]:
        return [view.tolist() for part in parts for view in part.transpose(0, 1)]

    region_target = [
        [[softmax([x / 0.07 for x in row]) for row in photo] for photo in view]
        for view in by_view([TEACHER_REGION_SCORES])
    ]
    expected = literal_region_loss(
        by_view(REGION_SCORES), region_target, by_view(REGIONS), by_view([TEACHER_REGIONS]), 0.1
    )
    assert regions[PAIRS].mean().item() == pytest.approx(expected)


def test_view_loss_has_the_value_computed_by_hand() -> None:
    # p = (1, 0), s = (τ log 3, 0): softmax(s / τ) = (3/4, 1/4), and the loss log 4/3.
    student = torch.tensor([[[0.1 * math.log(3), 0.0]]], dtype=torch.float64)
    target = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    assert view_cross_entropies(student, target, tau=0.1).item() == pytest.approx(math.log(4 / 3))


def test_loss_ignores_the_order_of_photos_prototypes_and_regions() -> None:
    target = TEACHER_REGION_SCORES.softmax(-1)
    scores, features = REGION_SCORES[0], REGIONS[0]

    def loss(scores: Tensor, target: Tensor, features: Tensor, teacher: Tensor) -> Tensor:
        return region_cross_entropies(scores, target, match_regions(features, teacher), tau=0.1)

    before = loss(scores, target, features, TEACHER_REGIONS)
    photos, prototypes = torch.tensor([2, 0, 1]), torch.tensor([4, 1, 0, 3, 2])
    order, other_order = torch.tensor([3, 1, 0, 2]), torch.tensor([1, 2, 3, 0])
    moved = loss(scores[photos], target[photos], features[photos], TEACHER_REGIONS[photos])
    torch.testing.assert_close(moved, before)
    moved = loss(scores[..., prototypes], target[..., prototypes], features, TEACHER_REGIONS)
    torch.testing.assert_close(moved, before)
    moved = loss(
        scores[:, :, order], target[:, :, other_order], features[:, :, order],
        TEACHER_REGIONS[:, :, other_order],
    )  # fmt: skip
    torch.testing.assert_close(moved, before)
    moved = loss(scores + 3, target, 5 * features, 0.1 * TEACHER_REGIONS)
    torch.testing.assert_close(moved, before)


def test_regions_match_themselves_in_whatever_order_they_come() -> None:
    order = torch.tensor([3, 1, 0, 2])
    match = match_regions(TEACHER_REGIONS, TEACHER_REGIONS[:, :, order])
    own = match.diagonal(dim1=1, dim2=3)  # (B, R, Q): each view against itself
    assert torch.equal(order[own], torch.arange(4)[None, :, None].expand(B, 4, 2))


def test_losses_reach_their_floors_where_the_student_says_what_the_teacher_says() -> None:
    target = (TEACHER_VIEW_SCORES / 0.07).softmax(-1)
    views = view_cross_entropies(0.1 * target.log(), target, tau=0.1)
    torch.testing.assert_close(views.diagonal().mean(), entropy(target.flatten(0, 1)))
    region_target = (TEACHER_REGION_SCORES / 0.07).softmax(-1)
    match = torch.arange(4)[:, None].expand(B, 2, 4, 2)
    regions = region_cross_entropies(0.1 * region_target.log(), region_target, match, tau=0.1)
    floors = region_entropies(region_target, match)
    torch.testing.assert_close(regions.diagonal(), floors.diagonal())
    other = region_cross_entropies(REGION_SCORES[0], region_target, match, tau=0.1)
    assert bool((other > floors).all())


def test_losses_pass_gradcheck() -> None:
    target = (TEACHER_VIEW_SCORES[:, :2] / 0.5).softmax(-1)
    scores = VIEW_SCORES[:, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: view_cross_entropies(s, target, tau=0.3), scores)
    region_target = (TEACHER_REGION_SCORES[:2] / 0.5).softmax(-1)
    match = match_regions(REGIONS[1][:2], TEACHER_REGIONS[:2])
    region_scores = REGION_SCORES[1][:2].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s: region_cross_entropies(s, region_target, match, tau=0.3), region_scores
    )


def test_losses_compute_in_float32_under_autocast() -> None:
    target = TEACHER_VIEW_SCORES.float().softmax(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = view_cross_entropies(VIEW_SCORES.float(), target, tau=0.1)
        regions = region_cross_entropies(
            REGION_SCORES[0].float(), TEACHER_REGION_SCORES.float().softmax(-1),
            match_regions(REGIONS[0].float(), TEACHER_REGIONS.float()), tau=0.1,
        )  # fmt: skip
    assert torch.equal(inside, view_cross_entropies(VIEW_SCORES.float(), target, tau=0.1))
    assert regions.dtype == torch.float32


def test_both_ways_of_collapse_show_in_the_number_of_prototypes() -> None:
    assert float(prototypes_used(torch.eye(6)[None])) == pytest.approx(6)
    assert float(prototypes_used(torch.eye(6)[[2, 2, 2]])) == pytest.approx(1)


# --------------------------------------------------------------------------- head and centre


def test_head_scores_are_cosines_with_the_prototypes_times_their_gain() -> None:
    torch.manual_seed(0)
    head = DinoHead(12, 7, DinoConfig(learns_gain=True))
    features = torch.randn(5, 12)
    hidden = F.normalize(head.mlp(features), dim=1)
    direction = F.normalize(
        head.get_parameter("last_layer.parametrizations.weight.original1"), dim=1
    )
    torch.testing.assert_close(head(features), hidden @ direction.T)
    weights = [each for name, each in head.mlp.named_parameters() if name.endswith("weight")]
    assert [tuple(weight.shape) for weight in weights] == [
        (2048, 12), (2048, 2048), (256, 2048),
    ]  # fmt: skip
    assert float(head.get_parameter("mlp.0.weight").detach().std()) == pytest.approx(0.02, rel=0.05)
    with torch.no_grad():
        head.get_parameter("last_layer.parametrizations.weight.original0").mul_(3)
    torch.testing.assert_close(head(features), 3 * hidden @ direction.T)


def test_gain_is_learnt_only_where_wished() -> None:
    for learns_gain in (True, False):
        head = DinoHead(4, 3, DinoConfig(learns_gain=learns_gain))
        gain = head.get_parameter("last_layer.parametrizations.weight.original0")
        assert gain.requires_grad is learns_gain
        assert torch.equal(gain.detach(), torch.ones(3, 1))


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_saved_head_is_a_dino_head_as_the_teachers_loader_knows_it(norm: Any) -> None:
    torch.manual_seed(0)
    head = DinoHead(12, 7, DinoConfig(head_norm=norm, hidden_dim=20)).eval()
    features = torch.randn(5, 12)
    rebuilt = dino_head_from_weights(head.state_dict()).eval()
    torch.testing.assert_close(rebuilt(features), head(features))


def test_head_scores_are_float32_under_autocast() -> None:
    torch.manual_seed(0)
    head, features = DinoHead(12, 7, DinoConfig(learns_gain=False)), torch.randn(5, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = head(features)
        expected = head._scores(head.mlp(features))
    assert scores.dtype == torch.float32
    assert torch.equal(scores, expected)


def test_all_crops_go_through_a_head_at_once() -> None:
    calls: list[int] = []

    def head(rows: Tensor) -> Tensor:
        calls.append(len(rows))
        return 2 * rows

    features = [
        CropOutputs(waves(2 * B, D, shift=shift), regions) for shift, regions in enumerate(REGIONS)
    ]
    views = score_views(head, features, num_views=4)
    regions = score_regions(head, [one.regions for one in features if one.regions is not None])
    assert calls == [4 * B, 2 * B * 4 + 2 * B]
    assert torch.equal(views[3], 2 * features[1].embedding[B:])
    for scores, source in zip(regions, REGIONS, strict=True):
        assert torch.equal(scores, 2 * source)


def test_center_is_the_running_mean_over_all_but_the_last_dimension() -> None:
    center = Center(K, momentum=0.9).double()
    center.update(TEACHER_REGION_SCORES)
    rows = TEACHER_REGION_SCORES.reshape(-1, K)
    torch.testing.assert_close(center.value, 0.1 * rows.mean(0))
    center.update(TEACHER_VIEW_SCORES)
    expected = 0.09 * rows.mean(0) + 0.1 * TEACHER_VIEW_SCORES.reshape(-1, K).mean(0)
    torch.testing.assert_close(center.value, expected)
    target = center(TEACHER_VIEW_SCORES, tau=0.04)
    torch.testing.assert_close(target, ((TEACHER_VIEW_SCORES - expected) / 0.04).softmax(-1))


# --------------------------------------------------------------------------- crops


def test_crops_are_dinos() -> None:
    first, second, *small = multi_crop_plan(DinoConfig(), 224).crops
    assert (first.size, first.scale, first.blur, first.solarize) == (224, (0.4, 1.0), 1.0, 0.0)
    assert (second.size, second.blur, second.solarize) == (224, 0.1, 0.2)
    assert len(small) == 8
    assert all((c.size, c.scale, c.blur) == (96, (0.05, 0.4), 0.5) for c in small)
    for crop in (first, second, *small):
        assert (crop.jitter, crop.brightness, crop.contrast) == (0.8, 0.4, 0.4)
        assert (crop.saturation, crop.hue, crop.grey) == (0.2, 0.1, 0.2)
        assert crop.interpolation == "bicubic"
        # The authors blur by up to 2 pixels of each crop; `blur_sigma` is in pixels of 224.
        assert crop.blur_sigma[1] * crop.size / 224 == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("image_size", "size"), [(224, 96), (384, 160), (128, 48), (96, 48), (64, 24), (32, 16)]
)
def test_small_crops_keep_their_proportion(image_size: int, size: int) -> None:
    assert local_size(DinoConfig(), image_size) == size
    assert local_size(DinoConfig(local_size=40), image_size) == 40


def test_photos_below_64_pixels_are_not_blurred() -> None:
    assert all(crop.blur == 0 for crop in multi_crop_plan(DinoConfig(), 32).crops)


def test_without_small_crops_there_is_one_size() -> None:
    assert len(multi_crop_plan(DinoConfig(num_local=0), 32).crops) == 2
    views = (torch.zeros(1), torch.ones(1))
    assert by_size(views) == [views]
    assert [len(group) for group in by_size([*views, *views, *views])] == [2, 4]


def test_regions_are_the_places_of_each_views_map() -> None:
    maps = torch.arange(2 * 3 * 4 * 2 * 2.0).reshape(6, 4, 2, 2)  # 2 views of 3 photos
    regions = to_regions(maps, num_views=2)
    assert regions.shape == (3, 2, 4, 4)
    assert torch.equal(regions[1, 1, 2], maps[3 + 1, :, 1, 0])


def test_embedding_and_regions_come_of_one_pass() -> None:
    student = tiny_student().eval()
    views = [torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))] * 2
    both = embed_views(student, views, with_regions=True)
    alone = embed_views(student, views, with_regions=False)
    assert alone.regions is None
    torch.testing.assert_close(both.embedding, alone.embedding)
    torch.testing.assert_close(both.embedding, student(torch.cat(views)).embedding)
    assert both.regions is not None
    assert both.regions.shape == (3, 2, 4, student.map_dim)


def test_crops_that_do_not_fit_a_transformers_patches_name_the_setting() -> None:
    network = timm.create_model("test_vit", num_classes=0, img_size=32, dynamic_img_size=True)
    student = tiny_student()
    student.network.backbone = network
    check_crops(student, DinoConfig(), needs_map=True)
    with pytest.raises(ConfigError, match=r"crops of 24 px.*16 or 32.*--set local_size=N"):
        check_crops(student, DinoConfig(local_size=24), needs_map=True)
    check_crops(student, DinoConfig(local_size=24, num_local=0), needs_map=True)


@pytest.mark.parametrize(
    ("channels", "width", "wanted"),
    [(4, None, [(4, 32, 32), (4, 16, 16)]), (3, 48, [(3, 32, 48), (3, 16, 32)])],
    ids=["four channels", "wide"],
)
def test_crops_are_tried_with_the_channels_and_the_shape_of_the_student(
    channels: int, width: int | None, wanted: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Squares of three channels were tried, and a student of four was refused.
    shapes = []

    def look(network: nn.Module, images: Tensor) -> TrunkFeatures:
        shapes.append(tuple(images.shape[1:]))
        return extract(network, images)

    monkeypatch.setattr(_dino, "extract", look)
    preprocess = Preprocess(
        image_size=32, resize=32, width=width,
        mean=(0.5,) * channels, std=(0.5,) * channels,
    )  # fmt: skip
    network = timm.create_model("test_efficientnet", num_classes=0, in_chans=channels)
    student = Student(
        StudentNetwork(network), architecture=Architecture(name="test_efficientnet"),
        preprocess=preprocess, classes=None,
    )  # fmt: skip
    check_crops(student, DinoConfig(), needs_map=True)
    assert shapes == wanted


def test_network_of_one_size_is_told_before_training() -> None:
    student = tiny_student()
    student.network.backbone = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=32, embed_dim=16, depth=1, num_heads=1
    )
    with pytest.raises(ConfigError, match=r"cannot see crops of 16 px .*--set local_size=N"):
        check_crops(student, DinoConfig(), needs_map=False)


def test_network_without_a_map_is_told_to_leave_out_regions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_dino, "extract", lambda *_: TrunkFeatures(torch.zeros(1, 4), None))
    with pytest.raises(ConfigError, match=r"no feature map.*use region_weight=0"):
        check_crops(tiny_student(), DinoConfig(), needs_map=True)
    check_crops(tiny_student(), DinoConfig(), needs_map=False)


def test_looking_at_crops_leaves_the_student_as_it_was() -> None:
    student = tiny_student().train()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    check_crops(student, DinoConfig(), needs_map=True)
    assert student.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_local", -1, "num_local=-1 must not be negative"),
        ("local_size", 4, "local_size=4 must be at least 8"),
        ("hidden_dim", 0, "hidden_dim=0 must be above 0"),
        ("tau_student", 0, "tau_student=0 must be above 0"),
        ("center_momentum", 2, "center_momentum=2 must be between 0 and 1"),
    ],
)
def test_settings_out_of_range_say_what_is_allowed(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DinoConfig(**{field: value})
