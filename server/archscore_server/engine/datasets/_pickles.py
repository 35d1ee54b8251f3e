"""Reads the pickles in which CIFAR and ImageNet16 are published, and runs nothing that they say.

Such a file holds a dictionary of plain values and of numpy arrays, written by Python 2 or 3. The few names that it may
refer to are bound to stand-ins of ours, so that neither foreign code nor numpy's own unpickling ever runs.
"""

from __future__ import annotations

import pickle
import re
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

#: Numbers of fixed size: unsigned, signed, floating.
_NUMBER = re.compile(r"u[1248]|i[1248]|f[248]")

#: What `_reconstruct` is passed as the type to make.
_NDARRAY = "numpy.ndarray"


def load(stream: BinaryIO) -> dict[str, Any]:
    """Reads a dictionary; keys are text, whichever Python wrote them, and arrays are read-only.

    Raises:
        Exception: it is not such a file. Unpickling garbage may raise anything.
    """
    content = _Unpickler(stream, encoding="latin1").load()
    if not isinstance(content, dict):
        raise pickle.UnpicklingError("the file holds no dictionary")
    entries = {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in content.items()}
    return {key: value.array if isinstance(value, _Array) else value for key, value in entries.items()}


class _DType:
    """What stands in for a numpy.dtype."""

    def __init__(self, code: str) -> None:
        if not _NUMBER.fullmatch(code):
            raise pickle.UnpicklingError(f"arrays of {code!r} are not expected here")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, *structure = state
        if order not in ("<", ">", "|", "=") or any(part is not None for part in structure[:3]):
            raise pickle.UnpicklingError("a structured array is not expected here")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """What stands in for a numpy.ndarray; empty until its state is set."""

    def __init__(self) -> None:
        self.array: NDArray[Any] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, dtype, fortran_order, data = state
        raw = data.encode("latin1") if isinstance(data, str) else data  # text is what Python 2's bytes come out as
        if not isinstance(raw, bytes) or not isinstance(dtype, _DType):
            raise pickle.UnpicklingError("an array without numbers in it is not expected here")
        if not all(type(side) is int and side >= 0 for side in shape):
            raise pickle.UnpicklingError("an array has a shape that is none")
        flat = np.frombuffer(raw, dtype.dtype)
        self.array = flat.reshape(shape, order="F" if fortran_order else "C")


class _StandIns:
    """What may be called: methods bound to an object without state, which a hostile pickle cannot change."""

    def reconstruct(self, subtype: object, shape: object, kind: object) -> _Array:
        if (subtype, shape, kind) not in ((_NDARRAY, (0,), b"b"), (_NDARRAY, (0,), "b")):
            raise pickle.UnpicklingError("an array is made in an unknown way")
        return _Array()

    def dtype(self, code: str, *_align_and_copy: object) -> _DType:
        return _DType(code)

    def encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"encoding {encoding!r} is not expected here")
        return text.encode("latin1")


_STAND_INS = _StandIns()

_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _STAND_INS.reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _STAND_INS.reconstruct,
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _STAND_INS.dtype,
    ("_codecs", "encode"): _STAND_INS.encode,
}


class _Unpickler(pickle.Unpickler):
    """Knows these names alone. Nothing of it is handed out: a cycle would keep the whole file in memory."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for."""
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"the file refers to {module}.{name}, which has no place in it")
        return _NAMES[module, name]
