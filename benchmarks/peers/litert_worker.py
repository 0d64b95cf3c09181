"""LiteRT as its own tools make it. Python of `pip install litert-torch litert-quantizer timm`.

    python litert_worker.py NETWORK.pt2 PHOTOS.npy PRECISION THREADS

NETWORK is the exported float program of the same network (`torch.export.save`), with the
normalisation inside; int8 is the stock quantizer (static, 8 bits, per channel) on the same photos.
Both run in LiteRT's interpreter with XNNPACK, as its manual advises for CPUs.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from _serve import serve


def converted(path, photos, precision):
    """The network's file; made at the first call."""
    made = path.with_suffix(f".{precision}.tflite")
    if made.exists():
        return made
    if precision == "fp32":
        import litert_torch
        import torch

        module = torch.export.load(path).module()
        litert_torch.convert(module, (torch.from_numpy(photos[:1]).float(),)).export(str(made))
        return made
    from ai_edge_litert.interpreter import Interpreter
    from litert_quantizer import quantizer, recipe

    source = converted(path, photos, "fp32")
    signature = Interpreter(str(source)).get_signature_list()
    (key,) = signature
    (name,) = signature[key]["inputs"]
    worker = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    data = {key: [{name: photo[None].astype(np.float32)} for photo in photos]}
    worker.quantize(worker.calibrate(data)).export_model(str(made))
    return made


def main():
    from ai_edge_litert.interpreter import Interpreter

    path, photos_path, precision, threads = sys.argv[1:]
    photos = np.load(photos_path)
    model = converted(Path(path), photos, precision)
    interpreter = Interpreter(str(model), num_threads=int(threads))
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    scale, zero = image["quantization"]
    values = photos[:1].astype(np.float32)
    if scale:
        values = np.clip(np.rint(values / scale) + zero, -128, 127)
    values = values.astype(image["dtype"])
    outputs = [each["index"] for each in interpreter.get_output_details()]

    def run():
        interpreter.set_tensor(image["index"], values)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    serve(
        run,
        {name: version(name) for name in ("ai-edge-litert", "litert-torch", "litert-quantizer")},
    )


if __name__ == "__main__":
    main()
