"""`pretrain`: one call from photos alone to a network that can teach."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from edgeseed.core.errors import UsageError
from edgeseed.distill.methods import METHODS, load_method
from edgeseed.distill.training.device import Precision
from edgeseed.distill.training.distilling import DistillResult, train
from edgeseed.distill.training.settings import Activation, RunSettings, set_dials, student_overrides


def pretrain(
    *,
    method: str = "simclr",
    model: str,
    data: str | Path,
    out: str | Path,
    activation: Activation = "keep",
    drop_se: bool = False,
    epochs: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    devices: str | int = "auto",
    precision: Precision | None = None,
    settings: Sequence[str] = (),
    config: str | Path | None = None,
    resume: bool = False,
    during: int | None = None,
) -> DistillResult:
    """Trains a network on unlabelled photos without a teacher, so that it can be one.

    The run folder is that of `distill`: `student.safetensors` is the pre-trained trunk, which
    `distill(teacher="RUN/student.safetensors", ...)` takes; `heads.safetensors` has the projection
    head, for fine-tuning from its first layer.

    Args:
        method: A name that `pretraining_methods()` lists.
        model: A timm name, or a student file to go on from.
        data: Photos, as `open_photos` reads them.
        out: The run's folder, new or empty.
        activation: "relu6" puts ReLU6 where SiLU and hard-swish are, which quantizes better.
        drop_se: Leaves out squeeze-and-excitation, which quantizes badly.
        epochs: Passes over the photos; by default the method's.
        batch_size: Photos a step over all devices; by default the method's, less for a small set.
        image_size: Side of the network's input, in pixels; by default its own, less for small
            photos.
        lr: Peak learning rate, for the recipe's `lr_batch_size`; by default the method's.
        seed: Of all that is drawn: weights, order, crops, queues. By default 0.
        devices: As `distill` takes them.
        precision: `fp32`, `bf16`, or `auto`, the default, which chooses by device and network.
        settings: As `distill` takes them. For small sets and batches see the method's own words.
        config: A TOML file with settings, such as another run's config.toml; its image size, seed
            and precision are taken as well, where they are not given here.
        resume: Go on with the run in `out`; nothing but devices and loading may have changed.
        during: Measure kNN accuracy every so many epochs; the photos need labels for it.

    Returns:
        Where the network is (`student`), and how the run went.

    Raises:
        UsageError: If the call is wrong: a method that needs a teacher, unknown names, settings
            that do not fit, too few photos.
        WorkError: If training diverges, is interrupted, or the disk is full.
    """
    needs = load_method(method).NEEDS
    if needs.teacher or needs.peer:
        raise UsageError(
            f"method {method} does not pre-train: it learns from a "
            f"{'teacher' if needs.teacher else 'peer'}; use `edgeseed distill`, or one of the "
            f"methods that pre-train: {', '.join(pretraining_methods())}"
        )
    path = None if config is None else Path(config)
    dials = set_dials(path, image_size=image_size, seed=seed, precision=precision)
    return train(
        RunSettings(
            method=method,
            student=model,
            data=str(data),
            devices=str(devices),
            during=during,
            **dataclasses.asdict(dials),
        ),
        out=Path(out),
        options={"epochs": epochs, "batch_size": batch_size, "lr": lr},
        overrides=(*student_overrides(activation=activation, drop_se=drop_se), *settings),
        config=path,
        resume=resume,
    )


def pretraining_methods() -> tuple[str, ...]:
    """Names of the methods that need neither a teacher nor a peer."""
    needs = {name: load_method(name).NEEDS for name in METHODS.names()}
    return tuple(name for name, need in needs.items() if not (need.teacher or need.peer))
