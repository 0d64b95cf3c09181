"""What EsViT and RoB share, and is DINO's: crops of two sizes, heads with prototypes, the loss."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from edgeseed.core.errors import ConfigError
from edgeseed.distill import distributed
from edgeseed.distill.data.views import REFERENCE_SIZE, Crop, ViewPlan
from edgeseed.distill.heads import mlp
from edgeseed.distill.losses import in_full_precision
from edgeseed.distill.networks.features import check_image_size, extract
from edgeseed.distill.networks.frozen import Student

NUM_GLOBAL = 2
_LOCAL_SIZE = 96
_SMALL = 64
_INIT_STD = 0.02


# --------------------------------------------------------------------------- crops


@dataclass(frozen=True, kw_only=True, slots=True)
class DinoConfig:
    """Crops, heads and their loss. Two large crops are for both networks, small ones for one.

    Attributes:
        num_local: Small crops; 0 leaves them out (then `global_scale=0.14,1` is DINO's advice).
        local_size: Their side in pixels; none takes 96 for large crops of 224, and accordingly.
        global_scale: Least and most share of the photo's area that a large crop shows.
        local_scale: The same of a small crop.
        hidden_dim: Width of the heads' hidden layers. For photos of 32 pixels and small networks
            the heads cost more than all the rest; 256 will do there.
        bottleneck_dim: Length of the vectors that are compared with the prototypes.
        head_norm: Of the heads' hidden layers; `batch` is for convolutional networks, and off in
            DINO's and EsViT's published runs.
        learns_gain: Whether the prototypes' lengths are learnt (`norm_last_layer=False`); DINO has
            it off for ViT-B and ResNet-50, where training is unstable with it.
        tau_student: τ, the temperature of the student's scores.
        center_momentum: Share of the running mean of the scores that stays at a step.
    """

    num_local: int = 8
    local_size: int | None = None
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    hidden_dim: int = 2048
    bottleneck_dim: int = 256
    head_norm: Literal["none", "batch"] = "none"
    learns_gain: bool = True
    tau_student: float = 0.1
    center_momentum: float = 0.9

    def __post_init__(self) -> None:
        if self.num_local < 0:
            raise ValueError(f"num_local={self.num_local} must not be negative")
        if self.local_size is not None and self.local_size < 8:
            raise ValueError(f"local_size={self.local_size} must be at least 8 pixels")
        for name in ("hidden_dim", "bottleneck_dim", "tau_student"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0")
        if not 0 <= self.center_momentum <= 1:
            raise ValueError(f"center_momentum={self.center_momentum} must be between 0 and 1")


def multi_crop_plan(config: DinoConfig, image_size: int) -> ViewPlan:
    """DINO's views (2021, arXiv 2104.14294): the two large ones first.

    Jitter .4/.4/.2/.1, grey .2; blur with probability 1 and .1 for the large crops, .5 for the
    small ones; the second large one solarized with .2. Blur is up to 2 pixels wide at 224, and also
    at 96.
    """
    common: dict[str, Any] = {
        "jitter": 0.8, "brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1,
        "grey": 0.2, "interpolation": "bicubic",
    }  # fmt: skip
    # As for the other methods' views: below 64 pixels the blur is narrower than a pixel.
    blurs = 1.0 if image_size >= _SMALL else 0.0
    large: dict[str, Any] = {"size": image_size, "scale": config.global_scale, **common}
    # `blur_sigma` is of a view of 224 and shrinks with the size; DINO's blur does not.
    widen = REFERENCE_SIZE / _LOCAL_SIZE
    small = Crop(
        size=local_size(config, image_size), scale=config.local_scale, blur=0.5 * blurs,
        blur_sigma=(0.1 * widen, 2.0 * widen), **common,
    )  # fmt: skip
    return ViewPlan(
        crops=(
            Crop(blur=1.0 * blurs, **large),
            Crop(blur=0.1 * blurs, solarize=0.2, **large),
            *[small] * config.num_local,
        )
    )


def local_size(config: DinoConfig, image_size: int) -> int:
    """Side of the small crops: 3/7 of the large ones', in steps that suit most networks."""
    if config.local_size is not None:
        return config.local_size
    side = image_size * _LOCAL_SIZE / REFERENCE_SIZE
    step = 16 if image_size >= _LOCAL_SIZE else 8
    return max(8, round(side / step) * step)


def check_crops(student: Student, config: DinoConfig, *, needs_map: bool) -> None:
    """Lets the student look at one black photo of each size, so that a misfit shows at once.

    Args:
        student: The network.
        config: Its crops.
        needs_map: Whether it must give a feature map.

    Raises:
        ConfigError: If it cannot see crops of a size, or has no map.
    """
    size = student.preprocess.size
    name = f"student {student.architecture.name}"
    large, *small = multi_crop_plan(config, size[0]).crops
    settings = {large.in_shape_of(*size).shape: "--image-size N"}
    for crop in small:
        settings.setdefault(crop.in_shape_of(*size).shape, "--set local_size=N")
    for shape, setting in settings.items():
        try:
            for side in shape:
                check_image_size(name, student.network.backbone, side)
            has_map = _gives_map(student, shape)
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            shown = str(shape[0]) if shape[0] == shape[1] else f"{shape[0]}x{shape[1]}"
            raise ConfigError(
                f"{name} cannot see crops of {shown} px ({reason}); give another size: {setting}"
            ) from error
        if needs_map and not has_map:
            raise ConfigError(
                f"{name} has no feature map to take regions from; use region_weight=0"
            )


@torch.no_grad()
def _gives_map(student: Student, shape: tuple[int, int]) -> bool:
    training = student.training
    pixels = torch.zeros(1, student.input.channels, *shape, device=student.input.mean.device)
    try:
        return extract(student.eval().network.backbone, student.input(pixels)).map is not None
    finally:
        student.train(training)


# --------------------------------------------------------------------------- networks


class DinoHead(nn.Module):
    """MLP, length one, and scores: cosines with K prototypes, times a gain that may be learnt.

    Names of weights are those of DINO's and EsViT's checkpoints.

    Args:
        width: Of the features.
        num_prototypes: K.
        config: The other widths, and whether gains are learnt.
    """

    def __init__(self, width: int, num_prototypes: int, config: DinoConfig) -> None:
        super().__init__()
        hidden, bottleneck = config.hidden_dim, config.bottleneck_dim
        self.mlp = mlp(
            width, hidden, hidden, bottleneck, activation="gelu", norm=config.head_norm,
            hidden_bias=True,
        )  # fmt: skip
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=_INIT_STD)
                nn.init.zeros_(layer.bias)
        self.last_layer = cast(
            nn.Linear,
            parametrizations.weight_norm(nn.Linear(bottleneck, num_prototypes, bias=False)),
        )
        # Weight norm keeps lengths in `original0`, directions in `original1`.
        gain = cast(Any, self.last_layer).parametrizations.weight.original0
        nn.init.ones_(gain)
        gain.requires_grad_(config.learns_gain)

    def forward(self, features: Tensor) -> Tensor:
        """(N, width) -> (N, K) in float32."""
        return self._scores(self.mlp(features))

    @in_full_precision
    def _scores(self, hidden: Tensor) -> Tensor:
        # A cosine in bfloat16 is off by a few thousandths, which a temperature of 0.04 makes a
        # tenth.
        return cast(Tensor, self.last_layer(F.normalize(hidden, dim=1)))


class CropOutputs(NamedTuple):
    """What a network makes of crops of one size.

    Attributes:
        embedding: (V B, D), view after view.
        regions: (B, V, R, D') one row a place of the map; None where not asked for.
        map_size: Height and width of that map, R = h w.
    """

    embedding: Tensor
    regions: Tensor | None
    map_size: tuple[int, int] | None = None


def embed_views(network: Student, views: Sequence[Tensor], *, with_regions: bool) -> CropOutputs:
    """One pass over crops of one size.

    Args:
        network: The network.
        views: V tensors (B, 3, H, W) of pixels in 0..1.
        with_regions: Whether the map is wanted too.
    """
    pixels = torch.cat(tuple(views))
    if not with_regions:
        return CropOutputs(network(pixels).embedding, None)
    embedding, maps = network.embed_with_map(pixels)
    size = (maps.shape[2], maps.shape[3])
    return CropOutputs(embedding, to_regions(maps, num_views=len(views)), size)


def to_regions(maps: Tensor, *, num_views: int) -> Tensor:
    """(V B, D, h, w), view after view -> (B, V, h w, D)."""
    maps = maps.flatten(2)
    return maps.reshape(num_views, -1, *maps.shape[1:]).permute(1, 0, 3, 2)


def by_size(views: Sequence[Tensor]) -> list[Sequence[Tensor]]:
    """The large crops, and the small ones if there are any."""
    return [views[:NUM_GLOBAL], views[NUM_GLOBAL:]] if len(views) > NUM_GLOBAL else [views]


Head = Callable[[Tensor], Tensor]


def score_views(head: Head, features: Sequence[CropOutputs], *, num_views: int) -> Tensor:
    """(V, B, K) scores of all crops, in one call of the head."""
    scores = head(torch.cat([one.embedding for one in features]))
    return scores.reshape(num_views, -1, scores.shape[1])


def score_regions(head: Head, regions: Sequence[Tensor]) -> list[Tensor]:
    """(B, V, R, D) of each size -> (B, V, R, K) of each, in one call of the head."""
    rows = [one.flatten(0, 2) for one in regions]
    scores = torch.split(head(torch.cat(rows)), [len(one) for one in rows])
    return [part.reshape(*one.shape[:3], -1) for part, one in zip(scores, regions, strict=True)]


class Center(nn.Module):
    """Running mean of a teacher's scores over all ranks; without it one prototype takes all.

    Args:
        dim: K.
        momentum: Share that stays at an update.
    """

    value: Tensor

    def __init__(self, dim: int, *, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(dim))

    def forward(self, scores: Tensor, *, tau: float) -> Tensor:
        """`softmax((t − c) / τ)` over the last dimension of (..., K) scores."""
        return ((scores - self.value) / tau).softmax(-1)

    @torch.no_grad()
    def update(self, scores: Tensor) -> None:
        """`c ← m c + (1 − m) mean(t)` over all but the last dimension, and all ranks."""
        rows = scores.flatten(0, -2).to(self.value.dtype)
        self.value.lerp_(distributed.mean(rows.mean(0)), 1 - self.momentum)


# --------------------------------------------------------------------------- loss
# B photos; V student views, v; Q teacher views, q; R student regions, r; T teacher regions, t;
# K prototypes.


@in_full_precision
def view_cross_entropies(student: Tensor, target: Tensor, *, tau: float) -> Tensor:
    """`− mean_b Σ_k p^q_bk log softmax(s^v_b / τ)_k` for each q and v.

    Args:
        student: (V, B, K) scores s.
        target: (Q, B, K) p, rows sum to one.
        tau: τ, the temperature of the contrast: less tells near photos apart more sharply.

    Returns:
        (Q, V).
    """
    log_student = (student / tau).log_softmax(-1)
    return -torch.einsum("qbk,vbk->qv", target, log_student) / student.shape[1]


@in_full_precision
def match_regions(student: Tensor, teacher: Tensor) -> Tensor:
    """For each student region, which teacher region's features are most alike, by cosine.

    Args:
        student: (B, V, R, D) features of the trunk.
        teacher: (B, Q, T, D).

    Returns:
        (B, V, R, Q), below T.
    """
    student, teacher = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    return torch.einsum("bvrd,bqtd->bvrqt", student, teacher).argmax(-1)


@in_full_precision
def region_cross_entropies(student: Tensor, target: Tensor, match: Tensor, *, tau: float) -> Tensor:
    """`− mean_b mean_r Σ_k p^q_b,match(r),k log softmax(s^v_br / τ)_k` for each q and v.

    Of all pairs of regions, and then the matched ones picked: copies of the matched targets would
    be R times K numbers for each pair of views.

    Args:
        student: (B, V, R, K) scores s.
        target: (B, Q, T, K) p, rows sum to one.
        match: (B, V, R, Q) which t.
        tau: τ, the temperature of the contrast: less tells near photos apart more sharply.

    Returns:
        (Q, V).
    """
    log_student = (student / tau).log_softmax(-1)
    return _matched(-torch.einsum("bvrk,bqtk->bvrqt", log_student, target), match)


@in_full_precision
def region_entropies(target: Tensor, match: Tensor) -> Tensor:
    """The floor of `region_cross_entropies`, (Q, V)."""
    entropies = cast(Tensor, torch.special.entr(target)).sum(-1)  # (B, Q, T)
    return _matched(entropies[:, None, None].expand(*match.shape, -1), match)


def _matched(values: Tensor, match: Tensor) -> Tensor:
    """(B, V, R, Q, T) -> (Q, V): the matched t, the mean over b and r."""
    return values.gather(-1, match[..., None]).squeeze(-1).mean((0, 2)).T


def prototypes_used(target: Tensor) -> Tensor:
    """How many prototypes the mean target spreads over: 1 and K are the two ways of collapse.

    Args:
        target: (..., K) p.
    """
    mean = target.detach().flatten(0, -2).mean(0)
    return cast(Tensor, torch.special.entr(mean)).sum().exp()
