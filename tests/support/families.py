"""Tries one small network of each timm family on every target; writes a table.

    PYTHONPATH=tests python -m support.families [FAMILY ...]

All take half an hour of two idle cores. A cell of the table is `ok`, or the one line that a user
would read. `ok` takes, of fp32, outputs within the target's own limit of the student's; of int8,
outputs as near to the simulated program as the gates ask, and no finding of the lint. What converts
is the subject, not how well a network decides. So weights are timm's initial ones with statistics
of real inputs, and depths and widths are cut down where timm allows.
"""

import contextlib
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgeseed.core.console import quiet, say
from edgeseed.core.errors import EdgeseedError
from edgeseed.core.network import StudentNetwork, build_student
from edgeseed.core.preprocess import Preprocess
from edgeseed.core.reading import read_record
from edgeseed.core.records import QuantizationRecord
from edgeseed.core.student import Architecture, StudentSpec
from edgeseed.export.program import build_program, output_names
from edgeseed.export.proof import gates
from edgeseed.export.proof.reference import reference_outputs
from edgeseed.export.proof.rounding import simulate_integers
from edgeseed.export.quantize.config import QuantizeConfig
from edgeseed.export.quantize.quantize import quantize
from edgeseed.export.quantize.schemes import SCHEMES
from edgeseed.export.samples import Photos, synthetic_photo
from edgeseed.export.target import Model, Precision, Target, WriteRequest
from edgeseed.export.targets import TARGETS
from edgeseed.export.targets.coreml.model import CoreMLModel
from edgeseed.export.targets.litert.model import LiteRTModel
from edgeseed.export.targets.onnx.model import OnnxModel
from edgeseed.export.targets.tensorrt.model import TensorRTModel

TABLE = Path(__file__).parents[1] / "export/families.json"
WAYS: tuple[tuple[str, Precision], ...] = (
    ("onnx", "fp32"), ("tensorrt", "fp32"), ("coreml", "fp32"), ("litert", "fp32"),
    ("onnx", "int8"), ("tensorrt", "int8"), ("coreml", "int8"), ("litert", "int8"),
)  # fmt: skip
NUM_CLASSES = 10
_PHOTOS, _JUDGED = 8, 4


@dataclasses.dataclass(frozen=True, slots=True)
class Family:
    """A network that stands for its family.

    Attributes:
        name: timm's.
        size: Side of its photos in pixels.
        kwargs: For timm: fewer and narrower layers.
    """

    name: str
    size: int = 64
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)


def _vit(name: str, size: int = 64, **kwargs: Any) -> Family:
    return Family(name, size, {"img_size": size, "depth": 2, **kwargs})


_FOUR = (1, 1, 1, 1)
FAMILIES: dict[str, Family] = {
    "beit": _vit("beit_base_patch16_224", embed_dim=96, num_heads=3),
    "byoanet": Family("botnet26t_256", 128, {"img_size": 128}),
    "byobnet": Family("repvgg_a0"),
    "cait": _vit("cait_xxs24_224"),
    "coat": Family("coat_lite_tiny", 64, {"img_size": 64}),
    "convit": _vit("convit_tiny"),
    "convmixer": Family("convmixer_768_32", 56),
    "convnext": Family("convnext_atto", 64, {"depths": _FOUR}),
    "cpubone": Family("cpubone_nano"),
    "crossvit": Family("crossvit_tiny_240", 240),
    "csatv2": Family("csatv2", 128),
    "cspnet": Family("cs3darknet_s"),
    "cspnext": Family("cspnext_tiny"),
    "davit": Family(
        "davit_tiny", 64,
        {"depths": _FOUR, "embed_dims": (24, 48, 96, 192), "num_heads": (1, 2, 4, 8)},
    ),
    "deit": _vit("deit_tiny_distilled_patch16_224"),
    "densenet": Family("densenet121", 64, {"block_config": (2, 2, 2, 2)}),
    "dla": Family("dla46_c"),
    "dpn": Family("dpn48b", 64, {"k_sec": (1, 1, 1, 1)}),
    "edgenext": Family("edgenext_xx_small"),
    "efficientformer": Family("efficientformer_l1", 224, {"depths": (1, 1, 1, 2)}),
    "efficientformer_v2": Family("efficientformerv2_s0", 224, {"depths": _FOUR}),
    "efficientnet": Family("efficientnet_b0"),
    "efficientvim": Family("efficientvim_m1", 128, {"depths": (1, 1, 1)}),
    "efficientvit_mit": Family("efficientvit_b0"),
    "efficientvit_msra": Family("efficientvit_m0", 224),
    "eva": _vit("eva02_tiny_patch14_224", 56),
    "fasternet": Family("fasternet_t0"),
    "fastvit": Family("fastvit_t8", 64, {"layers": _FOUR}),
    "focalnet": Family("focalnet_tiny_srf"),
    "gcvit": Family("gcvit_xxtiny", 224),
    "ghostnet": Family("ghostnet_050"),
    "hardcorenas": Family("hardcorenas_a"),
    "hgnet": Family("hgnetv2_b0"),
    "hiera": Family("hiera_tiny_224", 224, {"stages": _FOUR, "embed_dim": 48}),
    "hieradet_sam2": Family("sam2_hiera_tiny", 224),
    "hrnet": Family("hrnet_w18_small"),
    "iformer": Family("iformer_t", 128),
    "inception_next": Family("inception_next_atto", 64, {"depths": _FOUR}),
    "inception_v3": Family("inception_v3", 128),
    "inception_v4": Family("inception_v4", 128),
    "lcnetv2": Family("lcnetv2_small"),
    "levit": Family("levit_128s", 224),
    "lowformer": Family("lowformer_b0", 128),
    "mambaout": Family("mambaout_femto", 64, {"depths": _FOUR}),
    "maxxvit": Family("coatnet_pico_rw_224", 224),
    "metaformer": Family("poolformer_s12"),
    "mlp_mixer": Family("mixer_s32_224", 64, {"img_size": 64}),
    "mobilenetv3": Family("mobilenetv3_small_050"),
    "mobilevit": Family("mobilevitv2_050"),
    "mvitv2": Family("mvitv2_tiny", 224),
    "naflexvit": Family(
        "naflexvit_base_patch16_gap", 64, {"depth": 2, "embed_dim": 96, "num_heads": 3}
    ),
    "nest": Family("nest_tiny_jx", 224),
    "nextvit": Family("nextvit_small"),
    "nfnet": Family("nf_resnet26"),
    "pit": Family("pit_ti_224", 224),
    "pvt_v2": Family("pvt_v2_b0", 64, {"depths": _FOUR}),
    "rdnet": Family("rdnet_tiny"),
    "regnet": Family("regnety_002"),
    "repghost": Family("repghostnet_050"),
    "repvit": Family("repvit_m0_9", 64, {"depth": (1, 1, 2, 1)}),
    "res2net": Family("res2net50_14w_8s", 64, {"layers": _FOUR}),
    "resnest": Family("resnest14d"),
    "resnet": Family("resnet18"),
    "resnetv2": Family("resnetv2_50x1_bit"),
    "rexnet": Family("rexnet_100"),
    "selecsls": Family("selecsls42"),
    "senet": Family("legacy_seresnet18"),
    "sequencer": Family("sequencer2d_s", 224, {"layers": _FOUR}),
    "shvit": Family("shvit_s1", 224),
    "sknet": Family("skresnet18"),
    "starnet": Family("starnet_s050"),
    "swiftformer": Family("swiftformer_xs", 224),
    "swin_transformer": Family(
        "swin_tiny_patch4_window7_224", 224,
        {"depths": (2, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    ),
    "swin_transformer_v2": Family(
        "swinv2_tiny_window8_256", 256,
        {"depths": (2, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    ),
    "swin_transformer_v2_cr": Family(
        "swinv2_cr_tiny_224", 224,
        {"depths": (2, 1, 1, 1), "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    ),
    "tiny_vit": Family("tiny_vit_5m_224", 224, {"depths": _FOUR}),
    "tnt": _vit("tnt_s_patch16_224"),
    "twins": Family("twins_svt_small", 224, {"depths": (1, 1, 2, 1)}),
    "vgg": Family("vgg11_bn"),
    "visformer": Family("visformer_tiny", 224, {"depth": (1, 1, 1)}),
    "vision_transformer": _vit("vit_tiny_patch16_224"),
    "vision_transformer map pool": _vit(
        "vit_base_patch16_siglip_224", embed_dim=96, num_heads=3
    ),
    "vision_transformer_hybrid": _vit("vit_tiny_r_s16_p8_224"),
    "vision_transformer_relpos": _vit("vit_relpos_small_patch16_224"),
    "vision_transformer_sam": _vit(
        "samvit_base_patch16_224", 224, embed_dim=96, num_heads=3, global_attn_indexes=(1,)
    ),
    "vitamin": Family("vitamin_small_224", 224, {"depth": 2}),
    "volo": Family("volo_d1_224", 224),
    "vovnet": Family("ese_vovnet19b_slim_dw"),
    "xception": Family("legacy_xception", 96),
    "xception_aligned": Family("xception41", 96),
    "xcit": _vit("xcit_nano_12_p16_224"),
}  # fmt: skip
"""By timm's module; a second network of one has more words behind it."""
TOO_LARGE = {
    "deepseek_vit", "gemma4_vit", "inception_resnet_v2", "mobilenetv5", "nasnet", "pnasnet",
    "qwen3_vit", "tresnet",
}  # fmt: skip
"""Families without a network that is small, nor one that timm makes smaller."""


def make_network(family: Family) -> tuple[StudentNetwork, Preprocess, Any]:
    """A network in evaluation mode, and photos."""
    torch.manual_seed(0)
    preprocess = Preprocess(image_size=family.size, resize=family.size)
    photos = [synthetic_photo(family.size, seed=seed) for seed in range(_PHOTOS)]
    pixels = np.stack([preprocess.pixels(photo) for photo in photos])
    network = build_student(
        Architecture(name=family.name, kwargs=family.kwargs), num_classes=NUM_CLASSES
    )
    # Batch norms that have seen nothing pass on values that vanish, layer by layer.
    for module in network.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            module.reset_running_stats()
    network.train()
    with torch.no_grad():
        network(torch.from_numpy(preprocess.normalize(pixels)))
    return network.eval(), preprocess, pixels


class Trial:
    """One network on every target.

    Args:
        family: What to build.
        folder: For files.
    """

    def __init__(self, family: Family, folder: Path) -> None:
        self.folder = folder
        self.network, self.preprocess, self.pixels = make_network(family)
        self.program = build_program(self.network, self.preprocess)
        self.spec = StudentSpec(
            architecture=Architecture(name=family.name, kwargs=family.kwargs),
            preprocess=self.preprocess,
            embedding_dim=self.network.embedding_dim,
            classes=tuple(f"class {index}" for index in range(NUM_CLASSES)),
        )
        self.judged = self.pixels[:_JUDGED]
        self.reference = reference_outputs(self.network, self.preprocess, self.judged)

    def cell(self, name: str, precision: Precision) -> str:
        """`ok`, or what is wrong."""
        target: Target = TARGETS.load(name)
        try:
            if precision == "fp32":
                return self._float_cell(target)
            return self._integer_cell(target)
        except Exception as error:
            return _line(error)

    def _float_cell(self, target: Target) -> str:
        program = self.program
        if target.fixed_batch is not None:
            program = build_program(self.network, self.preprocess, batch=target.fixed_batch)
        model = self._write(target, "fp32", program, None)
        limit = target.parity_limit["fp32"]
        gate = gates.parity_gate(model.infer(self.judged), self.reference, limit=limit)
        return "ok" if gate.passed else f"off by {gate.value:.2g}, limit {limit:g}"

    def _integer_cell(self, target: Target) -> str:
        scheme = target.schemes["int8"][0]
        batch: Any = target.fixed_batch or "dynamic"
        config = QuantizeConfig(
            calibrator="minmax", max_float_layers=0, equalize=False, bias_correction=False,
            gain_correction=False, second_order=False,
        )  # fmt: skip
        quantized = quantize(
            self.program, SCHEMES.load(scheme), Photos(pixels=self.pixels), batch=batch,
            config=config,
        )  # fmt: skip
        record = read_record(QuantizationRecord, quantized.record, what="it")
        simulated = simulate_integers(quantized.program, self.judged, batch=batch)
        model = self._write(target, "int8", quantized.program, record)
        found = model.infer(self.judged)
        slack = target.rounding_slack
        (gate, *_) = gates.rounding_gates(found, self.reference, simulated, slack=slack)
        problems = [str(finding) for finding in model.lint()]
        if problems:
            return f"{len(problems)} findings, such as {problems[0]}"[:200]
        return "ok" if gate.passed else f"rounding {gate.value:.2g}, limit {slack:g}"

    def _write(
        self, target: Target, precision: Precision, program: Any, record: QuantizationRecord | None
    ) -> Model:
        folder = self.folder / f"{target.name}-{precision}"
        folder.mkdir()
        written = target.write(
            WriteRequest(
                program=program, output_names=output_names(program), spec=self.spec,
                precision=precision, batch=target.fixed_batch or "dynamic", options=target.options,
            ),
            folder,
        )  # fmt: skip
        path = folder / written.model
        if target.name == "coreml":
            return CoreMLModel(path, quantization=record)
        if target.name == "litert":
            return LiteRTModel(path, precision=precision, quantization=record)
        opened: Callable[..., Model] = OnnxModel if target.name == "onnx" else TensorRTModel
        return opened(path, batch="batch", precision=precision, quantization=record)


def _line(error: Exception) -> str:
    """What a user reads; of an error that is not ours, its type too."""
    crash = "" if isinstance(error, EdgeseedError) else f"crash: {type(error).__name__}: "
    return f"{crash}{' '.join(str(error).split())}"[:200]


def try_family(family: Family) -> dict[str, str]:
    """By target and precision, `ok` or one line."""
    with tempfile.TemporaryDirectory(prefix="families-") as folder, quiet():
        try:
            trial = Trial(family, Path(folder))
        except Exception as error:
            return {"program": _line(error)}
        return {" ".join(way): trial.cell(*way) for way in WAYS}


def main() -> None:
    torch.set_num_threads(1)
    table: dict[str, dict[str, str]] = {}
    with contextlib.suppress(FileNotFoundError):
        table = json.loads(TABLE.read_text())
    for name in sys.argv[1:] or FAMILIES:
        start = time.monotonic()
        row = try_family(FAMILIES[name])
        table[name] = {"network": FAMILIES[name].name, **row}
        say(f"{name} ({time.monotonic() - start:.0f} s): {row}")
        TABLE.write_text(json.dumps(dict(sorted(table.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
