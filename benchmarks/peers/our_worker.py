"""Our files, by the engines of `edgeseed profile`, in a process of their own as every peer's.

    python our_worker.py MODEL PHOTOS.npy THREADS

MODEL is `model.onnx` (ONNX Runtime) or `model.tflite` (LiteRT with XNNPACK). In the process that
holds all models and torch, the same LiteRT file took up to a third longer than in one of its own.
"""

import sys
from pathlib import Path

import numpy as np
from _serve import serve

from edgeseed.runtime.engines.litert import LiteRTEngine
from edgeseed.runtime.engines.onnxruntime import OnnxRuntimeEngine


def main():
    path, photos_path, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    photo = np.load(photos_path)[:1]
    if path.suffix == ".onnx":
        engine = OnnxRuntimeEngine.open(path, unit="cpu", threads=threads)
        image = photo.astype(np.float32)
    else:
        engine = LiteRTEngine.open(path, unit="xnnpack", threads=threads)
        image = np.ascontiguousarray(photo.transpose(0, 2, 3, 1))
    serve(lambda: engine.infer({"image": image}), {})


if __name__ == "__main__":
    main()
