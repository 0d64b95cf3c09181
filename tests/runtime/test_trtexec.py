"""Summaries that people pasted into issues, and the file of raw times."""

import json
from pathlib import Path

import pytest

from edgeseed.core.errors import ArtifactError
from edgeseed.runtime.trtexec import parse_log, read_times

# NVIDIA/TensorRT issue 4177, 3 October 2024.
TENSORRT_10 = """\
[10/03/2024-10:47:59] [I] === Performance summary ===
[10/03/2024-10:47:59] [I] Throughput: 130.298 qps
[10/03/2024-10:47:59] [I] Latency: min = 5.38672 ms, max = 13.3664 ms, mean = 7.60628 ms, median = 7.16092 ms, percentile(90%) = 10.2996 ms, percentile(95%) = 10.8698 ms, percentile(99%) = 12.9675 ms
[10/03/2024-10:47:59] [I] H2D Latency: min = 0.0065918 ms, max = 0.0698242 ms, mean = 0.0122212 ms, median = 0.00814819 ms, percentile(90%) = 0.0253906 ms, percentile(95%) = 0.0270996 ms, percentile(99%) = 0.0515137 ms
[10/03/2024-10:47:59] [I] GPU Compute Time: min = 5.34595 ms, max = 13.3388 ms, mean = 7.58404 ms, median = 7.14139 ms, percentile(90%) = 10.2881 ms, percentile(95%) = 10.8175 ms, percentile(99%) = 12.9485 ms
[10/03/2024-10:47:59] [I] Total Host Walltime: 3.00082 s
[10/03/2024-10:47:59] [I] Total GPU Compute Time: 2.96536 s
"""  # noqa: E501 - as it was printed

# OE4T/meta-tegra pull request 952, 11 March 2022: Jetson AGX Xavier, TensorRT 8.4.
TENSORRT_8 = """\
[03/11/2022-14:57:03] [I] Throughput: 41087.7 qps
[03/11/2022-14:57:03] [I] Latency: min = 0.387207 ms, max = 0.447357 ms, mean = 0.402238 ms, median = 0.401947 ms, percentile(99%) = 0.420288 ms
[03/11/2022-14:57:03] [I] GPU Compute Time: min = 0.375977 ms, max = 0.403564 ms, mean = 0.388221 ms, median = 0.388443 ms, percentile(99%) = 0.393188 ms
&&&& PASSED TensorRT.trtexec [TensorRT v8400] # trtexec --loadEngine=mnist16.trt --batch=16
"""  # noqa: E501 - as it was printed

# WongKinYiu/yolov7 pull request 329, 28 July 2022.
UNSTABLE = """\
[07/28/2022-16:00:55] [I] Throughput: 716.632 qps
[07/28/2022-16:00:55] [I] Latency: min = 1.3476 ms, max = 1.5657 ms, mean = 1.38629 ms, median = 1.38037 ms, percentile(99%) = 1.55853 ms
[07/28/2022-16:00:55] [W] * GPU compute time is unstable, with coefficient of variance = 2.10486%.
[07/28/2022-16:00:55] [W]   If not already in use, locking GPU clock frequency or adding --useSpinWait may improve the stability.
"""  # noqa: E501 - as it was printed

# NVIDIA/TensorRT issue 4036, 30 July 2024: the head of a log.
BANNER = r"""&&&& RUNNING TensorRT.trtexec [TensorRT v100200] # D:\TensorRT-10.2.0.19\bin\trtexec.exe --loadEngine=FM_P_D_fp16.engine
"""  # noqa: E501 - as it was printed


def test_a_summary_of_tensorrt_10() -> None:
    log = parse_log(BANNER + TENSORRT_10)
    assert (log.version, log.passed, log.throughput_qps) == ("10.2.0", None, 130.298)
    assert log.command is not None
    assert log.command.endswith("--loadEngine=FM_P_D_fp16.engine")
    assert set(log.metrics) == {"Latency", "H2D Latency", "GPU Compute Time"}
    latency = log.metrics["Latency"]
    assert (latency.min_ms, latency.max_ms, latency.mean_ms) == (5.38672, 13.3664, 7.60628)
    assert latency.percentiles_ms == {90: 10.2996, 95: 10.8698, 99: 12.9675}
    assert log.warnings == ()


def test_a_summary_of_tensorrt_8_has_one_percentile() -> None:
    log = parse_log(TENSORRT_8)
    assert (log.version, log.passed) == ("8.4.0", True)
    assert log.command == "trtexec --loadEngine=mnist16.trt --batch=16"
    assert log.metrics["GPU Compute Time"].percentiles_ms == {99: 0.393188}


def test_a_warning_is_kept_with_its_second_line() -> None:
    (warning,) = parse_log(UNSTABLE).warnings
    assert warning.startswith(
        "GPU compute time is unstable, with coefficient of variance = 2.10486%."
    )
    assert warning.endswith("may improve the stability.")


@pytest.mark.parametrize("text", ["", BANNER, TENSORRT_10.replace("Throughput", "Thrput")])
def test_a_log_without_a_summary_says_so(text: str) -> None:
    with pytest.raises(ArtifactError, match="no performance summary"):
        parse_log(text)


def sample(**changes: float) -> dict[str, float]:
    # The keys that samples/common/sampleReporting.cpp of NVIDIA/TensorRT writes.
    return {
        "startEnqMs": 0.1, "endEnqMs": 0.2, "startH2dMs": 0.2, "endH2dMs": 0.3,
        "startComputeMs": 0.3, "endComputeMs": 1.3, "startD2hMs": 1.3, "endD2hMs": 1.4,
        "h2dMs": 0.1, "computeMs": 1.0, "d2hMs": 0.1, "latencyMs": 1.2, **changes,
    }  # fmt: skip


def test_raw_times_keep_their_order(tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    path.write_text(json.dumps([sample(), sample(latencyMs=3.0, computeMs=2.5), sample()]))
    times = read_times(path)
    assert times.latency_ms == (1.2, 3.0, 1.2)
    assert times.compute_ms == (1.0, 2.5, 1.0)
    assert times.h2d_ms == times.d2h_ms == (0.1, 0.1, 0.1)


@pytest.mark.parametrize("text", ["[]", "{}", "[{}]", "no JSON", '[{"latencyMs": "x"}]'])
def test_a_file_that_holds_no_times_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "times.json"
    path.write_text(text)
    with pytest.raises(ArtifactError, match=r"times\.json is not what trtexec --exportTimes"):
        read_times(path)
