"""The benchmark that shows whether distillation teaches: its cells, verdicts and stops."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeseed.core.photos import PhotoSet

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def proof() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("benchmark_proof", FOLDER / "proof.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))


@pytest.mark.parametrize("preset", ["cpu", "gpu", "smoke"])
def test_every_cell_comes_after_those_it_needs(proof: ModuleType, preset: str) -> None:
    seen: set[str] = set()
    for cell in proof.make_cells(proof.PRESETS[preset], [0, 1, 2]):
        assert seen.issuperset(cell.needs), cell.name
        assert cell.name not in seen
        seen.add(cell.name)


@pytest.mark.parametrize("preset", ["cpu", "gpu", "smoke"])
def test_seed_zero_of_every_row_comes_before_further_seeds(proof: ModuleType, preset: str) -> None:
    seeds = [cell.seed for cell in proof.make_cells(proof.PRESETS[preset], [0, 1, 2])]
    assert seeds == sorted(seeds)


def test_every_relation_and_every_row_is_about_cells_that_are_run(proof: ModuleType) -> None:
    report = proof.proof_report
    groups = {cell.group for cell in proof.make_cells(proof.PRESETS["cpu"], [0])}
    assert {r.better for r in report.RELATIONS} | {r.worse for r in report.RELATIONS} <= groups
    assert {*report.LABEL_FREE, *report.TAUGHT, *report.LABELLED} <= groups
    trained = {group for group in groups if not group.startswith(("teacher", "transfer "))}
    assert {report.untrained_group(group) for group in trained} <= groups


def test_all_cells_of_a_student_see_as_many_photos_but_the_long_row(proof: ModuleType) -> None:
    preset = proof.PRESETS["cpu"]
    for cell in proof.make_cells(preset, [0]):
        if cell.command == "distill" and cell.group != "regress-long":
            assert cell.words[cell.words.index("--epochs") + 1] == str(preset.epochs), cell.name


def test_no_label_reaches_a_label_free_row(proof: ModuleType) -> None:
    free = set(proof.proof_report.LABEL_FREE)
    for cell in proof.make_cells(proof.PRESETS["cpu"], [0]):
        if cell.group in free:
            assert cell.command in ("distill", "pretrain")
            assert "--labels" not in cell.words
            if cell.group == "crd":  # the one method of these that would take labels
                assert {"label_weight=0", "negatives=uniform"} <= set(cell.words)


# --------------------------------------------------------------------------- report


def _record(group: str, seed: int, **metrics: float) -> dict[str, Any]:
    return {
        "cell": f"{group}/{seed}", "group": group, "seed": seed, "command": "distill",
        "curve": [{"photos_seen": 100, "loss": 1.0, "knn_percent": 30.0}],
        "metrics": {name.replace("_", "-"): value for name, value in metrics.items()},
    }  # fmt: skip


def test_the_margin_needs_ten_points_and_five_spreads(proof: ModuleType) -> None:
    verdict = proof.proof_report.margin_verdict
    assert verdict([12.0, 12.5, 11.5]) == "holds"
    assert verdict([9.0, 9.5, 9.2]).startswith("below the margin")
    assert verdict([8.0, 12.0, 20.0]).startswith("below 5 spreads")
    assert "one seed" in verdict([12.0])


def test_a_gain_is_above_the_untrained_network_of_the_same_seed(proof: ModuleType) -> None:
    report = proof.proof_report
    records = [
        _record("untrained", 0, linear=30.0), _record("untrained", 1, linear=34.0),
        _record("regress", 1, linear=45.0), _record("rob", 0, linear=41.0),
    ]  # fmt: skip
    values = report.collect(records)
    assert report.gains(values, "regress", "linear") == [11.0]
    assert report.gains(values, "rob", "linear") == [11.0]
    assert report.gains(values, "moco", "linear") == []


def test_another_student_is_compared_with_its_own_untrained_network(proof: ModuleType) -> None:
    report = proof.proof_report
    records = [
        _record("untrained", 0, linear=30.0), _record("untrained big", 0, linear=40.0),
        _record("regress big", 0, linear=45.0),
    ]  # fmt: skip
    assert report.gains(report.collect(records), "regress big", "linear") == [5.0]


def test_tables_of_some_cells_say_which_are_missing(proof: ModuleType) -> None:
    records = [_record("untrained", 0, linear=30.0, knn_20=25.0)]
    text = proof.proof_report.make_tables(
        records, missing_of=["untrained/0", "regress/0", "moco/1", "moco/2"], student="small"
    )
    assert text.startswith("**1 of 4 cells have run.**")
    assert "missing, by seed: regress 0; moco 1, 2." in text
    whole = proof.proof_report.make_tables(records, missing_of=["untrained/0"], student="small")
    assert "missing" not in whole


def test_results_of_some_cells_are_not_called_complete(proof: ModuleType, tmp_path: Path) -> None:
    records = [_record("untrained", 0, linear=30.0)]
    proof.proof_report.write_results(
        tmp_path / "r.json", preset={}, photos={}, records=records, missing=["regress/0"]
    )
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["is_complete"] is False
    assert found["missing_cells"] == ["regress/0"]


def test_tables_go_between_the_marks_of_a_page_and_nothing_else_changes(
    proof: ModuleType, tmp_path: Path
) -> None:
    report = proof.proof_report
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    report.insert(page, "new")
    assert page.read_text() == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="no place for tables"):
        report.insert(page, "new")


def test_a_trial_of_a_preset_sees_about_the_share_that_was_asked_for(proof: ModuleType) -> None:
    whole = proof.PRESETS["gpu"]
    trial = proof.scaled(whole, 0.001)
    seen = [
        10 * per_class * epochs
        for per_class, epochs in ((trial.train_per_class, trial.epochs), (5000, whole.epochs))
    ]
    assert 0.0005 < seen[0] / seen[1] < 0.002
    assert trial.batch_size <= 10 * trial.train_per_class
    assert proof.scaled(whole, 1) is whole


def test_the_plot_has_a_line_a_row_and_the_untrained_level(
    proof: ModuleType, tmp_path: Path
) -> None:
    untrained = _record("untrained", 0, linear=30.0)
    untrained["metrics"]["monitor knn-20"] = 25.0
    proof.proof_report.draw_curves(
        tmp_path / "curves.svg", [untrained, _record("regress", 0, linear=40.0)]
    )
    drawn = (tmp_path / "curves.svg").read_text()
    assert ">untrained</text>" in drawn
    assert ">regress</text>" in drawn


# --------------------------------------------------------------------------- photos and runs


def test_a_small_draw_is_part_of_a_larger_one(proof: ModuleType) -> None:
    from edgeseed.core.photos import open_photos

    digits = open_photos("digits", labels=True)
    few, more = (proof._draw(digits, count) for count in (2, 10))
    seen = {more.image(index).tobytes() for index in range(len(more))}
    assert len(few) == 20
    assert all(few.image(index).tobytes() in seen for index in range(len(few)))


def pairs(photos: PhotoSet) -> set[tuple[str, bytes]]:
    """Class and pixels of each photo."""
    assert photos.classes is not None
    assert photos.labels is not None
    return {
        (photos.classes[label], photos.image(i).tobytes()) for i, label in enumerate(photos.labels)
    }


@pytest.mark.parametrize("packed", [False, True])
def test_photos_are_written_as_they_were(proof: ModuleType, tmp_path: Path, packed: bool) -> None:
    from edgeseed.core.photos import open_photos

    photos = proof._draw(open_photos("digits", labels=True), 3)
    proof._write(photos, tmp_path / "set", packed=packed)
    found = open_photos(tmp_path / "set", labels=True)
    assert len(found) == len(photos) == 30
    assert pairs(found) == pairs(photos)


def test_the_untrained_network_is_the_one_that_a_run_starts_from(
    proof: ModuleType, tmp_path: Path
) -> None:
    from edgeseed.core.network import load_student
    from edgeseed.distill import create_student

    cell = proof.Cell(group="untrained", seed=3, command="untrained", student="test_efficientnet")
    proof.write_untrained(tmp_path / "s.safetensors", cell, image_size=32)
    network, _ = load_student(tmp_path / "s.safetensors")
    start, _ = create_student("test_efficientnet", seed=3, image_size=32)
    for name, value in start.backbone.state_dict().items():
        assert value.equal(network.backbone.state_dict()[name]), name


def test_batch_norms_take_the_statistics_of_the_training_photos_and_weights_stay(
    proof: ModuleType, tmp_path: Path
) -> None:
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    from edgeseed.core.network import load_student
    from edgeseed.core.photos import open_photos

    proof_measure = importlib.import_module("proof_measure")  # beside proof.py
    path = tmp_path / "s.safetensors"
    cell = proof.Cell(group="untrained", seed=0, command="untrained", student="test_efficientnet")
    proof.write_untrained(path, cell, image_size=32)
    before, spec = load_student(path)
    train = tmp_path / "photos" / "train"
    train.parent.mkdir()
    proof._write(proof._draw(open_photos("digits", labels=True), 3), train, packed=False)
    photos = proof_measure.Photos(tmp_path)

    proof_measure.take_statistics(path, photos)
    after, _ = load_student(path)
    inputs: list[Any] = []
    norm = next(module for module in after.modules() if isinstance(module, _BatchNorm))
    norm.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    pixels = torch.from_numpy(photos.pixels("train", spec.preprocess).copy())
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (spec.preprocess.mean, spec.preprocess.std))
    after((pixels / 255 - mean) / std)
    assert norm.running_mean is not None
    torch.testing.assert_close(norm.running_mean, inputs[0].mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    for name, value in before.named_parameters():
        assert value.equal(after.get_parameter(name)), name


def test_no_cell_begins_after_the_budget_and_nothing_is_counted_as_failed(
    proof: ModuleType, tmp_path: Path
) -> None:
    runner = proof.Runner(tmp_path, proof.PRESETS["smoke"], threads=1, device="cpu", deadline=-1.0)
    cell = proof.Cell(group="untrained", seed=0, command="untrained", student="test_efficientnet")
    assert runner.run([cell], jobs=1) == []
    assert proof.read_records(tmp_path) == []


def test_a_cell_that_fails_is_named_and_the_next_one_runs(
    proof: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finish(self: Any, cell: Any) -> dict[str, Any]:
        if cell.group == "bad":
            raise RuntimeError("edgeseed distill\nno such teacher")
        return {"cell": cell.name, "metrics": {"linear": 1.0}}

    monkeypatch.setattr(proof.Runner, "finish", finish)
    runner = proof.Runner(tmp_path, proof.PRESETS["smoke"], threads=1, device="cpu", deadline=None)
    cells = [
        proof.Cell(group=group, seed=0, command="untrained", student="test_efficientnet")
        for group in ("bad", "good")
    ]
    assert runner.run(cells, jobs=1) == ["bad/0"]
    assert [record["cell"] for record in proof.read_records(tmp_path)] == ["good/0"]
    assert runner.run(cells[1:], jobs=1) == []  # finished: not run again


@pytest.mark.slow
def test_a_stop_saves_the_run_and_the_next_call_goes_on(proof: ModuleType, tmp_path: Path) -> None:
    """The deadline ends in the middle of a training: its state is kept, and the rest is trained."""
    from edgeseed.core.photos import open_photos

    proof._write(proof._draw(open_photos("digits", labels=True), 20), tmp_path / "p", packed=False)
    words = (
        "pretrain", "--method", "simclr", "--model", "test_efficientnet", "--data", "p",
        "--image-size", "32", "--epochs", "400", "--batch-size", "20", "--devices", "cpu",
        "--out", "run",
    )  # fmt: skip
    runner = proof.Runner(tmp_path, proof.PRESETS["smoke"], threads=1, device="cpu", deadline=None)
    log = tmp_path / "run/metrics.jsonl"

    def stop_when_it_trains() -> None:
        import threading
        import time

        def watch() -> None:
            while not log.is_file():
                time.sleep(0.05)
            runner.stop.set()

        threading.Thread(target=watch, daemon=True).start()

    stop_when_it_trains()
    with pytest.raises(proof.StoppedError):
        runner._call(*words)
    assert (tmp_path / "run/config.toml").is_file()
    assert not (tmp_path / "run/student.safetensors").is_file()
    steps = len(log.read_text().splitlines())
    assert 0 < steps < 400
