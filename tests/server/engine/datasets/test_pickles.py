"""Hostile pickles run nothing."""

import builtins
import gc
import io
import os
import pickle
import pickletools
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archscore_server.engine.datasets import DatasetError, Datasets, _pickles
from support.images import batch, draw, write


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("where", ["alone", "as a value", "as a label", "beside"])
def test_nothing_runs(tmp_path: Path, protocol: int, where: str) -> None:
    trap = tmp_path / "sprung"
    call = Calls(os.system, f"touch {trap}")
    content: Any = {
        "alone": call,
        "as a value": batch(draw(2, 32), [0, 1], "fine_labels") | {"data": call},
        "as a label": batch(draw(2, 32), [0, call], "fine_labels"),  # type: ignore[list-item]
        "beside": {"other": call},
    }[where]
    hostile = pickle.dumps(content, protocol)
    write(tmp_path, "cifar-100-python/train", hostile)
    with pytest.raises(DatasetError, match="train: it cannot be read: the file refers to"):
        Datasets(tmp_path).read("cifar100")
    assert not trap.exists()
    pickle.loads(hostile)
    assert trap.exists()


@pytest.mark.parametrize(
    "content",
    [
        Calls(eval, "1"),
        Calls(getattr, 1, "real"),
        Calls(builtins.__import__, "os"),
        Calls(np.load, "x"),
        Calls(np.zeros, 10),
        {1, 2},
        np.float64(1),
        np.random.default_rng(0),
        np.ma.zeros(3),
        Path("x"),
        bytearray(b"x"),
    ],
)
def test_other_names_are_refused(content: Any) -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"the file refers to|made in an unknown way"):
        _pickles.load(io.BytesIO(pickle.dumps({"x": content}, 2)))


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", object()], object),
        np.array(["text"]),
        np.array([b"bytes"]),
        np.zeros(3, [("a", "u1")]),
        np.zeros(3, complex),
        np.zeros(3, "M8[s]"),
        np.zeros(3, bool),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_of_anything_but_numbers_are_refused(array: Any) -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"refers to|not expected here"):
        _pickles.load(io.BytesIO(pickle.dumps({"x": array}, 2)))


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i8", "f4", "<f8", ">u4"])
def test_arrays_of_numbers_come_back(protocol: int, dtype: str) -> None:
    for array in (np.arange(12).astype(dtype).reshape(3, 4), np.arange(12).astype(dtype).reshape(3, 4, order="F")):
        loaded = _pickles.load(io.BytesIO(pickle.dumps({"x": array, "y": array.dtype}, protocol)))["x"]
        np.testing.assert_array_equal(loaded, array)
        assert loaded.dtype == array.dtype
        assert not loaded.flags.writeable


def assemble(state: Any, *, dtype: bytes = b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1tR") -> bytes:
    """{'x': an array with this state}, whose dtype is put at True."""
    body = pickle.dumps(state, 2)[2:-1].replace(b"\x88", dtype)
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    return b"\x80\x03}X\x01\x00\x00\x00x" + array + body + b"bs."


def test_assembled_arrays_are_arrays() -> None:
    content = _pickles.load(io.BytesIO(assemble((1, (2, 2), True, 0, "abcd"))))
    np.testing.assert_array_equal(content["x"], [[97, 98], [99, 100]])


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        (),
        (1, (2, 2), True, 0),
        (1, (2, 2), "u1", 0, "abcd"),
        (1, (2, 2), True, 0, "abc"),
        (1, (2, 2), True, 0, "abc\u0144"),
        (1, (2, 2), True, 0, [1, 2, 3, 4]),
        (1, (-1, 2), True, 0, "abcd"),
        (1, (2**40, 2**40), True, 0, "abcd"),
        (1, ("2", 2), True, 0, "abcd"),
        (1, 4, True, 0, "abcd"),
        (1, None, True, 0, "abcd"),
    ],
)
def test_odd_states_of_arrays_are_refused(state: Any) -> None:
    with pytest.raises((pickle.UnpicklingError, ValueError, TypeError)):
        _pickles.load(io.BytesIO(assemble(state)))


@pytest.mark.parametrize(
    "dtype",
    [
        b"cnumpy\ndtype\n(X\x01\x00\x00\x00OtR",
        b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1tR(K\x03X\x01\x00\x00\x00?NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        b"cnumpy\ndtype\n(X\x02\x00\x00\x00u1tR(K\x03X\x01\x00\x00\x00|N(lNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
        b"cnumpy\ndtype\n",
        b"cnumpy\nndarray\n",
    ],
)
def test_odd_dtypes_are_refused(dtype: bytes) -> None:
    state = (1, (2, 2), True, 0, "abcd")
    with pytest.raises((pickle.UnpicklingError, ValueError, TypeError)):
        _pickles.load(io.BytesIO(assemble(state, dtype=dtype)))


def test_what_was_read_is_freed_at_once() -> None:
    file = pickle.dumps({"x": np.arange(10, dtype="u1"), "y": ["a"]}, 2)
    gc.disable()
    try:
        array = weakref.ref(_pickles.load(io.BytesIO(file))["x"])
        assert array() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("encoding", ["utf-7", "rot13", "zlib_codec", "utf-8"])
def test_only_the_encoding_of_numpy_is_known(encoding: str) -> None:
    text = encoding.encode()
    hostile = b"\x80\x02c_codecs\nencode\n(X\x01\x00\x00\x00aX" + len(text).to_bytes(4, "little") + text + b"tR."
    assert any(opcode.name == "GLOBAL" for opcode, _, _ in pickletools.genops(hostile))
    with pytest.raises(pickle.UnpicklingError, match="is not expected here"):
        _pickles.load(io.BytesIO(hostile))


@pytest.mark.parametrize(
    "name", [b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"c_codecs\nencode\n"]
)
def test_a_file_cannot_change_how_the_next_one_is_read(name: bytes) -> None:
    code = b"}X\x08\x00\x00\x00__code__Ns"
    defaults = b"}X\x0c\x00\x00\x00__defaults__)s"
    for state in (code, defaults, b"(N" + code + b"t", b"(N" + defaults + b"t"):
        with pytest.raises(Exception, match=r".+"):
            _pickles.load(io.BytesIO(b"\x80\x02" + name + state + b"b."))
    test_assembled_arrays_are_arrays()
