"""Benchmark programs of others: command lines, and what their output says.

The outputs are made after the programs' sources, which the module names; tests/runtime/devices/
test_adb.py runs stand-ins of both through adb.
"""

import shlex

import pytest

from edgeseed.core.errors import ConfigError, WorkError
from edgeseed.runtime.agent.job_file import Job
from edgeseed.runtime.runners.native import LiteRtBenchmarkModel, OnnxRuntimePerfTest, program_for

JOB = Job(
    engine="onnxruntime", model="m", unit="cpu", threads=2, protocol="quick", min_runs=128,
    min_seconds=10, max_seconds=60, golden_tolerance=1e-3, files={},
)  # fmt: skip
ORT = """Setting intra_op_num_threads to 2
Session creation time cost: 0.25 s
First inference time cost: 12 ms
Total inference time cost: 0.015 s
Total inference run time: 0.02 s
Peak working set size: 52428800 bytes
"""
SAMPLES = "model,0.005,100,3,0\nmodel,0.006,100,3,1\nmodel,0.004,100,3,2\n"
LITERT = """INFO: Initialized TensorFlow Lite runtime.
INFO: count=54 first=20000 curr=18000 min=17000 max=21000 avg=18500 std=700
INFO: count=200 first=5000 curr=5100 min=4900 max=6000 avg=5050.5 std=80 p5=4910 median=5040 p95=5300
INFO: Inference timings in us: Init: 3000, First inference: 21000, Warmup (avg): 18500, Inference (avg): 5050.5
INFO: Memory footprint delta from the start of the tool (MB): init=2.5 overall=11.25
"""  # noqa: E501 - as the program prints it


@pytest.mark.parametrize("name", ["onnxruntime_perf_test", "my/onnxruntime_perf_test-1.30"])
def test_a_program_is_known_by_its_name(name: str) -> None:
    assert isinstance(program_for(name, target="onnx"), OnnxRuntimePerfTest)


def test_a_releases_name_is_known_too() -> None:
    found = program_for("android_aarch64_benchmark_model", target="litert")
    assert isinstance(found, LiteRtBenchmarkModel)


def test_an_unknown_program_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="none of the programs that can be read: onnxruntime_per"):
        program_for("bench", target="onnx")


def test_a_program_for_other_bundles_says_which_it_runs() -> None:
    with pytest.raises(ConfigError, match="runs litert or tflite bundles, this one is for onnx"):
        program_for("benchmark_model", target="onnx")


def test_names_with_blanks_reach_the_program_whole() -> None:
    line = OnnxRuntimePerfTest().command("./perf test", "my model.onnx", "out.csv", JOB)
    words = shlex.split(line)
    assert words[0] == "./perf test"
    assert words[-2:] == ["my model.onnx", "out.csv"]
    assert words[words.index("-t") + 1] == "10"
    assert words[words.index("-x") + 1] == "2"


def test_both_minima_reach_litert_and_a_delegate_where_it_is_asked_for() -> None:
    program = LiteRtBenchmarkModel()
    assert "--num_runs=128 --min_secs=10 --max_secs=60" in program.command("b", "m", "", JOB)
    assert "--use_gpu" not in program.command("b", "m", "", JOB)
    gpu = Job(**{**vars(JOB), "unit": "gpu"})
    assert program.command("b", "m", "", gpu).endswith("--use_gpu=true")


def test_every_run_of_onnx_runtime_is_a_sample() -> None:
    run = OnnxRuntimePerfTest().read(ORT, SAMPLES)
    assert run.samples_ns == [5_000_000, 6_000_000, 4_000_000]
    assert run.reported is None
    assert (run.load_ns, run.first_run_ns, run.elapsed_ns) == (250_000_000, 12_000_000, 20_000_000)
    assert run.peak_mib == 50
    assert run.version == "not told"


def test_what_onnx_runtime_does_not_say_follows_from_its_samples() -> None:
    run = OnnxRuntimePerfTest().read("ONNX Runtime version: 1.30.0", SAMPLES)
    assert run.elapsed_ns == 15_000_000
    assert (run.load_ns, run.peak_mib, run.version) == (0, None, "1.30.0")


@pytest.mark.parametrize(
    ("output", "samples", "message"),
    [
        ("terminate called\n  Aborted \n", "", "did not finish: Aborted"),
        ("", "", "did not finish: it printed nothing"),
        (ORT, "model,0,1,2,3\n", "did not finish: Peak working set"),
        (ORT, "model,x,1,2,3\n", "the samples of onnxruntime_perf_test cannot be read"),
    ],
)
def test_a_run_of_onnx_runtime_that_did_not_finish_is_one_line(
    output: str, samples: str, message: str
) -> None:
    with pytest.raises(WorkError, match=message):
        OnnxRuntimePerfTest().read(output, samples)


def test_statistics_of_litert_are_those_of_the_timed_runs() -> None:
    run = LiteRtBenchmarkModel().read(LITERT, "")
    assert run.samples_ns == []
    assert run.reported is not None
    assert (run.reported.n, run.reported.mean_ns) == (200, 5_050_500)
    assert (run.reported.std_ns, run.reported.min_ns) == (80_000, 4_900_000)
    assert run.reported.percentiles_ns == {"5": 4_910_000, "50": 5_040_000, "95": 5_300_000}
    assert (run.load_ns, run.first_run_ns) == (3_000_000, 21_000_000)
    assert (run.warm_up_runs, run.peak_mib) == (54, 11.25)
    assert run.elapsed_ns == 200 * 5_050_500


def test_a_run_of_litert_that_did_not_finish_is_one_line() -> None:
    with pytest.raises(WorkError, match="benchmark_model did not finish: ERROR: no such model"):
        LiteRtBenchmarkModel().read("INFO: start\nERROR: no such model\n", "")
