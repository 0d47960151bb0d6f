"""As much of CUDA's driver as running an engine takes: memory, copies, a stream. Through ctypes: the driver is there
wherever an engine can run, and no other package is needed.

Driver API: https://docs.nvidia.com/cuda/cuda-driver-api
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Self

import numpy as np

from edgessl.errors import MissingDependencyError

Array = np.ndarray[Any, np.dtype[Any]]
_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"


class DriverError(MissingDependencyError):
    """The NVIDIA driver is missing, too old, or refused a call."""


class Driver:
    """One GPU's primary context, current in the thread that made it.

    Args:
        device: index of the GPU.

    Raises:
        DriverError: no driver, no such GPU, or the driver refused.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            self._cuda = ctypes.CDLL(_LIBRARY)
        except OSError:
            raise DriverError(
                f"{_LIBRARY} is not here: no NVIDIA driver is installed. Install one (580 or newer for CUDA 13, 525 or "
                "newer for CUDA 12) and check with: nvidia-smi"
            ) from None
        self._call("cuInit", 0)
        handle, self._context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(handle), device)
        self._device = handle.value
        name = ctypes.create_string_buffer(128)
        self._call("cuDeviceGetName", name, len(name), self._device)
        self.name = name.value.decode()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._call("cuCtxSetCurrent", self._context)
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), 1)  # non-blocking: not behind the default stream
        self.stream = int(stream.value or 0)

    def compute_capability(self) -> tuple[int, int]:
        """Of the GPU: (8, 7) is Orin, (9, 0) Hopper."""
        return self._attribute(75), self._attribute(76)

    def version(self) -> int:
        """The newest CUDA the driver speaks, times 1000: 13000 is 13.0."""
        found = ctypes.c_int()
        self._call("cuDriverGetVersion", ctypes.byref(found))
        return found.value

    def allocate(self, size: int) -> int:
        """The address of `size` bytes on the GPU."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        return address.value

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, array: Array) -> None:
        """Copy a contiguous `array` to the GPU and wait for it."""
        self._call(
            "cuMemcpyHtoD_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
        )

    def download(self, array: Array, address: int) -> None:
        """Fill `array` from the GPU and wait for it."""
        self._call(
            "cuMemcpyDtoH_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
        )

    def synchronize(self) -> None:
        """Wait until all that was put on the stream is done; what went wrong there is raised here."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def close(self) -> None:
        """Give the stream and the context back."""
        if self.stream:
            self._call("cuStreamDestroy_v2", ctypes.c_void_p(self.stream))
            self._call("cuDevicePrimaryCtxRelease_v2", self._device)
            self.stream = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _attribute(self, which: int) -> int:
        found = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(found), which, self._device)
        return found.value

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorString(code, ctypes.byref(text))
            why = (text.value or b"unknown").decode()
            raise DriverError(f"{name}: CUDA error {code}, {why}. Check the GPU and its driver with: nvidia-smi")
