"""The GPU's memory, through the driver's own library.

It runs on the device: Python 3.8, numpy and ctypes. Of the ways to CUDA from Python this is the one
that needs nothing installed: `libcuda.so.1` comes with the driver, in the loader's path, on Jetsons
and servers alike, and its functions have kept their signatures since CUDA 3.2. `cuda-python` and
PyCUDA are packages that stock JetPack lacks, and `libcudart` lies in another place under another
number in each CUDA release. TensorRT uses the primary context, and so does this.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from edgeseed.runtime.engine import EngineError

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

LIBRARIES = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")
NO_GPU = "build and run on the device that has one: --device ssh:USER@HOST"
_CAPABILITY = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY

_int, _size = ctypes.c_int, ctypes.c_size_t
_device_pointer, _handle, _address = ctypes.c_uint64, ctypes.c_void_p, ctypes.c_void_p
# The functions that are used, by the name they have in the library, and their arguments.
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (ctypes.c_uint,),
    "cuDriverGetVersion": (ctypes.POINTER(_int),),
    "cuDeviceGetCount": (ctypes.POINTER(_int),),
    "cuDeviceGet": (ctypes.POINTER(_int), _int),
    "cuDeviceGetName": (ctypes.c_char_p, _int, _int),
    "cuDeviceGetAttribute": (ctypes.POINTER(_int), _int, _int),
    "cuDevicePrimaryCtxRetain": (ctypes.POINTER(_handle), _int),
    "cuDevicePrimaryCtxRelease_v2": (_int,),
    "cuCtxSetCurrent": (_handle,),
    "cuStreamCreate": (ctypes.POINTER(_handle), ctypes.c_uint),
    "cuStreamDestroy_v2": (_handle,),
    "cuStreamSynchronize": (_handle,),
    "cuMemAlloc_v2": (ctypes.POINTER(_device_pointer), _size),
    "cuMemFree_v2": (_device_pointer,),
    "cuMemcpyHtoDAsync_v2": (_device_pointer, _address, _size, _handle),
    "cuMemcpyDtoHAsync_v2": (_address, _device_pointer, _size, _handle),
}


class Cuda:
    """The first GPU that CUDA shows, with one stream.

    Attributes:
        name: as the driver calls it, such as `Orin`.
        compute_capability: such as `8.7`.
        cuda_version: the newest CUDA that the driver knows, such as `12.6`.
        stream: handle of the stream.
    """

    def __init__(self) -> None:
        self._library = _load()
        self._call("cuInit", 0)
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if count.value == 0:
            raise EngineError("CUDA shows no GPU here; " + NO_GPU)
        self._device = self._integer("cuDeviceGet", 0)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), self._device)
        self.name = name.value.decode("utf-8", "replace")
        numbers = [self._integer("cuDeviceGetAttribute", key, self._device) for key in _CAPABILITY]
        self.compute_capability = "{}.{}".format(*numbers)
        version = self._integer("cuDriverGetVersion")
        self.cuda_version = f"{version // 1000}.{version % 1000 // 10}"
        context = _handle()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        stream = _handle()
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = int(stream.value or 0)

    def allocate(self, size_bytes: int) -> int:
        """Address of new memory on the GPU."""
        pointer = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(pointer), max(size_bytes, 1))
        return int(pointer.value)

    def free(self, pointer: int) -> None:
        """Give memory back."""
        self._call("cuMemFree_v2", pointer)

    def copy_in(self, pointer: int, values: NDArray[Any]) -> None:
        """Queue a copy to the GPU; `values` is contiguous and lives until `synchronize`."""
        self._call("cuMemcpyHtoDAsync_v2", pointer, values.ctypes.data, values.nbytes, self.stream)

    def copy_out(self, values: NDArray[Any], pointer: int) -> None:
        """Queue a copy from the GPU into `values`, which is contiguous."""
        self._call("cuMemcpyDtoHAsync_v2", values.ctypes.data, pointer, values.nbytes, self.stream)

    def synchronize(self) -> None:
        """Wait for all that was queued."""
        self._call("cuStreamSynchronize", self.stream)

    def close(self) -> None:
        """Let go of the stream and the context."""
        self._call("cuStreamDestroy_v2", self.stream)
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)

    def _integer(self, name: str, *arguments: int) -> int:
        value = ctypes.c_int()
        self._call(name, ctypes.byref(value), *arguments)
        return int(value.value)

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status == _NO_DEVICE:
            raise EngineError("CUDA shows no GPU here; " + NO_GPU)
        if status == _OUT_OF_MEMORY:
            raise EngineError(
                "the GPU is out of memory; close what else uses it, or export with a smaller "
                "--set max_batch"
            )
        if status != 0:
            raise EngineError(f"CUDA error {status} in {name}; restart the program")


def _load() -> Any:
    for name in LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        for function, arguments in _FUNCTIONS.items():
            getattr(library, function).argtypes = arguments
            getattr(library, function).restype = ctypes.c_int
        return library
    raise EngineError(f"there is no NVIDIA driver here ({LIBRARIES[0]}); " + NO_GPU)
