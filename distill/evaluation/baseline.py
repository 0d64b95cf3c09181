"""What is reached without training: by the same network untrained, and by the photo's own pixels.

Neither is worthless. On small photos a probe on features of random weights, or on pixels alone, can
come close to trained features, so that an accuracy without such a level beside it says little.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeseed.core.errors import UsageError
from edgeseed.core.network import StudentNetwork, StudentOutput, build_student
from edgeseed.core.student import Architecture, read_spec

BaselineName = Literal["untrained", "pixels"]
BASELINES = ("untrained", "pixels")
PIXELS_SIDE = 16
"""Small enough for a probe on few photos: 768 features of a colour photo."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineMetric:
    """One accuracy of the baseline, over its seeds.

    Attributes:
        name: As that of the metric it stands beside.
        values_percent: Top-1, a seed each; one value where nothing is drawn.
        mean_percent: Of the seeds.
        sd_percent: Standard deviation over the seeds; None with one seed.
        gain_points: What the evaluated network has above the mean.
    """

    name: str
    values_percent: tuple[float, ...]
    mean_percent: float
    sd_percent: float | None
    gain_points: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """A level without training, on the same photos by the same protocols.

    Attributes:
        name: Which baseline it is: "untrained", the same architecture with fresh weights, or
            "pixels", no network.
        network: The architecture's name, or what is done with the pixels.
        seeds: Of the fresh weights; none for pixels.
        metrics: One for each metric of kNN and the linear probe.
    """

    name: str
    network: str
    seeds: tuple[int, ...]
    metrics: tuple[BaselineMetric, ...]

    def metric(self, name: str) -> BaselineMetric | None:
        """The metric of that name; None if the baseline has none, as for `finetune`."""
        return next((metric for metric in self.metrics if metric.name == name), None)


def read_architecture(network: str, *, image_size: int) -> Architecture:
    """The architecture of a network that `evaluate` takes.

    Args:
        network: A student file, a timm name or `NAME=CHECKPOINT`.
        image_size: Of its input, in pixels.

    Raises:
        UsageError: If the network is not one of these, so that nothing says how to build it.
        ArtifactError: If the student file is broken.
    """
    if network.endswith(".safetensors") and "=" not in network:
        return read_spec(Path(network)).architecture
    name = network.partition("=")[0].partition(".")[0]
    if not timm.is_model(name):
        raise UsageError(
            f"baseline untrained: {network} is neither a student file nor a network of timm's, so "
            "edgeseed cannot build it with fresh weights; write --baseline pixels, or leave it out"
        )
    config = timm.get_pretrained_cfg(name)
    is_fixed = config is not None and bool(config.fixed_input_size)
    return Architecture(name=name, kwargs={"img_size": image_size} if is_fixed else {})


def build_untrained(architecture: Architecture, *, seed: int) -> StudentNetwork:
    """The network with the fresh weights of a seed, in eval mode.

    It has the weights that `distill`, `pretrain` and `finetune` start from with this seed.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_student(architecture).eval()


class Pixels(nn.Module):
    """In place of a network: means of `PIXELS_SIDE` x `PIXELS_SIDE` squares of each channel.

    Takes (B, C, H, W) and gives an embedding of (B, C * PIXELS_SIDE**2). The photos are as the
    network sees them: resized, cropped and normalised by its preprocessing. So the level depends
    on that a little: 42.5 or 43.5 % by kNN-20 on CIFAR-10 with two usual normalisations.
    """

    name = f"{PIXELS_SIDE} x {PIXELS_SIDE} pixels, no network"

    def forward(self, images: Tensor) -> StudentOutput:
        """The photos, smaller."""
        return StudentOutput(functional.adaptive_avg_pool2d(images, PIXELS_SIDE).flatten(1), None)


def summarise(
    name: BaselineName,
    network: str,
    by_seed: Mapping[int | None, Iterable[tuple[str, float]]],
    *,
    measured: Mapping[str, float],
) -> Baseline:
    """Puts the seeds together.

    Args:
        name: Of the baseline.
        network: As `Baseline.network`.
        by_seed: Of each seed, or of None where nothing is drawn, the metrics' names and top-1 in
            percent.
        measured: Top-1 of the evaluated network in percent, by metric.
    """
    values: dict[str, list[float]] = {}
    for found in by_seed.values():
        for metric, value in found:
            values.setdefault(metric, []).append(value)
    metrics = tuple(
        BaselineMetric(
            name=metric,
            values_percent=tuple(of_seeds),
            mean_percent=math.fsum(of_seeds) / len(of_seeds),
            sd_percent=statistics.stdev(of_seeds) if len(of_seeds) > 1 else None,
            gain_points=measured[metric] - math.fsum(of_seeds) / len(of_seeds),
        )
        for metric, of_seeds in values.items()
    )
    seeds = tuple(seed for seed in by_seed if seed is not None)
    return Baseline(name=name, network=network, seeds=seeds, metrics=metrics)
