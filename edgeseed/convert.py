"""`convert`: a student's weights for other programs, without loss.

`timm` is one file that `timm.create_model(NAME, checkpoint_path=FILE)` reads; `hub` is a folder as
the Hugging Face hub holds it (configuration, weights, model card), read by
`timm.create_model("local-dir:FOLDER", pretrained=True)` and, once uploaded, `hf-hub:OWNER/NAME`;
`student` is a student file made of a timm network.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from edgeseed.core.config import to_plain
from edgeseed.core.errors import ConfigError, UsageError, WorkError
from edgeseed.core.files import atomic_directory, atomic_file
from edgeseed.core.network import StudentNetwork, save_student
from edgeseed.core.preprocess import COLORS, Preprocess
from edgeseed.core.pretrained import load_model
from edgeseed.core.registry import unknown_name
from edgeseed.core.student import StudentSpec


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ConvertResult:
    """Where the weights are, and how the other program reads them.

    Attributes:
        out: The file or folder.
        to: Which program reads it.
        code: A line of Python that loads it.
    """

    out: Path
    to: str
    code: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return cast(dict[str, Any], to_plain(self))


def convert(student: str | Path, *, to: str, out: str | Path) -> ConvertResult:
    """Writes a student in another program's form, and checks that it computes the same.

    Args:
        student: `PATH.safetensors`, `NAME[.tag]` or `NAME=CHECKPOINT`.
        to: `timm`, `hub` or `student`.
        out: The file (`timm`, `student`) or folder (`hub`); must not exist.

    Raises:
        UsageError: If the call is wrong.
        ConfigError: If the other program has no such network.
        WorkError: If what was written does not compute the same.
    """
    if to not in _WRITERS:
        raise unknown_name("form", to, _WRITERS)
    out = Path(out)
    if out.exists():
        raise UsageError(f"{out} exists already; choose another --out or remove it")
    if to != "hub" and out.suffix != ".safetensors":
        raise UsageError(f"--to {to} writes one file: give --out NAME.safetensors, not {out}")
    network, spec = load_model(student)
    code = _WRITERS[to](out, network, spec)
    return ConvertResult(out=out, to=to, code=code)


def _write_student(out: Path, network: StudentNetwork, spec: StudentSpec) -> str:
    save_student(out, network, spec)
    return f"edgeseed.core.network.load_student({str(out)!r})"


def _write_timm(out: Path, network: StudentNetwork, spec: StudentSpec) -> str:
    model = _as_timm(network, spec)
    arguments = _arguments(spec)
    name = spec.architecture.name
    with atomic_file(out) as temporary:
        save_file(_contiguous(model), temporary, metadata={"format": "pt"})
        # timm chooses the reader by the suffix, which a temporary name lacks.
        _check_same(network, spec, lambda: _load_state(temporary, name, arguments))
    shown = "".join(f", {key}={value!r}" for key, value in arguments.items())
    return f"timm.create_model({name!r}, checkpoint_path={str(out)!r}{shown})"


def _load_state(path: Path, name: str, arguments: dict[str, Any]) -> nn.Module:
    from safetensors.torch import load_file

    model: nn.Module = timm.create_model(name, **arguments)
    model.load_state_dict(load_file(path), strict=True)
    return model


def _write_hub(out: Path, network: StudentNetwork, spec: StudentSpec) -> str:
    from timm.models import save_for_hf

    model = _as_timm(network, spec)
    preprocess = spec.preprocess
    configuration: dict[str, Any] = {
        "pretrained_cfg": {
            "input_size": list(preprocess.shape),
            "fixed_input_size": "img_size" in spec.architecture.kwargs,
            "interpolation": preprocess.interpolation,
            "crop_pct": preprocess.image_size / preprocess.resize,
            "crop_mode": "center",
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
        }
    }
    if spec.classes is not None:
        configuration["label_names"] = list(spec.classes)
    with atomic_directory(out) as folder:
        model.load_state_dict(_contiguous(model))
        save_for_hf(
            model, str(folder), model_config=configuration, model_args=dict(_extra(spec)),
            safe_serialization=True,
        )  # fmt: skip
        (folder / "README.md").write_text(model_card(spec), encoding="utf-8")
        _check_same(
            network, spec, lambda: timm.create_model(f"local-dir:{folder}", pretrained=True)
        )
    return f"timm.create_model('local-dir:{out}', pretrained=True)"


_WRITERS: dict[str, Callable[[Path, StudentNetwork, StudentSpec], str]] = {
    "timm": _write_timm,
    "hub": _write_hub,
    "student": _write_student,
}


def _extra(spec: StudentSpec) -> dict[str, Any]:
    """Arguments of the architecture, but for the number of classes."""
    return dict(spec.architecture.kwargs)


def _arguments(spec: StudentSpec) -> dict[str, Any]:
    num_classes = 0 if spec.classes is None else len(spec.classes)
    return {"num_classes": num_classes, **_extra(spec)}


def _contiguous(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().contiguous() for name, value in model.state_dict().items()}


def _as_timm(network: StudentNetwork, spec: StudentSpec) -> nn.Module:
    """The whole network as timm builds it: trunk and classifier in one.

    Raises:
        ConfigError: If timm has no such network, or puts its classifier elsewhere.
    """
    if spec.architecture.variant:
        raise ConfigError(
            f"the student was changed after timm built it ({spec.architecture.variant}), and timm "
            "cannot build that; train without --activation, --drop-se and reduce_stride, or ship "
            "it with `edgeseed export`"
        )
    model: nn.Module = timm.create_model(spec.architecture.name, **_arguments(spec))
    state = dict(network.backbone.state_dict())
    if network.head is not None:
        name = cast(Any, model).pretrained_cfg.get("classifier", "")
        name = name if isinstance(name, str) else "+".join(name)
        if f"{name}.weight" not in model.state_dict():
            raise ConfigError(
                f"timm's {spec.architecture.name} has no single linear classifier ({name}); "
                "convert the student without its classifier, as `edgeseed distill` wrote it"
            )
        state |= {f"{name}.weight": network.head.weight, f"{name}.bias": network.head.bias}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ConfigError(
            f"timm's {spec.architecture.name} has no place for a part of the student: "
            + " ".join(str(error).split())[:300]
        ) from error
    return model.eval()


@torch.inference_mode()
def _check_same(network: StudentNetwork, spec: StudentSpec, load: Callable[[], nn.Module]) -> None:
    """Loads what was written as a user would, and compares one photo of noise bit by bit."""
    noise = torch.randn(1, *spec.preprocess.shape, generator=torch.Generator().manual_seed(0))
    embedding, logits = network.eval()(noise)
    expected = embedding if logits is None else logits
    if not torch.equal(load().eval()(noise), expected):
        raise WorkError(
            f"timm's {spec.architecture.name} computes something else from these weights than the "
            "student; nothing was written"
        )


def _resized(preprocess: Preprocess) -> str:
    if preprocess.width is None:
        return f"shorter side resized to {preprocess.resize} px"
    return f"resized to cover {preprocess.box_text}"


def model_card(spec: StudentSpec) -> str:
    """The README of a hub folder: what it is, how it is used, where it comes from."""
    name, preprocess = spec.architecture.name, spec.preprocess
    kind = "image-classification" if spec.classes else "image-feature-extraction"
    provenance = spec.provenance
    lines = [
        "---",
        "library_name: timm",
        f"pipeline_tag: {kind}",
        "tags: [timm, edgeseed]",
        "---",
        f"# {name}",
        "",
        f"A `{name}` by edgeseed, {len(spec.classes)} classes."
        if spec.classes
        else f"A `{name}` by edgeseed; its embeddings have {spec.embedding_dim} numbers.",
        "",
        "```python",
        "import timm",
        "",
        'model = timm.create_model("hf-hub:OWNER/NAME", pretrained=True).eval()',
        "config = timm.data.resolve_model_data_config(model)",
        "transform = timm.data.create_transform(**config, is_training=False)",
        "```",
        "",
        f"Input: {COLORS[preprocess.channels]}, {_resized(preprocess)} "
        f"({preprocess.interpolation}), centre {preprocess.size_text} px, mean {preprocess.mean}, "
        f"std {preprocess.std}.",
    ]
    for title, key in (("Method", "method"), ("Teacher", "teacher"), ("Made of", "imported")):
        if provenance.get(key):
            value = provenance[key]
            shown = (
                ", ".join(f"{k} {v}" for k, v in value.items() if isinstance(v, str | int))
                if isinstance(value, dict)
                else str(value)
            )
            lines += ["", f"{title}: {shown}"]
    return "\n".join(lines) + "\n"
