"""Build arrays from what a pickle says of them: NumPy's own pickles, and PyTorch's tensors over their storages.

Fractions too, in which Demucs counts seconds.

Every number comes from the file, so each is checked against the bytes that are there before NumPy sees it.
"""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxmss.checkpoints.pickle_data import Constructors, Global, Opaque, Unfinished

_STORAGE_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
    "UntypedStorage": np.uint8,
}
# Types younger than the typed storages: the tensor names its type, and its storage is plain bytes.
_TENSOR_DTYPES = {
    "torch.uint16": np.uint16,
    "torch.uint32": np.uint32,
    "torch.uint64": np.uint64,
    "torch.float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "torch.float8_e5m2": ml_dtypes.float8_e5m2,
}


class Storage(NamedTuple):
    """The bytes that tensors share, and the type of their elements."""

    data: memoryview
    dtype: np.dtype


def _check_counts(numbers: Any) -> None:
    """Refuse anything but a tuple of sizes. (The error does not show it: printing could take for ever.)"""
    if not isinstance(numbers, tuple) or not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers):
        raise ValueError("a size, stride or offset is not a whole number from 0")


def storage_dtype(storage_type: Global) -> np.dtype | None:
    """Return the element type of a PyTorch storage class, or None for one that NumPy has no type for."""
    dtype = _STORAGE_DTYPES.get(storage_type.name.rpartition(".")[2])
    return None if dtype is None else np.dtype(dtype)


def torch_tensor(storage: Storage | Opaque, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray | Opaque:
    """Return the tensor as a read-only view of its storage; `offset` and `stride` count elements.

    Raises:
      ValueError: if the tensor reaches outside its storage, or repeats elements to be larger than it.
    """
    if isinstance(storage, Opaque):
        return storage
    _check_counts((offset,))
    _check_counts(size)
    _check_counts(stride)
    if len(size) != len(stride):
        raise ValueError(f"a tensor has {len(size)} sizes but {len(stride)} strides")
    held = len(storage.data) // storage.dtype.itemsize
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count > held or (count > 0 and last >= held):
        raise ValueError(f"a tensor of size {size}, stride {stride} and offset {offset} is outside its {held} elements")
    if count == 0:
        return np.empty(size, storage.dtype)
    width = storage.dtype.itemsize
    return np.ndarray(size, storage.dtype, storage.data, offset * width, [step * width for step in stride])


def _torch_tensor_of_dtype(
    storage: Storage | Opaque,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool,
    hooks: Any,
    dtype: Global,
    *_: Any,
) -> np.ndarray | Opaque:
    element = _TENSOR_DTYPES.get(dtype.name)
    if element is None or isinstance(storage, Opaque):
        return Opaque(dtype.name)
    return torch_tensor(Storage(storage.data, np.dtype(element)), offset, size, stride)


def _torch_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


def _numpy_dtype(code: str, *_: Any) -> Unfinished | Opaque:
    """Return a dtype of plain numbers that waits for its byte order."""
    if not re.fullmatch(r"[fiuc]\d{1,2}|b1", code):
        return Opaque(f"numpy.dtype({code[:20]!r})")
    return Unfinished(lambda state: np.dtype(code).newbyteorder(">" if state[1] == ">" else "<"))


def _numpy_array(*_: Any) -> Unfinished:
    """Return an array that waits for its shape, type and bytes."""
    return Unfinished(_finish_numpy_array)


def _finish_numpy_array(state: tuple) -> np.ndarray | Opaque:
    _, shape, dtype, is_fortran, data = state
    if isinstance(dtype, Opaque):
        return dtype
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
        raise ValueError("a NumPy array has no type or no bytes")
    _check_counts(shape)
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"a NumPy array of shape {shape} and type {dtype} has {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if is_fortran else "C")


def _fraction(*numbers: Any) -> Fraction:
    """Return what is pickled as "39/5", since Python 3.11 as (39, 5). "1e999999999" would take for ever."""
    plain = all(type(number) in (int, str) for number in numbers)
    if not plain or not re.fullmatch(r"-?\d{1,18}(/\d{1,18})?", "/".join(map(str, numbers))):
        raise ValueError("a fraction is not one of whole numbers")
    return Fraction(*numbers)


ARRAY_CONSTRUCTORS: Constructors = {
    "fractions.Fraction": _fraction,
    "torch._utils._rebuild_tensor": torch_tensor,
    "torch._utils._rebuild_tensor_v2": torch_tensor,
    "torch._utils._rebuild_tensor_v3": _torch_tensor_of_dtype,
    "torch._utils._rebuild_parameter": _torch_parameter,
    "torch._utils._rebuild_parameter_with_state": _torch_parameter,
    "torch.Size": tuple,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy._core.multiarray._reconstruct": _numpy_array,
}
