"""Runs an ONNX file on the simulator of Qualcomm's NPU, in a process of its own.

    python npu_worker.py MODEL PHOTOS ANSWERS SECONDS

Vendor code that hangs or crashes then takes nobody along. It imports nothing of edgeseed, so that
it is a recipe too: how ONNX Runtime is told to put a whole file on the NPU. `ANSWERS` gets the
outputs of as many photos as were done in the seconds given. What is printed after "REFUSED" is why
there are none; if nothing is, the simulator itself broke down.
"""

import importlib
import sys
import time
from typing import Any

import numpy as np

# Hexagon of the Snapdragon 8 Gen 3 (SM8650). v73, v75, v79 and v81 gave the same answers, v68
# others.
SOC_MODEL = "57"
HTP_ARCHITECTURE = "75"


def session_options() -> Any:
    """Options of a session with the whole graph on the simulated NPU, one photo at a time."""
    import onnxruntime

    # Of the extra `qnn`: type checkers do not have it.
    onnxruntime_qnn: Any = importlib.import_module("onnxruntime_qnn")
    provider = onnxruntime_qnn.get_ep_name()

    def devices() -> list[Any]:
        return [each for each in onnxruntime.get_ep_devices() if each.ep_name == provider]

    if not devices():  # once in a process
        library = onnxruntime_qnn.get_library_path()
        onnxruntime.register_execution_provider_library(provider, library)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    # An operator that the NPU does not take is an error, and not computed by the CPU in silence.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    # The NPU's compiler takes no free sizes; a file of a fixed batch has no such name.
    options.add_free_dimension_override_by_name("batch", 1)
    settings = {
        "backend_path": onnxruntime_qnn.get_qnn_htp_path(),
        "soc_model": SOC_MODEL,
        "htp_arch": HTP_ARCHITECTURE,
        # The first quantization and the last dequantization belong to the graph as well.
        "offload_graph_io_quantization": "0",
        # The default. With mode 1 a SiLU of uint16 is wrong: x * sigmoid(x) has a correlation of
        # 0.2 to what it should be, and is exact to a step with modes 0, 2 and 3 (QAIRT 2.51).
        "htp_graph_finalization_optimization_mode": "0",
    }
    options.add_provider_for_devices(devices()[:1], settings)
    return options


def open_session(path: str, options: Any) -> Any:
    """A session of a model.

    Args:
        path: The model.
        options: Of `session_options`.
    """
    import onnxruntime

    return onnxruntime.InferenceSession(path, options)


def run(session: Any, pixels: Any, *, seconds: float) -> dict[str, Any]:
    """Outputs of the first photos, one or more, until the time is over.

    Args:
        session: Of `open_session`.
        pixels: (N, C, H, W) bytes.
        seconds: No photo is begun after so many.
    """
    (image,) = session.get_inputs()
    size = image.shape[0] if isinstance(image.shape[0], int) else 1
    names = [output.name for output in session.get_outputs()]
    parts: list[list[Any]] = []
    start = time.monotonic()
    for first in range(0, len(pixels), size):
        if parts and time.monotonic() - start > seconds:
            break
        piece = np.asarray(pixels[first : first + size], np.float32)
        full = np.resize(piece, (size, *piece.shape[1:]))
        parts.append([value[: len(piece)] for value in session.run(names, {image.name: full})])
    columns = [np.concatenate(values) for values in zip(*parts, strict=True)]
    return dict(zip(names, columns, strict=True))


def main(model: str, photos: str, answers: str, seconds: str) -> None:
    """See the module."""
    # Outside: a simulator that does not start has not refused the graph.
    options = session_options()
    try:
        outputs = run(open_session(model, options), np.load(photos), seconds=float(seconds))
    except Exception as error:  # ONNX Runtime's own errors have no base class in common
        print("REFUSED", " ".join(str(error).split()), flush=True)
        return
    np.savez(answers, **outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
