"""The one training loop. It knows no method by name: see `method.py` for what it calls."""

import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgeseed.core.console import ProgressBar, console, progress, say
from edgeseed.core.errors import ArtifactError, InterruptedWorkError, WorkError
from edgeseed.core.signals import ending_signals
from edgeseed.distill import distributed
from edgeseed.distill.batch import ReplayedViews
from edgeseed.distill.data.canvases import Cache, CanvasBatch, CanvasSource, PhotoOrder
from edgeseed.distill.data.views import Augmenter, uniforms
from edgeseed.distill.method import Batch, Method, Progress, StepResult
from edgeseed.distill.networks.frozen import Student
from edgeseed.distill.training.device import send
from edgeseed.distill.training.meters import Meter, Stopwatch
from edgeseed.distill.training.optimizers import build_optimizer, set_rates
from edgeseed.distill.training.recipe import Recipe
from edgeseed.distill.training.run_folder import RunFolder
from edgeseed.distill.training.schedules import learning_rate, weight_decay

_CURVES_EVERY_S = 30.0
"""Drawing reads all records again: nothing beside an hour, much beside epochs of a second."""
Evaluator = Callable[[Method[Any]], Mapping[str, float]]
"""Measures a method's first network, such as its kNN accuracy: names -> values."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How the loop runs; none of it is part of a method. `--set training.FIELD=VALUE` changes one.

    Attributes:
        cache: Whether all photos are kept decoded in memory; `auto` does if they take less than a
            quarter.
        workers: Processes that decode where photos are not kept; none takes the cores there are.
        channels_last: Memory layout of the student; none chooses by device and size.
        compile: Whether torch.compile runs over the trained networks. Pays on a GPU in long runs.
        log_steps: Steps between two records within an epoch.
        checkpoint_minutes: Longest time between two saved states within an epoch.
    """

    cache: Cache = "auto"
    workers: int | None = None
    channels_last: bool | None = None
    compile: bool = False
    log_steps: int = 50
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers={self.workers} must not be negative")
        if self.log_steps < 1 or self.checkpoint_minutes <= 0:
            raise ValueError("log_steps and checkpoint_minutes must be above 0")


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """What a trainer works through.

    Attributes:
        recipe: Optimiser, rates and length; its `batch_size` is the global one.
        training: How the loop runs.
        source: Canvases of the photos.
        order: Which photos each step sees.
        augmenter: Makes views of them.
        labels: (N,) class of each photo, or None.
        seed: Of the run.
        device: Where it computes.
        dtype: Of the trained networks' matrix products.
        evaluate_every: Epochs between two measurements; None never.
        num_steps: Of the whole run, if the last epoch is cut short; None runs all epochs whole.
        steps_a_pass: What counts as an epoch in the metrics, where `source` repeats each photo, so
            that the loop's own epochs are several passes; None takes those.
    """

    recipe: Recipe
    training: TrainingConfig
    source: CanvasSource
    order: PhotoOrder
    augmenter: Augmenter
    labels: Tensor | None
    seed: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    evaluate_every: int | None = None
    num_steps: int | None = None
    steps_a_pass: float | None = None

    @property
    def total_steps(self) -> int:
        """Steps of the whole run."""
        whole = self.recipe.epochs * self.order.steps_per_epoch
        return whole if self.num_steps is None else min(whole, self.num_steps)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the record of its last epoch, and the time of all its steps."""

    last: dict[str, Any]
    seconds: float
    images_per_second: float


class Trainer:
    """Trains a method.

    Args:
        method: On its device.
        plan: What to work through.
        folder: Where it writes; None on every process but the main one.
        save_best: Called with the method when it is the best so far.
        evaluator: Measures the method every `plan.evaluate_every` epochs.
    """

    def __init__(
        self,
        method: Method[Any],
        plan: TrainingPlan,
        *,
        folder: RunFolder | None,
        save_best: Callable[[Method[Any], Mapping[str, Any]], None],
        evaluator: Evaluator | None = None,
    ) -> None:
        self.method = method
        self.plan = plan
        self.optimizer = build_optimizer(method, plan.recipe)
        self.step = 0
        self.best: float = -math.inf
        self._folder = folder
        self._save_best = save_best
        self._evaluator = evaluator
        self._meter, self._window = Meter(plan.device), Meter(plan.device)
        self._watch = Stopwatch()
        self._trained_s = 0.0
        self._last: dict[str, Any] = {}
        self._saved_at = time.monotonic()
        self._saved_step: int | None = None
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def fit(self) -> Outcome:
        """Runs the steps that are left.

        Raises:
            WorkError: If the loss is no longer a number, or someone interrupts the run.
        """
        plan, start = self.plan, self.step
        model = self._wrap()
        self.method.train()
        images = (plan.total_steps - start) * plan.recipe.batch_size
        began = time.perf_counter()
        with _Interrupt() as interrupt, progress("training", images) as bar:
            self._watch.reset()
            for batch in self._batches(start):
                self._train_step(model, batch)
                bar.advance(plan.recipe.batch_size)
                self._after_step(bar)
                if interrupt.requested:
                    self._stop()
        seconds = time.perf_counter() - began
        return Outcome(self._last, self._trained_s, images / seconds if images else 0.0)

    # ------------------------------------------------------------------ one step

    def _wrap(self) -> nn.Module:
        if self.plan.training.compile:
            for network in self.method.modules():
                if isinstance(network, Student):
                    network.compile()
        if distributed.world_size() == 1:
            return self.method
        ids = [self.plan.device] if self.plan.device.type == "cuda" else None
        # Buffers need no broadcast: queues are gathered and equal, BatchNorm's are rank 0's when
        # saved.
        return DistributedDataParallel(self.method, device_ids=ids, broadcast_buffers=False)

    def _batches(self, start: int) -> Iterator[Batch]:
        plan = self.plan
        source = plan.source.batches(plan.order, start=start, stop=plan.total_steps)
        for step in range(start, plan.total_steps):
            began = time.perf_counter()
            canvases = next(source)
            self._watch.waited(time.perf_counter() - began)
            yield self._batch(canvases, step)

    def _batch(self, photos: CanvasBatch, step: int) -> Batch:
        plan = self.plan
        period = plan.order.period(step)
        step_in_epoch = step % plan.order.steps_per_epoch
        views = plan.augmenter(
            photos.canvases, photos.shapes, photos.indices, period=period, step=step_in_epoch
        )
        # A function of seed, step and rank: a resumed run makes the same draw, and ranks differ.
        key = uniforms(plan.seed, step, distributed.rank(), count=1)[0, 0]
        indices = torch.from_numpy(photos.indices)
        labels = None if plan.labels is None else send(plan.labels[indices], plan.device)
        return Batch(
            views=views,
            indices=send(indices, plan.device),
            labels=labels,
            # All 53 random bits of a uniform number, as a whole one.
            generator=torch.Generator().manual_seed(int(key * 2**53)),
            replayed=(ReplayedViews(period, photos.indices) if plan.augmenter.replays else None),
        )

    def _train_step(self, model: nn.Module, batch: Batch) -> None:
        plan, moment = self.plan, self._progress()
        lr = learning_rate(
            plan.recipe,
            step=self.step,
            total_steps=plan.total_steps,
            steps_per_epoch=plan.order.steps_per_epoch,
        )
        decay = weight_decay(plan.recipe, step=self.step, total_steps=plan.total_steps)
        set_rates(self.optimizer, lr=lr, weight_decay=decay)
        # Dropout and the like draw from torch's generator: seeded by the step, a resumed run draws
        # the same.
        torch.manual_seed(int(batch.generator.initial_seed()))
        reduced = plan.dtype != torch.float32
        with torch.autocast(
            plan.device.type, dtype=plan.dtype if reduced else None, enabled=reduced
        ):
            result = cast(StepResult, model(batch, moment))
        self.optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        # Also where nothing is clipped: the norm is logged, and tells of a divergence.
        norm = nn.utils.clip_grad_norm_(self._parameters, plan.recipe.clip_norm or math.inf)
        self.method.after_backward(moment)
        self.optimizer.step()
        self.method.after_step(moment)
        self.step += 1
        self._watch.images += plan.recipe.batch_size
        self._count(result, norm)

    def _progress(self) -> Progress:
        return Progress(
            step=self.step,
            total_steps=self.plan.total_steps,
            steps_per_epoch=self.plan.order.steps_per_epoch,
        )

    def _count(self, result: StepResult, norm: Tensor) -> None:
        values: dict[str, Tensor | float] = {
            "loss": result.loss,
            "gradient_norm": norm,
            **result.logs,
        }
        if result.floor is not None:
            values["floor"] = result.floor
            values["gap"] = result.loss.detach() - result.floor
        self._meter.add(values)
        self._window.add(values)

    # ------------------------------------------------------------------ between steps

    def _after_step(self, bar: ProgressBar) -> None:
        plan = self.plan
        is_whole = self.step % plan.order.steps_per_epoch == 0
        ends_epoch = is_whole or self.step == plan.total_steps
        if self.step % plan.training.log_steps == 0 or ends_epoch:
            # At the end of an epoch its own record follows, with the same figures.
            self._log_window(bar, write=not ends_epoch)
        if ends_epoch:
            self._end_epoch()
        elif time.monotonic() - self._saved_at > 60 * plan.training.checkpoint_minutes:
            self._save_state_in_passing()

    def _log_window(self, bar: ProgressBar, *, write: bool) -> None:
        means = self._window.means()
        self._window.reset()
        self._check_finite(means)
        floor = f" (floor {means['floor']:.3f})" if means.get("floor") else ""
        wait = self._watch.report()["data_wait_percent"]
        bar.note(f"loss {means['loss']:.4f}{floor}, {wait:.0f}% waiting for photos")
        if write:
            self._write({"kind": "steps", **self._place(), **means})

    def _check_finite(self, means: Mapping[str, float]) -> None:
        broken = [name for name in ("loss", "gradient_norm") if not math.isfinite(means[name])]
        if broken:
            raise self._divergence(f"{' and '.join(broken)} became {means[broken[0]]}")

    def _divergence(self, what: str) -> WorkError:
        lr = self.optimizer.param_groups[0]["lr"]
        return WorkError(
            f"training diverged: {what} before step {self.step} (learning rate {lr:.3g}); "
            f"{self._against_divergence()}. The run folder has {self._what_is_saved()}"
        )

    def _is_finite(self) -> bool:
        """Whether weights, and what was counted since the last record, are numbers.

        Without a word to the other ranks: it is asked at other moments there.
        """
        weights = [
            value for value in self.method.state_dict().values() if value.is_floating_point()
        ]
        whole = torch.stack([value.isfinite().all() for value in weights]).all()
        return bool(whole) and self._window.is_finite()

    def _against_divergence(self) -> str:
        names = [field.name for field in dataclasses.fields(self.method.config)]
        temperatures = [name for name in names if name.startswith(("tau", "temperature"))]
        steps = ["lower --lr", *(f"raise {name}" for name in temperatures)]
        if self.plan.dtype != torch.float32:
            steps.append("use --precision fp32")
        return " or ".join(steps)

    def _what_is_saved(self) -> str:
        step = self._saved_step
        return "no state yet" if step is None else f"the state after step {step}"

    def _place(self) -> dict[str, Any]:
        group = self.optimizer.param_groups[0]
        steps_an_epoch = self.plan.steps_a_pass or self.plan.order.steps_per_epoch
        return {
            "step": self.step,
            "epoch": round(self.step / steps_an_epoch, 4),
            "lr": group["lr"],
            "weight_decay": group["weight_decay"],
        }

    def _end_epoch(self) -> None:
        record = {"kind": "epoch", **self._place(), **self._meter.means(), **self._watch.report()}
        self._trained_s += self._watch.seconds
        self._meter.reset()
        # Before anything is saved: the last good state must not be replaced by a broken one.
        if not self._is_finite():
            raise self._divergence("weights are no longer numbers")
        record |= self._scores()
        self._write(record)
        self._say_epoch(record)
        self._last = record
        self._keep_best(record)
        self._save_state()
        if self._folder is not None:
            self._folder.draw_curves(at_most_every_s=_CURVES_EVERY_S)
        self._watch.reset()

    def _say_epoch(self, record: Mapping[str, Any]) -> None:
        """One line an epoch where nobody sees the bar, such as in a log file."""
        if console().is_terminal:
            return
        plan = self.plan
        epochs = plan.total_steps / (plan.steps_a_pass or plan.order.steps_per_epoch)
        floor = f" (floor {record['floor']:.4f})" if record.get("floor") else ""
        knn = f", kNN {record['knn']:.2%}" if "knn" in record else ""
        say(
            f"epoch {record['epoch']:g}/{epochs:.4g}: loss {record['loss']:.4f}{floor}{knn}, "
            f"learning rate {record['lr']:.3g}, {record['images_per_second']:.0f} images/s"
        )

    def _scores(self) -> dict[str, float]:
        plan = self.plan
        epoch = self.step // plan.order.steps_per_epoch
        is_last = self.step == plan.total_steps
        due = plan.evaluate_every and (epoch % plan.evaluate_every == 0 or is_last)
        if self._evaluator is None or not due:
            return {}
        self.method.eval()
        scores = dict(self._evaluator(self.method))
        self.method.train()
        return scores

    def _keep_best(self, record: Mapping[str, Any]) -> None:
        """Best is the highest kNN accuracy if it is measured, else the least gap to the floor."""
        if self._evaluator is not None and "knn" not in record:
            return
        value = record["knn"] if self._evaluator is not None else -record.get("gap", record["loss"])
        if value > self.best:
            self.best = value
            self._save_best(self.method, record)

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._folder is not None:
            self._folder.log(record)

    def _stop(self) -> None:
        if not self._is_finite():
            raise self._divergence("weights or losses are no longer numbers")
        self._save_state()
        raise InterruptedWorkError(
            f"interrupted after step {self.step} of {self.plan.total_steps}; "
            "the same call with --resume goes on"
        )

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs. No generator is in it: draws are functions of the step."""
        return {
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
            "meter": self._meter.state_dict(),
            "window": self._window.state_dict(),
            "trained_s": self._trained_s,
            "last": self._last,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state_dict`.

        Raises:
            ArtifactError: If it is the state of another network or method.
        """
        try:
            self.method.load_state_dict(state["method"], strict=True)
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            text = " ".join(str(error).split())[:300]
            raise ArtifactError(f"the saved state is of another run: {text}") from error
        self.step, self.best = int(state["step"]), float(state["best"])
        self._meter.load_state_dict(state["meter"])
        self._window.load_state_dict(state["window"])
        self._trained_s = float(state["trained_s"])
        self._last = dict(state["last"])
        self._saved_step = self.step

    def _save_state_in_passing(self) -> None:
        """Saves within an epoch, unless the run has diverged since the last record.

        The next record ends such a run, on all ranks at once; until then the last good state stays.
        """
        if self._folder is None or self._is_finite():
            self._save_state()

    def _save_state(self) -> None:
        self._saved_at = time.monotonic()
        if self._folder is not None:
            self._folder.save_state(self.state_dict())
            self._saved_step = self.step


class _Interrupt:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a wish that is granted after the current step.

    Only where one process trains: ranks would stop at different steps and wait for each other.
    """

    def __init__(self) -> None:
        self.requested = False
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "_Interrupt":
        in_main_thread = threading.current_thread() is threading.main_thread()
        if in_main_thread and distributed.world_size() == 1:
            self._previous = {
                number: signal.signal(number, self._ask)
                for number in (signal.SIGINT, *ending_signals())
            }
        return self

    def __exit__(self, *error: object) -> Literal[False]:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        return False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if os.getpid() != self._process:
            return  # A worker inherits the handler, and Ctrl-C reaches it too: it ends with us.
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        say(f"{signal.Signals(number).name}: stopping after this step (again: at once)")
