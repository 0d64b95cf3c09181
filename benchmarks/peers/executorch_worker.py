"""ExecuTorch with XNNPACK. Python of `pip install executorch torch torchvision timm`.

    python executorch_worker.py NETWORK.pt2 PHOTOS.npy PRECISION THREADS

NETWORK is the exported float program of the same network (`torch.export.save`), with the
normalisation inside; int8 is XNNPACK's own quantizer (per channel, static) on the same photos.
"""

import logging
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from _serve import serve


def quantized(program, photos):
    """The program in QDQ form, by torchao's PT2E with XNNPACK's quantizer."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    config = get_symmetric_quantization_config(is_per_channel=True, is_dynamic=False)
    prepared = prepare_pt2e(program.module(), XNNPACKQuantizer().set_global(config))
    with torch.no_grad():
        for photo in photos:
            prepared(torch.from_numpy(photo[None]).float())
    return torch.export.export(
        convert_pt2e(prepared), (torch.from_numpy(photos[:1]).float(),), strict=False
    )


def lowered(path, photos, precision):
    """The program's file for XNNPACK; made at the first call, which takes minutes."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    made = path.with_suffix(f".{precision}.pte")
    if not made.exists():
        program = torch.export.load(path)
        if precision == "int8":
            program = quantized(program, photos)
        edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        made.write_bytes(edge.to_executorch().buffer)
    return made


def main():
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    from executorch.extension.pybindings import portable_lib
    from executorch.runtime import Runtime

    path, photos_path, precision, threads = sys.argv[1:]
    photos = np.load(photos_path)
    model = lowered(Path(path), photos, precision)
    portable_lib._unsafe_reset_threadpool(int(threads))
    versions = {name: version(name) for name in ("executorch", "torch", "torchao")}
    versions["threads"] = str(portable_lib._threadpool_get_thread_count())
    method = Runtime.get().load_program(model).load_method("forward")
    image = torch.from_numpy(photos[:1]).float()
    serve(lambda: method.execute((image,)), versions)


if __name__ == "__main__":
    main()
