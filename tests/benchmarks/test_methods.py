"""The benchmark of the methods: its cells hang together, and its verdicts are what it says."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_methods", FOLDER / "methods.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("preset", ["cpu", "gpu", "smoke"])
def test_every_cell_comes_after_those_it_needs(benchmark: ModuleType, preset: str) -> None:
    seen: set[str] = set()
    for cell in benchmark.make_cells(benchmark.PRESETS[preset], [0, 1, 2]):
        assert seen.issuperset(cell.needs), cell.name
        assert cell.name not in seen
        seen.add(cell.name)


@pytest.mark.parametrize("preset", ["cpu", "gpu", "smoke"])
def test_every_relation_is_about_cells_that_are_run(benchmark: ModuleType, preset: str) -> None:
    chosen = benchmark.PRESETS[preset]
    groups = {cell.group for cell in benchmark.make_cells(chosen, [0])}
    for relation in benchmark.make_relations(chosen):
        assert {relation.better, relation.worse} <= groups, relation.claim


def test_settings_of_every_cell_are_known_to_its_method(benchmark: ModuleType) -> None:
    from edgeseed.distill.methods import load_method
    from edgeseed.distill.supervised import Supervised
    from edgeseed.distill.training.settings import build_settings

    for preset in benchmark.PRESETS.values():
        for cell in benchmark.make_cells(preset, [0]):
            if cell.kind == "untrained":
                continue
            name = cell.arguments.get("method", "finetune")
            method = Supervised if name == "finetune" else load_method(name)
            options = {key: cell.arguments.get(key) for key in ("epochs", "batch_size", "lr")}
            overrides = cell.arguments["settings"]
            build_settings(method, name=name, options=options, overrides=overrides, config=None)


def test_every_network_whose_features_are_measured_has_a_row_untrained(
    benchmark: ModuleType,
) -> None:
    for preset in benchmark.PRESETS.values():
        cells = benchmark.make_cells(preset, [0])
        untrained = {cell.arguments["student"] for cell in cells if cell.kind == "untrained"}
        for cell in cells:
            if cell.measure == "features" and cell.kind in ("pretrain", "distill"):
                names = (cell.arguments.get(key) for key in ("model", "student", "peer"))
                assert {name for name in names if name} <= untrained, cell.name


def test_only_names_cells_and_what_they_need(benchmark: ModuleType) -> None:
    cells = benchmark.make_cells(benchmark.PRESETS["cpu"], [0, 1])
    names = [cell.name for cell in benchmark.with_needs(cells, ["simclrv2/1"])]
    assert sorted(names) == ["simclrv2/1", "teacher-few/1", "teacher/0"]


def values(better: list[float], worse: list[float]) -> dict[tuple[str, str, str], dict[int, float]]:
    return {
        ("a", "student", "linear"): dict(enumerate(better)),
        ("b", "student", "linear"): dict(enumerate(worse)),
    }


@pytest.mark.parametrize(
    ("better", "worse", "at_least", "verdict"),
    [
        ([62.0, 61.0, 63.0], [50.0, 51.0, 50.5], False, "holds"),
        ([50.0, 51.0, 50.5], [62.0, 61.0, 63.0], False, "does not hold"),
        ([50.0, 52.0, 51.0], [51.0, 51.0, 51.0], False, "within the spread"),
        ([50.0, 52.0, 51.0], [51.0, 51.0, 51.0], True, "within the spread: as good"),
        ([62.0], [50.0], False, "one seed"),
    ],
)
def test_verdict_compares_seed_by_seed_with_two_standard_errors(
    benchmark: ModuleType, better: list[float], worse: list[float], at_least: bool, verdict: str
) -> None:
    relation = benchmark.Relation(claim="a > b", better="a", worse="b", at_least=at_least)
    judged = benchmark.judge(relation, values(better, worse))
    assert judged["verdict"] == verdict
    assert judged["difference_points"]["n"] == len(better)


def test_seeds_that_only_one_side_has_are_left_out(benchmark: ModuleType) -> None:
    relation = benchmark.Relation(claim="a > b", better="a", worse="b")
    judged = benchmark.judge(relation, values([60.0, 61.0, 62.0], [50.0, 52.0]))
    difference = judged["difference_points"]
    assert difference["values"] == [10.0, 9.0]
    assert difference["sd"] == pytest.approx(math.sqrt(0.5))
    assert benchmark.judge(relation, values([60.0], [])) is None


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("cifar_resnet8", 8), ("cifar_resnet20", 8), ("cifar_resnet8x4", 8),
        ("cifar_resnet32x4", 8), ("cifar_swin_mini", 4), ("cifar_swin", 4),
    ],
)  # fmt: skip
def test_small_networks_keep_a_map_at_32_pixels(
    name: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from edgeseed.distill.networks.features import extract
    from edgeseed.distill.networks.students import create_student

    monkeypatch.syspath_prepend(str(FOLDER))
    __import__("small_networks")
    network, _ = create_student(name, seed=0, image_size=32)
    with torch.no_grad():
        features = extract(network.eval().backbone, torch.zeros(1, 3, 32, 32))
    assert features.map is not None
    assert features.map.shape[2:] == (side, side)
