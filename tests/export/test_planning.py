"""What a call of `export` comes to, before a photo is read; more wrong calls: test_exporting."""

from typing import Any

import pytest

from edgeseed.core.errors import UnknownNameError, UsageError
from edgeseed.export.call import ExportCall, ExportListCall
from edgeseed.export.planning import make_plan, search_target, sort_settings, target_calls
from edgeseed.export.quantize.config import QuantizeConfig


def plan(*precisions: str, **changes: Any) -> Any:
    return make_plan(ExportCall("s", out="o", **changes), precisions)


def names(*precisions: str, **changes: Any) -> list[tuple[str, str | None]]:
    return [(each.precision, each.scheme) for each in plan(*precisions, **changes).variants]


def test_a_precision_has_its_default_scheme_or_the_one_that_was_asked_for() -> None:
    assert names("fp32") == [("fp32", None)]
    assert names("int8", calibration="digits") == [("int8", "x86")]
    assert names("int8", calibration="digits", scheme="arm") == [("int8", "arm")]


def test_a_profile_gives_its_scheme_and_refuses_what_the_device_cannot() -> None:
    assert names("int8", calibration="digits", profile="raspberry-pi-5") == [("int8", "arm")]
    with pytest.raises(UsageError, match="--precision fp16: profile raspberry-pi-5 runs target"):
        plan("fp16", profile="raspberry-pi-5")


def test_auto_without_photos_makes_what_parity_judges_and_names_the_rest() -> None:
    found = plan("auto")
    assert {each.precision for each in found.variants} == {"fp32", "fp16"}
    assert {each.variant.precision for each in found.skipped} == {"w8", "int8"}
    assert all("--calibration" in each.helps for each in found.skipped)
    assert {each.precision for each in plan("auto", calibration="digits").variants} == {
        "fp32", "fp16", "w8", "int8",
    }  # fmt: skip


def test_integers_by_name_need_photos() -> None:
    with pytest.raises(UsageError, match="--precision int8 needs photos to calibrate with"):
        plan("int8")


@pytest.mark.parametrize(
    ("precision", "changes", "message"),
    [
        ("fp32", {"keep_float": ("a",)}, "--keep-float is about int8: with --precision fp32"),
        ("fp32", {"recover": True}, "--recover is about int8"),
        ("fp32", {"quantization": {"calibrator": "mse"}}, "--set calibrator is about int8"),
        ("fp32", {"min_agreement": 0.9}, "--min-agreement is about w8 and int8"),
        ("fp32", {"prefer": "size"}, "--prefer size is about --precision auto"),
        ("fp32", {"scheme": "arm"}, "--scheme is about the integers of int8"),
        ("fp32", {"prefer": "beauty"}, "unknown preference 'beauty'"),
        ("fp31", {}, "unknown precision of target onnx 'fp31'"),
        ("fp32", {"options": {"opsit": 20}}, "unknown option of target onnx 'opsit'"),
        ("int8", {"scheme": "x87", "calibration": "digits"}, "unknown scheme of onnx int8 'x87'"),
        ("fp32", {"target": "litert", "batch": 4}, "--batch 4: target litert takes photos 1 at a"),
        ("fp32", {"target": "coreml", "add_outputs": ("top5",)}, "target coreml adds no outputs"),
    ],
)
def test_what_would_have_no_effect_is_refused(
    precision: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        plan(precision, **changes)


def test_a_format_that_takes_one_photo_at_a_time_is_not_dynamic() -> None:
    assert plan("fp32", target="litert").batch == 1
    assert plan("fp32").batch == "dynamic"


def test_the_manifest_says_what_was_asked_for() -> None:
    settings = plan("fp32", "w8", seed=3, calibration="digits").settings
    assert (settings.requested, settings.seed, settings.target) == ("fp32,w8", 3, "onnx")
    assert settings.options["opset"] == plan("fp32").settings.options["opset"]


def test_of_several_targets_each_gets_its_own_options_and_scheme() -> None:
    call = ExportListCall(
        "s", out="o", target=["onnx", "litert"], precision="int8", scheme="arm",
        options={"opset": 20},
    )  # fmt: skip
    calls = target_calls(call)
    assert calls["onnx"].options == {"opset": 20}
    assert calls["onnx"].scheme == "arm"
    assert calls["litert"].options == {}
    assert calls["litert"].scheme is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": []}, "--target names none"),
        ({"target": ["onnx", "onnx"]}, "onnx is given twice"),
        ({"target": ["onnx", "litert"], "options": {"opsit": 1}}, "unknown option of targets onnx"),
        ({"target": ["onnx", "litert"], "scheme": "y"}, "unknown scheme of targets onnx, litert"),
    ],
)
def test_targets_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        target_calls(ExportListCall("s", out="o", **changes))


def test_settings_are_the_targets_or_the_quantizations() -> None:
    own, quantization = sort_settings(["onnx"], {"opset": 20, "calibrator": "minmax"})
    assert own == {"opset": 20}
    assert quantization == {"calibrator": "minmax"}
    with pytest.raises(UnknownNameError, match="unknown setting of export to onnx 'calibrater'"):
        sort_settings(["onnx"], {"calibrater": "minmax"})


@pytest.mark.parametrize(
    ("gate", "wanted"), [(0.98, 0.99), (0.9, 0.99), (0.996, 0.998), (1.0, 1.0)]
)
def test_the_search_asks_for_half_of_what_the_gate_leaves(gate: float, wanted: float) -> None:
    assert search_target(gate) == pytest.approx(wanted)
    assert search_target(gate) >= QuantizeConfig().min_agreement
