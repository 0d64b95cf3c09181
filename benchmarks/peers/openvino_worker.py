"""OpenVINO, with NNCF's post-training quantization for int8. Python of `pip install openvino nncf`.

    python openvino_worker.py MODEL.onnx PHOTOS.npy PRECISION THREADS

MODEL is our fp32 file; NNCF calibrates it with its defaults (`preset=mixed`, its bias correction)
on the same photos, and both precisions run with the `LATENCY` hint.
"""

import logging
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino
from _serve import serve


def quantized(core, model, photos, made):
    """NNCF's int8; made at the first call."""
    if made.exists():
        return core.read_model(made)
    import nncf

    logging.getLogger("nncf").setLevel(logging.ERROR)
    data = nncf.Dataset([photo[None].astype(np.float32) for photo in photos])
    found = nncf.quantize(
        model, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(photos)
    )
    openvino.save_model(found, made, compress_to_fp16=False)
    return core.read_model(made)


def main():
    path, photos_path, precision, threads = sys.argv[1:]
    photos = np.load(photos_path)
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([1, *photos.shape[1:]])
    versions = {"openvino": openvino.__version__}
    if precision == "int8":
        versions["nncf"] = version("nncf")
        model = quantized(core, model, photos, Path(path).with_name("nncf.xml"))
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": int(threads),
        "NUM_STREAMS": 1,
        # The default computes in bfloat16 where the processor has it, which would not be fp32.
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    image = photos[:1].astype(np.float32)
    # The photo is read where it lies, as ONNX Runtime does; outputs are copied, as there.
    serve(lambda: request.infer({0: image}, share_inputs=True, share_outputs=False), versions)


if __name__ == "__main__":
    main()
