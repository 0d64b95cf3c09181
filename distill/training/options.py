"""What `distill`, `pretrain` and `finetune` take: signature, help and command line come from here.

Nothing heavy is imported: the help of a command reads this file.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from edgeseed.core.options import Option

Precision = Literal["auto", "fp32", "bf16"]
Activation = Literal["keep", "relu6"]
ALL_LABELS = "100%"
UserSettings = Mapping[str, Any] | Sequence[str]
"""`{"tau_student": 0.1, "recipe.clip_norm": 2.0}`, or the strings that `--set` takes."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every run of training takes."""

    data: Annotated[
        str | Path,
        Option(
            "A folder of photos, tar shards (train-{000..127}.tar, https://, s3://), or digits.",
            metavar="D",
        ),
    ]
    out: Annotated[str | Path, Option("Folder of the run, new or empty.", metavar="RUN")]
    epochs: Annotated[
        int | None,
        Option(
            "Passes over the photos. More than a finished run had, with --resume, goes on with it.",
            minimum=1, default_text="the method's",
        ),
    ] = None  # fmt: skip
    batch_size: Annotated[
        int | None,
        Option(
            "Photos a step, over all devices; less for a small set.",
            minimum=1, default_text="the method's",
        ),
    ] = None  # fmt: skip
    image_size: Annotated[
        int | None,
        Option(
            "Side of the network's input, in pixels; less for small photos.",
            minimum=8, default_text="the network's",
        ),
    ] = None  # fmt: skip
    lr: Annotated[
        float | None,
        Option(
            "Peak learning rate at recipe.lr_batch_size photos a step; another --batch-size scales "
            "it, as recipe.lr_scaling says.",
            default_text="the method's",
        ),
    ] = None
    seed: Annotated[
        int | None,
        Option("Of all random draws: weights, order, crops, queues.", minimum=0, default_text="0"),
    ] = None
    devices: Annotated[
        str | int,
        Option("auto, cpu, cuda, cuda:N, mps, or the number of processes under torchrun."),
    ] = "auto"
    precision: Annotated[
        Precision | None,
        Option("Of the arithmetic; auto chooses by device and network.", default_text="auto"),
    ] = None
    settings: Annotated[
        UserSettings,
        Option(
            "Any other setting: FIELD of the method, recipe.FIELD, views.FIELD, training.FIELD, "
            "student.FIELD; may be given several times.",
            metavar="FIELD=VALUE", flags=("--set",), multiple=True,
        ),
    ] = ()  # fmt: skip
    config: Annotated[
        str | Path | None,
        Option(
            "Settings from a file, such as another run's config.toml; also its image size, seed "
            "and precision.",
            metavar="F.toml",
        ),
    ] = None
    resume: Annotated[
        bool,
        Option(
            "Go on with the run in RUN; photos, labels, networks and settings must be the same."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class UnlabelledOptions(RunOptions):
    """What `distill` and `pretrain` have in common."""

    activation: Annotated[
        Activation, Option("relu6 in place of SiLU and hard-swish: quantizes better.")
    ] = "keep"
    drop_se: Annotated[bool, Option("Leave out squeeze-and-excitation: quantizes better.")] = False
    knn_every_epochs: Annotated[
        int | None,
        Option(
            "Measure kNN accuracy every N epochs; the photos need labels for it.",
            metavar="N", minimum=1, flags=("--knn-every-epochs", "--during"),
        ),
    ] = None  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DistillOptions(UnlabelledOptions):
    """What `distill` takes."""

    method: Annotated[
        str, Option("How the student learns; see `edgeseed methods`.", metavar="M")
    ] = "regress"
    teacher: Annotated[
        str | None,
        Option("A timm name, NAME=CHECKPOINT, or a student.safetensors.", metavar="T"),
    ] = None
    student: Annotated[
        str,
        Option(
            "A timm name, or weights to go on from: NAME.tag, NAME=CHECKPOINT, a student file.",
            metavar="S",
        ),
    ]
    peer: Annotated[
        str | None, Option("A second student, for methods that train two.", metavar="P")
    ] = None
    networks: Annotated[
        UserSettings,
        Option(
            "A network of another role, for methods that have one; may be given several times.",
            metavar="ROLE=NAME", flags=("--network",), multiple=True,
        ),
    ] = ()  # fmt: skip
    labels: Annotated[
        str,
        Option(
            "Which labels a method that uses any may see: 1%, 5pc (of each class), or a file with "
            "one photo a line.",
            metavar="L",
        ),
    ] = ALL_LABELS
    teacher_cache: Annotated[
        str | Path | None,
        Option(
            "Keep the teacher's answers in DIR, for the epochs and runs that follow: views then "
            "repeat after views.replay epochs.",
            metavar="DIR",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PretrainOptions(UnlabelledOptions):
    """What `pretrain` takes."""

    method: Annotated[
        str, Option("How the network learns; see `edgeseed methods`.", metavar="M")
    ] = "simclr"
    model: Annotated[
        str, Option("A timm name, or a student.safetensors to go on from.", metavar="M")
    ]


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(RunOptions):
    """What `finetune` takes."""

    student: Annotated[
        str | Path,
        Option(
            "A student file; a timm name with its pretrained tag, or NAME=CHECKPOINT, to go on "
            "from weights that others made; or a bare timm name, to learn from labels alone."
        ),
    ] = dataclasses.field(kw_only=False)
    data: Annotated[
        str | Path,
        Option("Labelled photos: class folders or a named set.", metavar="D"),
    ]
    test_data: Annotated[
        str | Path | None,
        Option("Labelled photos to test on.", metavar="D", default_text="as evaluate"),
    ] = None
    labels: Annotated[
        str,
        Option(
            "1%, 10%, 100%, Npc (a number of each class), or a file with one photo a line.",
            metavar="L",
        ),
    ] = ALL_LABELS
    projection: Annotated[
        bool,
        Option("Start from the first layer of the pre-training head, as SimCLRv2 does."),
    ] = False
    epochs: Annotated[
        int | None,
        Option(
            "Passes over the labelled photos.",
            minimum=1, default_text="30, or what makes 500 updates",
        ),
    ] = None  # fmt: skip
    image_size: Annotated[
        int | None,
        Option("For a timm name; a student file has its own.", minimum=8),
    ] = None
    lr: Annotated[
        float | None,
        Option(
            "Peak learning rate at 256 photos a step; another --batch-size scales it, by the root.",
            default_text="0.001",
        ),
    ] = None
    resume: Annotated[
        bool,
        Option(
            "Go on with the run in RUN; photos, labels, networks and settings must be the same."
        ),
    ] = False
