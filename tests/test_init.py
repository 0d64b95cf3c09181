"""What importing edgeseed does."""

import os
import subprocess
import sys


def test_importing_edgeseed_switches_telemetry_of_onnx_runtime_off() -> None:
    # ONNX Runtime 1.29 began to upload usage from Linux; quickstart promises to need no network.
    code = "import edgeseed, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env=environment)
