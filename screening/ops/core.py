"""The native core's front door: the only module that imports `_core`. Threads, SIMD levels, devices, errors.

Its neighbours in this folder check their arguments, allocate outputs and call `core.native`; they know flat arrays, not
crystals. reference modules beside them say what is right.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from screening import machine
from screening.errors import InputError, NativeError, ResourceError

try:
    from screening import _core
except ImportError as missing:  # pragma: no cover - only without a build
    raise NativeError(
        f"the native core is not built ({missing}); run `make build` in a checkout, or `pip install .` again"
    ) from missing

native = _core
"""The compiled functions; csrc/kernels.hpp has their contracts."""

Array = Any
"""A NumPy array, or a torch tensor: results lie where the arguments do."""


_thread_setting: int | None = None


def set_threads(count: int | None) -> None:
    """Set how many threads every native call uses; None for all processors this process may run on."""
    global _thread_setting
    if count is not None and count < 1:
        raise InputError(f"threads must be at least 1 or None for all processors, got {count}")
    _thread_setting = count


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Set the threads of native calls, as `set_threads` does, until the block ends."""
    before = _thread_setting
    set_threads(count)
    try:
        yield
    finally:
        set_threads(before)


def threads() -> int:
    """Tell how many threads native calls from this thread use now."""
    return _here.threads or _thread_setting or _allowed_processors()


class _Here(threading.local):
    threads: int | None = None


_here = _Here()


def set_threads_here(count: int | None) -> None:
    """Set how many threads native calls from the calling thread use, whatever others do; None for the setting of all.

    For threads that share work among themselves, batch by batch.
    """
    if count is not None and count < 1:
        raise InputError(f"threads must be at least 1 or None for the setting of all, got {count}")
    _here.threads = count


@cache
def _allowed_processors() -> int:
    return machine.processors().allowed


def simd_levels() -> list[str]:
    """List the levels this processor runs, widest first."""
    return native.simd_levels()


def simd_level() -> str:
    """Name the level in use."""
    return native.simd_level()


@contextmanager
def forced_simd_level(name: str) -> Iterator[None]:
    """Use another level for a while; results do not change, speed does."""
    before = native.simd_level()
    with input_errors():
        native.set_simd_level(name)
    try:
        yield
    finally:
        native.set_simd_level(before)


def cuda_compiled() -> bool:
    """Tell whether this build holds the CUDA kernels."""
    return native.cuda_compiled()


def cuda_device_count() -> int:
    """Count the CUDA devices that can be used: 0 without a driver."""
    return native.cuda_device_count()


def thread_count(count: int | None) -> int:
    """Check a number of threads, None for the setting."""
    if count is not None and count < 1:
        raise InputError(f"threads must be at least 1, got {count}")
    return count or threads()


@contextmanager
def input_errors() -> Iterator[None]:
    """Say what the core refuses in this package's errors."""
    try:
        yield
    except (ValueError, TypeError) as wrong:
        raise InputError(str(wrong)) from wrong
    except MemoryError as full:
        raise ResourceError("out of memory in the native core; use smaller batches") from full


@contextmanager
def device_of(array: Array) -> Iterator[None]:
    """Make the device of an array the current one."""
    if not on_cuda(array):
        yield
        return
    import torch

    # torch exports arrays of the current device only.
    with torch.cuda.device(array.device):
        yield


def on_cuda(array: Array) -> bool:
    """Tell whether an array lies on a CUDA device."""
    return getattr(getattr(array, "device", None), "type", "cpu") == "cuda"


def empty(like: Array, *shape: int, dtype: str) -> Array:
    """Allocate an array where another lies, of NumPy on the CPU."""
    if not on_cuda(like):
        return np.empty(shape, dtype)
    import torch

    tensor: Any = torch.empty(shape, dtype=getattr(torch, dtype), device=like.device)
    return tensor


def stream_of(array: Array) -> int:
    """Give the current CUDA stream of the array's device, 0 on the CPU."""
    if not on_cuda(array):
        return 0
    import torch

    return int(torch.cuda.current_stream(array.device).cuda_stream)
