"""Arrays that say they lie on a GPU, for tests without one."""

import ctypes
from typing import Any

import numpy as np


class Tensor(ctypes.Structure):
    """DLTensor, with the version and flags that come before it in DLPack 1.0."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    )


TYPE_CODES = {"i": 0, "f": 2, "b": 6}


class Claimed:
    """An array that says it lies on CUDA device 0."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array = array
        self.shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self.tensor = Tensor(
            major=1,
            data=array.ctypes.data,
            device_type=2,
            rank=array.ndim,
            code=TYPE_CODES[array.dtype.kind],
            bits=8 * array.itemsize,
            lanes=1,
            shape=self.shape,
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.device_type, 0

    def __dlpack__(self, **_: object) -> object:
        capsule = ctypes.pythonapi.PyCapsule_New
        capsule.restype = ctypes.py_object
        capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return capsule(ctypes.addressof(self.tensor), b"dltensor_versioned", None)
