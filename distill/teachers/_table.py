"""The teachers that anyone can get, with what one must know before using one."""

import dataclasses
from typing import Any, Literal

Source = Literal["timm", "hub", "file"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TeacherInfo:
    """One row of `edgeseed teachers`.

    Attributes:
        name: Of the network; families share names of files, `spec` says what to write.
        family: Who trained it, and how.
        source: Where the weights come from: timm's hub, `torch.hub`, or a file that one fetches
        oneself.
        embedding_dim: Length of an embedding.
        image_size: The input that edgeseed uses unless told otherwise, in pixels.
        native_size: The input that it was trained on, in pixels.
        normalization: What its input is normalised with.
        pooling: How the embedding is made: "cls", "avg" or "map" (attention pooling).
        licence: Of the weights.
        commercial_ok: Whether the licence allows commercial use; None where one must read it.
        head: The head that comes with the weights: "none", or which, and in which file.
    """

    name: str
    family: str
    source: Source
    embedding_dim: int
    image_size: int
    native_size: int
    normalization: str
    pooling: str
    licence: str
    commercial_ok: bool | None
    head: str

    @property
    def spec(self) -> str:
        """What to give as `--teacher`; CHECKPOINT stands for the family's file."""
        return f"{self.name}=CHECKPOINT" if self.source == "file" else self.name

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"spec": self.spec, **dataclasses.asdict(self)}


def _rows(
    names_and_dims: dict[str, int], *, native_size: int | None = None, **facts: Any
) -> list[TeacherInfo]:
    size = facts["image_size"]
    return [
        TeacherInfo(name=name, embedding_dim=dim, native_size=native_size or size, **facts)
        for name, dim in names_and_dims.items()
    ]


_VIT_DIMS = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "giant": 1536}
_APACHE: dict[str, Any] = {"licence": "Apache-2.0", "commercial_ok": True}
_MIT: dict[str, Any] = {"licence": "MIT", "commercial_ok": True}
_NON_COMMERCIAL: dict[str, Any] = {"licence": "CC-BY-NC-4.0", "commercial_ok": False}
_IMAGENET: dict[str, Any] = {"normalization": "ImageNet"}


def _dino() -> list[TeacherInfo]:
    facts: dict[str, Any] = {"family": "DINO", "image_size": 224, **_IMAGENET, **_APACHE}
    timm_names = {
        f"vit_{size}_patch{patch}_224.dino": _VIT_DIMS[size]
        for size in ("small", "base")
        for patch in (16, 8)
    }
    hub_names = {
        "hub:facebookresearch/dino:main:dino_vits16": 384,
        "hub:facebookresearch/dino:main:dino_vitb16": 768,
    }
    resnet = {"hub:facebookresearch/dino:main:dino_resnet50": 2048}
    in_full = "dino, in the full checkpoint (give it as NAME=PATH)"
    return [
        *_rows(timm_names, source="timm", pooling="cls", head=in_full, **facts),
        *_rows(hub_names, source="hub", pooling="cls", head="none", **facts),
        *_rows(resnet, source="hub", pooling="avg", head="none", **facts),
    ]


def _dinov2() -> list[TeacherInfo]:
    names = {
        f"vit_{size}_patch14_{registers}dinov2.lvd142m": _VIT_DIMS[size]
        for registers in ("", "reg4_")
        for size in ("small", "base", "large", "giant")
    }
    hub = {
        f"hub:facebookresearch/dinov2:dinov2_vit{size[0]}14_reg": _VIT_DIMS[size]
        for size in ("small", "base", "large", "giant")
    }
    facts: dict[str, Any] = {
        "family": "DINOv2", "image_size": 224, "native_size": 518, "pooling": "cls", "head": "none",
        **_IMAGENET, **_APACHE,
    }  # fmt: skip
    return [*_rows(names, source="timm", **facts), *_rows(hub, source="hub", **facts)]


def _dinov3() -> list[TeacherInfo]:
    facts: dict[str, Any] = {
        "family": "DINOv3", "source": "timm", "image_size": 256, "head": "none",
        "licence": "DINOv3 licence (gated)", "commercial_ok": None,
    }  # fmt: skip
    vits = {
        "small": 384,
        "small_plus": 384,
        "base": 768,
        "large": 1024,
        "huge_plus": 1280,
        "7b": 4096,
    }
    web = {f"vit_{size}_patch16_dinov3.lvd1689m": dim for size, dim in vits.items()}
    satellite = {f"vit_{size}_patch16_dinov3.sat493m": vits[size] for size in ("large", "7b")}
    convnext = {
        f"convnext_{size}.dinov3_lvd1689m": dim
        for size, dim in {"tiny": 768, "small": 768, "base": 1024, "large": 1536}.items()
    }
    return [
        *_rows(web, pooling="cls", **_IMAGENET, **facts),
        *_rows(satellite, pooling="cls", normalization="satellite (SAT-493M)", **facts),
        *_rows(convnext, pooling="avg", **_IMAGENET, **{**facts, "image_size": 224}),
    ]


def _eupe() -> list[TeacherInfo]:
    facts: dict[str, Any] = {
        "family": "EUPE", "source": "timm", "head": "none", "commercial_ok": False,
        "licence": "FAIR non-commercial research", **_IMAGENET,
    }  # fmt: skip
    vits = {
        f"vit_{size}_patch16_dinov3_qkvb.eupe_lvd1689m": _VIT_DIMS[size]
        for size in ("tiny", "small", "base")
    }
    convnext = {
        f"convnext_{size}.eupe_lvd1689m": dim
        for size, dim in {"tiny": 768, "small": 768, "base": 1024}.items()
    }
    return [
        *_rows(vits, pooling="cls", image_size=256, **facts),
        *_rows(convnext, pooling="avg", image_size=256, **facts),
    ]


def _masked() -> list[TeacherInfo]:
    facts: dict[str, Any] = {"source": "timm", "head": "none", **_IMAGENET, **_NON_COMMERCIAL}
    mae = {
        "vit_base_patch16_224.mae": 768,
        "vit_large_patch16_224.mae": 1024,
        "vit_huge_patch14_224.mae": 1280,
    }
    ijepa = {
        "vit_huge_patch14_gap_224.in1k_ijepa": 1280,
        "vit_huge_patch14_gap_224.in22k_ijepa": 1280,
    }
    large_ijepa = {"vit_giant_patch16_gap_224.in22k_ijepa": 1408}
    fcmae = {
        f"convnextv2_{size}.fcmae": dim
        for size, dim in {"tiny": 768, "base": 1024, "large": 1536}.items()
    }
    return [
        *_rows(mae, family="MAE", pooling="cls", image_size=224, **facts),
        *_rows({**ijepa, **large_ijepa}, family="I-JEPA", pooling="avg", image_size=224, **facts),
        *_rows(
            {"vit_huge_patch16_gap_448.in1k_ijepa": 1280},
            family="I-JEPA",
            pooling="avg",
            image_size=448,
            **facts,
        ),
        *_rows(fcmae, family="FCMAE (ConvNeXt V2)", pooling="avg", image_size=224, **facts),
    ]


def _image_text() -> list[TeacherInfo]:
    clip: dict[str, Any] = {
        "family": "CLIP (image-text)", "source": "timm", "normalization": "CLIP", "pooling": "cls",
        "head": "none", **_MIT,
    }  # fmt: skip
    siglip: dict[str, Any] = {
        "family": "SigLIP 2 (image-text)", "source": "timm", "normalization": "0.5",
        "pooling": "map",
        "head": "none", **_APACHE,
    }  # fmt: skip
    return [
        *_rows({"vit_base_patch16_clip_quickgelu_224.openai": 768}, image_size=224, **clip),
        *_rows({"vit_large_patch14_clip_quickgelu_224.openai": 1024}, image_size=224, **clip),
        *_rows({"vit_base_patch16_siglip_224.v2_webli": 768}, image_size=224, **siglip),
        *_rows({"vit_large_patch16_siglip_256.v2_webli": 1024}, image_size=256, **siglip),
        *_rows({"vit_so400m_patch14_siglip_224.v2_webli": 1152}, image_size=224, **siglip),
    ]


def _clusters_and_contrasts() -> list[TeacherInfo]:
    files: dict[str, Any] = {"source": "file", "image_size": 224, **_IMAGENET}
    swav: dict[str, Any] = {
        "family": "SwAV",
        "pooling": "avg",
        "head": "projection and prototypes",
        **files,
        **_NON_COMMERCIAL,
    }
    moco = {"head": "projection", **files, **_NON_COMMERCIAL}
    seer: dict[str, Any] = {
        "family": "SEER (SwAV)", "source": "timm", "pooling": "avg", "head": "none",
        "image_size": 224,
        "licence": "SEER licence (non-commercial)", "commercial_ok": False, **_IMAGENET,
    }  # fmt: skip
    return [
        *_rows(
            {"resnet50": 2048, "resnet50w2": 4096, "resnet50w4": 8192, "resnet50w5": 10240}, **swav
        ),
        *_rows(
            {"hub:facebookresearch/swav:main:resnet50": 2048},
            **{**swav, "source": "hub", "head": "none"},
        ),
        *_rows({"resnet50": 2048}, family="MoCo-v2", pooling="avg", **moco),
        *_rows({"resnet50": 2048}, family="MoCo-v3", pooling="avg", **moco),
        *_rows(
            {"vit_small_patch16_224": 384, "vit_base_patch16_224": 768},
            family="MoCo-v3",
            pooling="cls",
            **moco,
        ),
        *_rows(
            {"regnety_320.seer": 3712, "regnety_640.seer": 4920, "regnety_1280.seer": 7392}, **seer
        ),
    ]


def _esvit_and_ibot() -> list[TeacherInfo]:
    facts: dict[str, Any] = {"source": "file", "image_size": 224, **_IMAGENET}
    swins = {
        "swin_tiny_patch4_window7_224": 768,
        "swin_small_patch4_window7_224": 768,
        "swin_base_patch4_window7_224": 1024,
    }
    ibot = {
        "vit_small_patch16_224": 384,
        "vit_base_patch16_224": 768,
        "vit_large_patch16_224": 1024,
    }
    heads = "dino and region, in the full checkpoint"
    return [
        *_rows(swins, family="EsViT", pooling="avg", head=heads, **facts, **_MIT),
        *_rows(
            ibot,
            family="iBOT",
            pooling="cls",
            head="dino, in the full checkpoint",
            **facts,
            **_APACHE,
        ),
    ]


def _simclr() -> list[TeacherInfo]:
    names = {
        f"simclrv2_r{depth}_{width}x_sk{selective}": 2048 * width
        for depth, width, selective in [
            (50, 1, 0), (50, 1, 1), (50, 2, 0), (50, 2, 1),
            (101, 1, 0), (101, 1, 1), (101, 2, 0), (101, 2, 1),
            (152, 1, 0), (152, 1, 1), (152, 2, 0), (152, 2, 1), (152, 3, 1),
        ]
    }  # fmt: skip
    return _rows(
        names, family="SimCLRv2 (converted)", source="file", image_size=224,
        normalization="none, [0, 1]", pooling="avg", head="projection and classifier", **_APACHE,
    )  # fmt: skip


def list_teachers() -> tuple[TeacherInfo, ...]:
    """All teachers of the table, by family.

    The table knows what timm does not say: licences in plain words, whether the weights bring their
    head, and the input that edgeseed prefers (DINOv2 at 224 px costs a fifth of its native 518 px).
    Any other timm name, checkpoint or hub entry works as well.
    """
    families = (
        _dinov2, _dino, _dinov3, _eupe, _esvit_and_ibot, _clusters_and_contrasts, _simclr,
        _masked, _image_text,
    )  # fmt: skip
    return tuple(row for family in families for row in family())


def find_teacher(name: str) -> TeacherInfo | None:
    """The row of a name that timm or torch.hub serves, or None; families share names of files."""
    return next((row for row in list_teachers() if row.name == name and row.source != "file"), None)


def pooling_of_architecture(name: str) -> str | None:
    """How networks of an architecture are pooled, by all families that the table has of it.

    Args:
        name: With a tag or without: the same weights are pooled alike however they are named.

    Returns:
        "cls", "avg" or "map"; None where the table has no such architecture, or families differ.
    """
    architecture = name.partition(".")[0]
    known = {
        row.pooling
        for row in list_teachers()
        if row.source != "hub" and row.name.partition(".")[0] == architecture
    }
    return known.pop() if len(known) == 1 else None


def families_of_files(name: str) -> tuple[str, ...]:
    """The families that publish a network of that name as a file."""
    rows = list_teachers()
    return tuple(row.family for row in rows if row.name == name and row.source == "file")


LAYOUT_FAMILIES = {
    "dino": "DINO", "dinov2": "DINOv2", "esvit": "EsViT", "moco": "MoCo-v2", "mocov3": "MoCo-v3",
    "swav": "SwAV", "simclrv2": "SimCLRv2 (converted)",
}  # fmt: skip
"""Which family's training code writes a checkpoint layout."""
