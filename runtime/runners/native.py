"""Native benchmark programs of others: how each is called, and what its output says.

`onnxruntime_perf_test` writes every run to a file; LiteRT's `benchmark_model` prints statistics
alone, so its spread is unknown. Neither compares outputs or takes photos: they give latency, and
the result says so. Formats: onnxruntime/test/perftest/performance_runner.{h,cc} of
microsoft/onnxruntime, and tensorflow/lite/tools/benchmark and tensorflow/core/util/stats_calculator
of google-ai-edge/LiteRT.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from edgeseed.core.errors import ConfigError, WorkError
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.measurement import Reported

_NS_PER_US = 1000
_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000
_NUMBER = r"([\d.]+(?:e[+-]?\d+)?)"
WARM_UP_RUNS = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class NativeRun:
    """What a program said of its run. Times in ns; None where it did not say.

    Attributes:
        samples_ns: every run, where the program writes them; else empty.
        reported: statistics, where there are no samples.
        load_ns: opening the model.
        first_run_ns: the first run.
        elapsed_ns: of all timed runs together.
        warm_up_runs: runs before the timed ones.
        peak_mib: the most memory.
        version: of the engine, where the program prints it.
    """

    samples_ns: list[int]
    reported: Reported | None
    load_ns: int
    first_run_ns: int
    elapsed_ns: int
    warm_up_runs: int
    peak_mib: float | None
    version: str


class NativeProgram:
    """One program that is called by a command line.

    Attributes:
        name: its file's name begins with this.
        engine: the engine inside it.
        targets: export targets whose models it reads.
    """

    name: str
    engine: str
    targets: tuple[str, ...]

    def command(self, program: str, model: str, samples: str, job: Job) -> str:
        """The shell line that runs it.

        Args:
            program: its path on the device.
            model: the model's path there.
            samples: where it may write its runs there.
            job: what to measure.
        """
        raise NotImplementedError

    def read(self, output: str, samples: str) -> NativeRun:
        """What its output and its file of samples say.

        Raises:
            WorkError: If it did not finish; its last line is told.
        """
        raise NotImplementedError


class OnnxRuntimePerfTest(NativeProgram):
    """ONNX Runtime's `onnxruntime_perf_test`."""

    name = "onnxruntime_perf_test"
    engine = "onnxruntime"
    targets = ("onnx",)

    def command(self, program: str, model: str, samples: str, job: Job) -> str:
        """By time, since it cannot be told both minima; on the CPU or another provider."""
        words = [
            program, "-I", "-e", job.unit, "-m", "duration", "-t", f"{_seconds(job)}",
            "-x", f"{job.threads}", "-y", "1", "-s", model, samples,
        ]  # fmt: skip
        return shlex.join(words)

    def read(self, output: str, samples: str) -> NativeRun:
        """Samples from the file: `model,seconds,memory,CPU,run` a line."""
        rows = [line.split(",") for line in samples.splitlines() if line.count(",") >= 4]
        try:
            durations = [round(float(row[-4]) * _NS_PER_S) for row in rows]
        except ValueError as error:
            raise WorkError(f"the samples of {self.name} cannot be read ({error})") from error
        total = _first(r"Total inference run time: " + _NUMBER + " s", output)
        if not durations or min(durations) <= 0:
            raise _unfinished(self.name, output)
        memory = _first(r"Peak working set size:\s*" + _NUMBER, output)
        return NativeRun(
            samples_ns=durations,
            reported=None,
            load_ns=_scaled(_first(r"Session creation time cost: " + _NUMBER, output), _NS_PER_S),
            first_run_ns=_scaled(
                _first(r"First inference time cost: " + _NUMBER, output), _NS_PER_MS
            ),
            elapsed_ns=_scaled(total, _NS_PER_S) or sum(durations),
            warm_up_runs=1,
            peak_mib=None if memory is None else memory / 2**20,
            version=_text(r"ONNX Runtime version:?\s*([\d.]+)", output),
        )


class LiteRtBenchmarkModel(NativeProgram):
    """LiteRT's and TensorFlow Lite's `benchmark_model`."""

    name = "benchmark_model"
    engine = "litert"
    targets = ("litert", "tflite")

    def command(self, program: str, model: str, samples: str, job: Job) -> str:
        """Both minima can be told; a GPU or NPU by its delegate."""
        words = [
            program, f"--graph={model}", f"--num_threads={job.threads}",
            f"--num_runs={job.min_runs}", f"--min_secs={job.min_seconds:g}",
            f"--max_secs={job.max_seconds:g}", f"--warmup_runs={WARM_UP_RUNS}",
            "--warmup_min_secs=1",
        ]  # fmt: skip
        words += {"gpu": ["--use_gpu=true"], "npu": ["--use_nnapi=true"]}.get(job.unit, [])
        return shlex.join(words)

    def read(self, output: str, samples: str) -> NativeRun:
        """Statistics from what it printed; the last `count=` line is of the timed runs."""
        lines = re.findall(r"^.*\bcount=\d+ .*\bavg=.*$", output, flags=re.MULTILINE)
        summary = re.search(
            rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, "
            rf"Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}",
            output,
        )
        if not lines or summary is None:
            raise _unfinished(self.name, output)
        values = {name: float(text) for name, text in re.findall(rf"(\w+)={_NUMBER}", lines[-1])}
        count = int(values["count"])
        mean_ns = round(values["avg"] * _NS_PER_US)
        memory = _first(r"Memory footprint delta.*overall=" + _NUMBER, output)
        percentiles = {"5": "p5", "50": "median", "95": "p95"}
        return NativeRun(
            samples_ns=[],
            reported=Reported(
                n=count,
                mean_ns=mean_ns,
                std_ns=_optional(values, "std"),
                min_ns=_optional(values, "min"),
                max_ns=_optional(values, "max"),
                percentiles_ns={
                    percent: round(values[name] * _NS_PER_US)
                    for percent, name in percentiles.items()
                    if name in values
                },
            ),
            load_ns=round(float(summary[1]) * _NS_PER_US),
            first_run_ns=round(float(summary[2]) * _NS_PER_US),
            elapsed_ns=mean_ns * count,
            warm_up_runs=_warm_up_runs(output),
            peak_mib=memory,
            version=_text(r"TensorFlow Lite version:?\s*([\d.]+)", output),
        )


PROGRAMS: tuple[NativeProgram, ...] = (OnnxRuntimePerfTest(), LiteRtBenchmarkModel())


def program_for(file_name: str, *, target: str) -> NativeProgram:
    """The program that a file is, by its name.

    Raises:
        ConfigError: If it is none that is known, or runs other bundles.
    """
    # Releases call it `android_aarch64_benchmark_model`.
    found = [program for program in PROGRAMS if program.name in file_name]
    if not found:
        known = ", ".join(program.name for program in PROGRAMS)
        raise ConfigError(f"?runner={file_name} is none of the programs that can be read: {known}")
    if target not in found[0].targets:
        raise ConfigError(
            f"{found[0].name} runs {' or '.join(found[0].targets)} bundles, this one is for "
            f"{target}"
        )
    return found[0]


def _seconds(job: Job) -> int:
    return max(1, round(job.min_seconds))


def _warm_up_runs(output: str) -> int:
    counts = re.findall(r"\bcount=(\d+)", output)
    return int(counts[0]) if len(counts) > 1 else WARM_UP_RUNS


def _first(pattern: str, text: str) -> float | None:
    match = re.search(pattern, text)
    return None if match is None else float(match[1])


def _text(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return "not told" if match is None else match[1]


def _scaled(value: float | None, factor: float) -> int:
    return 0 if value is None else round(value * factor)


def _optional(values: dict[str, float], name: str) -> int | None:
    return round(values[name] * _NS_PER_US) if name in values else None


def _unfinished(name: str, output: str) -> WorkError:
    lines: Sequence[str] = [line.strip() for line in output.splitlines() if line.strip()]
    return WorkError(f"{name} did not finish: {lines[-1] if lines else 'it printed nothing'}")
