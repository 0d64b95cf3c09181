"""`quickstart`: every stage once, offline, on photos that ship with scikit-learn.

A teacher is pre-trained on scans of handwritten digits without their labels, a MobileNetV3 is
distilled from it, and the same MobileNetV3 is trained by self-supervision alone for the same time.
Beside both stands the same network untrained: features of random weights go far on digits, and what
is not above them was not learnt. The student becomes three bundles, each is verified, the
ones that run here are measured, and all of it becomes one page. It is the code that a user runs on
their own photos; only the arguments differ, and each is printed as the command that does it.
"""

import dataclasses
import shlex
import time
from pathlib import Path

from edgeseed._quickstart_report import write_report
from edgeseed.core.console import say
from edgeseed.core.errors import UsageError
from edgeseed.core.files import write_json
from edgeseed.core.scratch import scratch_folder
from edgeseed.distill import DistillResult, distill, evaluate, pretrain
from edgeseed.export import export, verify
from edgeseed.quickstart_result import (
    QuickstartResult,
    Shipped,
    Trained,
    p90_ms,
)
from edgeseed.runtime import Result, compare, profile

_DIGIT_VIEWS = (
    # A mirrored digit is another sign, and scans of 8x8 pixels have no detail to blur.
    "views.flip=0", "views.grey=0", "views.blur=0",
)  # fmt: skip
# Telling photos apart needs views that differ; imitating a teacher needs views like the photos.
_CONTRASTIVE_VIEWS = (*_DIGIT_VIEWS, "views.jitter_strength=0.5", "views.min_scale=0.35")
_REGRESSION_VIEWS = (*_DIGIT_VIEWS, "views.jitter_strength=0.3", "views.min_scale=0.6")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class QuickstartPlan:
    """The arguments that make the stages small enough for two CPU cores."""

    data: str = "digits"
    image_size: int = 32
    teacher: str = "resnet10t"
    teacher_epochs: int = 10
    student: str = "mobilenetv3_small_100"
    student_epochs: int = 12
    batch_size: int = 64
    pretrain_settings: tuple[str, ...] = (
        "temperature=0.2", "recipe.optimizer=adamw", "recipe.weight_decay=1e-4",
        "recipe.warmup_epochs=1", "recipe.lr_batch_size=64", *_CONTRASTIVE_VIEWS,
    )  # fmt: skip
    pretrain_lr: float = 2e-3
    distill_settings: tuple[str, ...] = (
        # Blended digits pay off over hundreds of epochs, not over these few.
        "views.mixup=false", "recipe.warmup_epochs=1", "recipe.lr_batch_size=64",
        *_REGRESSION_VIEWS,
    )  # fmt: skip
    distill_lr: float = 6e-3
    protocol: str = "rapid"
    max_drop: float = 3.0
    """In points. A bundle is judged on 256 photos here, of which one is 0.4 points already."""
    untrained_seeds: int = 3
    """Networks with fresh weights, for the level that training has to rise above."""


def quickstart(
    *, out: str | Path = "edgeseed-quickstart", seed: int = 0, plan: QuickstartPlan | None = None
) -> QuickstartResult:
    """Runs every stage once, and writes a page about it.

    Args:
        out: Folder for everything; new or empty.
        seed: Of all that is drawn.
        plan: Other networks, data or lengths.

    Returns:
        Accuracies, bundles, latencies and where the page is.

    Raises:
        UsageError: If `out` is in use.
        GateError: If a bundle does not pass its gates.
        WorkError: If a stage fails.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is in use; remove it, or give another folder: --out DIR")
    return _Quickstart(out, seed=seed, plan=plan or QuickstartPlan()).go()


def train_three(
    *, out: Path, seed: int, plan: QuickstartPlan | None = None
) -> tuple[Trained, Trained, Trained]:
    """The quickstart's training alone: teacher, distilled student, student without a teacher."""
    return _Quickstart(out, seed=seed, plan=plan or QuickstartPlan()).train()


class _Quickstart:
    def __init__(self, out: Path, *, seed: int, plan: QuickstartPlan) -> None:
        self.out = out
        self.seed = seed
        self.plan = plan
        self.commands: list[str] = []
        self.started = time.monotonic()
        self.step = 0

    def go(self) -> QuickstartResult:
        teacher, student, alone = self.train()
        bundles = [
            self._ship("onnx", "fp32"), self._ship("onnx", "int8"), self._ship("coreml", "fp16"),
        ]  # fmt: skip
        result = QuickstartResult(
            out=self.out,
            report=self.out / "report.html",
            teacher=teacher,
            student=student,
            alone=alone,
            bundles=tuple(bundles),
            commands=tuple(self.commands),
            seconds=time.monotonic() - self.started,
            seed=self.seed,
        )
        self._report(result)
        return result

    def train(self) -> tuple[Trained, Trained, Trained]:
        """The teacher, the student that it taught, and the same network without one."""
        teacher = self._train_teacher()
        student = self._distill(self.out / "teacher/student.safetensors")
        return teacher, student, self._train_alone(student.seconds)

    def _report(self, result: QuickstartResult) -> None:
        comparison = compare([item.result for item in result.bundles if item.result is not None])
        write_report(result, comparison, curves=self.out / "student/metrics.jsonl")
        write_json(self.out / "quickstart.json", result.to_dict())

    # ------------------------------------------------------------------ saying

    def _say_step(self, what: str) -> None:
        self.step += 1
        say(f"\n[{self.step}/6] {what}")

    def _say_command(self, *words: object) -> None:
        command = shlex.join(["edgeseed", *map(str, words)])
        self.commands.append(command)
        say(f"  $ {command}")

    # ------------------------------------------------------------------ training

    def _train_teacher(self) -> Trained:
        plan = self.plan
        self._say_step(f"A teacher: {plan.teacher}, from {plan.data} without labels")
        run = self._pretrain(plan.teacher, "teacher", epochs=plan.teacher_epochs)
        return self._evaluated("teacher", f"{plan.teacher}, SimCLR", run)

    def _distill(self, teacher: Path) -> Trained:
        plan, folder = self.plan, self.out / "student"
        self._say_step(f"A student: {plan.student}, distilled from the teacher without labels")
        self._say_command(
            "distill", "--teacher", teacher, "--student", plan.student, "--data", plan.data,
            "--image-size", plan.image_size, "--epochs", plan.student_epochs,
            "--batch-size", plan.batch_size, "--lr", plan.distill_lr, "--seed", self.seed,
            *_as_options(plan.distill_settings), "--out", folder,
        )  # fmt: skip
        run = distill(
            teacher=str(teacher),
            student=plan.student,
            data=plan.data,
            out=folder,
            image_size=plan.image_size,
            epochs=plan.student_epochs,
            batch_size=plan.batch_size,
            lr=plan.distill_lr,
            seed=self.seed,
            settings=plan.distill_settings,
        )
        return self._evaluated("student", f"{plan.student}, distilled", run, is_student=True)

    def _train_alone(self, seconds: float) -> Trained:
        plan = self.plan
        self._say_step(
            f"For comparison: {plan.student}, self-supervised alone for the same {seconds:.0f} s"
        )
        epochs = self._epochs_in(seconds)
        run = self._pretrain(plan.student, "alone", epochs=epochs)
        return self._evaluated("alone", f"{plan.student}, SimCLR alone", run)

    def _epochs_in(self, seconds: float) -> int:
        """How many epochs of self-supervision fit, by a short run; at least as long as asked."""
        probe_epochs = 2
        with scratch_folder() as folder:
            probe = self._run_pretrain(self.plan.student, folder / "probe", epochs=probe_epochs)
        return max(1, round(seconds / (probe.seconds / probe_epochs)))

    def _pretrain(self, model: str, name: str, *, epochs: int) -> DistillResult:
        plan, folder = self.plan, self.out / name
        self._say_command(
            "pretrain", "--method", "simclr", "--model", model, "--data", plan.data,
            "--image-size", plan.image_size, "--epochs", epochs, "--batch-size", plan.batch_size,
            "--lr", plan.pretrain_lr, "--seed", self.seed,
            *_as_options(plan.pretrain_settings), "--out", folder,
        )  # fmt: skip
        return self._run_pretrain(model, folder, epochs=epochs)

    def _run_pretrain(self, model: str, folder: Path, *, epochs: int) -> DistillResult:
        plan = self.plan
        return pretrain(
            method="simclr",
            model=model,
            data=plan.data,
            out=folder,
            image_size=plan.image_size,
            epochs=epochs,
            batch_size=plan.batch_size,
            lr=plan.pretrain_lr,
            seed=self.seed,
            settings=plan.pretrain_settings,
        )

    @property
    def classifier(self) -> Path:
        return self.out / "classifier.safetensors"

    def _evaluated(
        self, name: str, what: str, run: DistillResult, *, is_student: bool = False
    ) -> Trained:
        save = self.classifier if is_student else None
        seeds = self.plan.untrained_seeds
        if save is not None:
            self._say_command(
                "evaluate", run.student, "--data", self.plan.data, "--seed", self.seed,
                "--baseline", "untrained", "--baseline-seeds", seeds, "--save-classifier", save,
            )  # fmt: skip
        found = evaluate(
            run.student,
            data=self.plan.data,
            seed=self.seed,
            save_classifier=save,
            baseline="untrained" if is_student else None,
            baseline_seeds=seeds if is_student else None,
        )
        scores = ", ".join(f"{m.name} {m.top1_percent:.1f} %" for m in found.metrics)
        say(f"  {what}: {scores} (n={found.metrics[0].n}, trained for {run.seconds:.0f} s)")
        if found.baseline is not None:
            scores = ", ".join(f"{m.name} {m.mean_percent:.1f} %" for m in found.baseline.metrics)
            say(f"  the same network untrained: {scores} (mean of {seeds} seeds)")
        return Trained(
            name=name, what=what, seconds=run.seconds, epochs=run.epochs, evaluation=found
        )

    # ------------------------------------------------------------------ shipping

    def _ship(self, target: str, precision: str) -> Shipped:
        plan = self.plan
        name = f"{target}-{precision}"
        folder = self.out / "bundles" / name
        self._say_step(f"A bundle: {target} {precision}")
        self._say_command(
            "export", self.classifier, "--target", target, "--precision", precision,
            "--calibration", plan.data, "--max-drop", plan.max_drop, "--seed", self.seed,
            "--out", folder,
        )  # fmt: skip
        exported = export(
            self.classifier,
            target=target,
            precision=precision,
            calibration=plan.data,
            max_drop=plan.max_drop,
            out=folder,
            seed=self.seed,
        )
        self._say_command("verify", folder)
        verified = verify(folder)
        say(f"  {len(verified.gates)} gates hold, run by {verified.runner}")
        result = self._measure(folder, name) if target == "onnx" else None
        return Shipped(name=name, exported=exported, verified=verified, result=result)

    def _measure(self, folder: Path, name: str) -> Result:
        out = self.out / "results" / f"{name}.json"
        self._say_command(
            "profile", folder, "--device", "host", "--protocol", self.plan.protocol,
            "--data", f"{self.plan.data}:test", "--out", out,
        )  # fmt: skip
        result = profile(
            folder,
            device="host",
            protocol=self.plan.protocol,
            data=f"{self.plan.data}:test",
            out=out,
            seed=self.seed,
        )
        say(f"  p90 {p90_ms(result):.3f} ms on this machine, one image at a time")
        return result


def _as_options(settings: tuple[str, ...]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]
