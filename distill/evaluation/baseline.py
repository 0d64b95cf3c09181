"""What the same network is worth untrained: the level that training has to rise above.

Features of random weights are not worthless. On small photos a probe on them can come close to
trained ones, so that an accuracy without this level beside it says little.
"""

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import timm
import torch

from edgeseed.core.errors import UsageError
from edgeseed.core.network import StudentNetwork, build_student
from edgeseed.core.student import Architecture, read_spec

BaselineName = Literal["untrained"]
BASELINES = ("untrained",)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineMetric:
    """One accuracy of the untrained network, over seeds.

    Attributes:
        name: As that of the metric it stands beside.
        values_percent: Top-1, a seed each.
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
    """The same architecture with fresh weights, on the same photos by the same protocols.

    Attributes:
        name: Which baseline it is.
        network: The architecture's name.
        seeds: Of the fresh weights.
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
            "edgeseed cannot build it with fresh weights; leave out --baseline"
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


def summarise(
    architecture: Architecture,
    by_seed: Mapping[int, Iterable[tuple[str, float]]],
    *,
    measured: Mapping[str, float],
) -> Baseline:
    """Puts the seeds together.

    Args:
        architecture: Of the untrained networks.
        by_seed: Of each seed, the metrics' names and top-1 in percent.
        measured: Top-1 of the evaluated network in percent, by metric.
    """
    values: dict[str, list[float]] = {}
    for found in by_seed.values():
        for name, value in found:
            values.setdefault(name, []).append(value)
    metrics = tuple(
        BaselineMetric(
            name=name,
            values_percent=tuple(of_seeds),
            mean_percent=math.fsum(of_seeds) / len(of_seeds),
            sd_percent=statistics.stdev(of_seeds) if len(of_seeds) > 1 else None,
            gain_points=measured[name] - math.fsum(of_seeds) / len(of_seeds),
        )
        for name, of_seeds in values.items()
    )
    return Baseline(
        name="untrained", network=architecture.name, seeds=tuple(by_seed), metrics=metrics
    )
