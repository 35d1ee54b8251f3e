"""Kernels for CPUs, in C: what torch does in several sweeps over a map, in one.

On a CPU a network of the spaces here spends two fifths of its time outside convolutions: BatchNorm, sums, ReLU,
pooling and comparisons each read and write whole maps. The kernels read a map for the statistics of BatchNorm, and once
more to normalise, add, rectify and compare it, block by block while the block is in the first cache; and likewise
backward. Activation codes are bits, and Gram matrices count those that two samples share.

The library is built when the package is (hatch_build.py), and is optional: without it, as on a GPU, everything takes
torch's operations. This module does not import torch, for the front end asks whether there are kernels, too.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from archscore_server.engine.config import Precision

if TYPE_CHECKING:
    from torch import Tensor

#: Where hatch_build.py puts it.
_FILE = Path(__file__).with_name("_kernels.so")

#: Of the structures and functions below; another library is of another version of the package.
_VERSION = 1

#: Rows of a map's statistics: y * FACTOR + OFFSET is normalised.
FACTOR, OFFSET, MEAN, VARIANCE = range(4)
STATISTICS = 4

#: Channels that convolutions come in, and the most: beyond, transformed weights are too large for the cache.
_BLOCK, _MOST_CHANNELS = 16, 128

#: Codes of a sample fill so many bytes or a multiple.
_CODE_BYTES = 64

#: Addresses of tensors; a structure keeps them alive.
_Addresses = ctypes.POINTER(ctypes.c_void_p)


def _fields(names: str) -> list[tuple[str, type]]:
    """Integers, then `*` for a tensor and `**` for several before the name."""
    kinds: dict[int, type] = {0: ctypes.c_int64, 1: ctypes.c_void_p, 2: _Addresses}
    return [(name.lstrip("*"), kinds[name.count("*")]) for name in names.split()]


class _Join(ctypes.Structure):
    _fields_ = [
        *_fields("samples hw c period parts bytes **data **statistics *sum *rectified *bits **part_bits"),
        ("eps", ctypes.c_double),
    ]


class _Unjoin(ctypes.Structure):
    _fields_ = _fields(
        "samples hw c period plain rectified parts "
        "**of_plain **of_rectified *mask **data **statistics *gradient **gradients **factors"
    )


class _Convolution(ctypes.Structure):
    _fields_ = _fields("samples h w in out *map *weights *gradient *output *of_map *of_weights *points")


class _Pool(ctypes.Structure):
    _fields_ = _fields("samples h w c backward *source *to *rows *columns")


def _load(file: Path) -> ctypes.CDLL | None:
    """The library, or None where it was not built, or for another kind of machine or version."""
    try:
        library = ctypes.CDLL(str(file))
        if library.archscore_version() != _VERSION:
            return None
    except (OSError, AttributeError):
        return None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.archscore_choose.argtypes = [ctypes.c_char_p]
    library.archscore_chosen.restype = ctypes.c_char_p
    library.archscore_join.argtypes = [pointer, integer]
    library.archscore_unjoin.argtypes = [pointer, integer]
    library.archscore_convolve.argtypes = [pointer, integer]
    library.archscore_pool.argtypes = [pointer, integer]
    library.archscore_overlaps.argtypes = [pointer, integer, integer, integer, pointer]
    library.archscore_overlaps.restype = None
    return library


_LIBRARY = _load(_FILE)


def available() -> bool:
    """Whether there are kernels for this machine."""
    return _LIBRARY is not None


@contextmanager
def off() -> Iterator[None]:
    """Has everything in this process take torch's operations meanwhile, to compare."""
    global _LIBRARY  # noqa: PLW0603
    library, _LIBRARY = _LIBRARY, None
    try:
        yield
    finally:
        _LIBRARY = library


def serve(networks: int, precision: Precision, device: str) -> bool:
    """Whether a stack of so many networks, on that kind of device, runs by the kernels where it can.

    They are for one network at a time: on a CPU the cache is too small for more.
    """
    return available() and networks == 1 and precision is Precision.FLOAT32 and device == "cpu"


def chosen() -> str:
    """The instruction set that the kernels use, such as "v4" (x86-64-v4); "" where there are none."""
    return _LIBRARY.archscore_chosen().decode() if _LIBRARY else ""


def choose(name: str | None) -> bool:
    """Takes the kernels for an instruction set, or with None the best; whether the CPU has it."""
    return not _library().archscore_choose(name.encode() if name else None)


def period(channels: int) -> int:
    """Entries that numbers per channel are repeated to: a multiple of the channels and of all vectors."""
    return math.lcm(channels, 64)


def code_bytes(entries: int) -> int:
    """Bytes that the code of one sample takes, one bit an entry."""
    return -(-entries // (8 * _CODE_BYTES)) * _CODE_BYTES


def join(
    maps: Sequence[Tensor],
    statistics: Sequence[Tensor | None],
    *,
    eps: float,
    total: Tensor | None,
    rectified: Tensor | None,
    codes: Tensor | None,
    map_codes: Sequence[Tensor | None],
    threads: int,
) -> None:
    """Adds up maps, those with statistics normalised by BatchNorm.

    All maps are [N, C, H, W], float32, dense in channels_last memory.

    Args:
        maps: what is added up.
        statistics: [STATISTICS, period(C)] for each map that is normalised, filled in; None for the others.
        eps: BatchNorm's.
        total: takes the sum, or None; may be the first map.
        rectified: takes its positive part, or None; may be any map, but for that.
        codes: uint8 [N, code_bytes(C*H*W)] takes the codes of the sum, or None.
        map_codes: for each map takes its own codes (before BatchNorm), or None.
        threads: among which the samples are shared.

    Raises:
        MemoryError: there is none for the sums.
    """
    samples, channels, height, width = maps[0].shape
    call = _Join(
        samples,
        height * width,
        channels,
        period(channels),
        len(maps),
        code_bytes(channels * height * width),
        _array(maps),
        _array(statistics),
        _address(total),
        _address(rectified),
        _address(codes),
        _array(map_codes),
        eps,
    )
    if _library().archscore_join(ctypes.byref(call), threads):
        raise MemoryError


def unjoin(
    *,
    of_total: Sequence[Tensor],
    of_rectified: Sequence[Tensor],
    mask: Tensor | None,
    maps: Sequence[Tensor],
    statistics: Sequence[Tensor],
    gradient: Tensor,
    gradients: Sequence[Tensor],
    factors: Tensor,
    threads: int,
) -> None:
    """The derivative of `join`.

    Args:
        of_total: gradients with respect to the sum.
        of_rectified: gradients with respect to its positive part.
        mask: the sum or its positive part, if anything was rectified.
        maps: those that were normalised.
        statistics: their statistics.
        gradient: takes the sum's gradient; may be the first of `of_rectified`, or the only one there is of `of_total`.
        gradients: take those of the normalised maps; may be the maps themselves.
        factors: scratch, [len(maps), 3, period(C)].
        threads: among which the samples are shared.

    Raises:
        MemoryError: there is none for the sums.
    """
    samples, channels, height, width = gradient.shape
    call = _Unjoin(
        samples,
        height * width,
        channels,
        period(channels),
        len(of_total),
        len(of_rectified),
        len(maps),
        _array(of_total),
        _array(of_rectified),
        _address(mask),
        _array(maps),
        _array(statistics),
        gradient.data_ptr(),
        _array(gradients),
        _array(list(factors)),
    )
    if _library().archscore_unjoin(ctypes.byref(call), threads):
        raise MemoryError


def convolves(inputs: int, outputs: int, height: int, width: int) -> bool:
    """Whether `convolve` takes maps of that many channels and that size, on this CPU."""
    return (
        not (inputs % _BLOCK or outputs % _BLOCK or height % 2 or width % 2)
        and max(inputs, outputs) <= _MOST_CHANNELS
        and bool(_library().archscore_convolves())
    )


def convolve(
    source: Tensor,
    weights: Tensor,
    *,
    output: Tensor | None = None,
    gradient: Tensor | None = None,
    of_map: Tensor | None = None,
    of_weights: Tensor | None = None,
    threads: int,
) -> None:
    """3x3 convolution with stride 1 and padding 1 by Winograd's F(2x2, 3x3), or its derivatives, as `convolves` allows.

    Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016. Rounding is no worse than in a sum of
    products, and an output whose inputs are all 0 is exactly 0, whatever else is in its tile.

    Args:
        source: [N, in, H, W], float32, dense in channels_last memory.
        weights: [out, in, 3, 3], dense.
        output: [N, out, H, W] likewise, takes the convolution.
        gradient: with respect to the output, for the two that follow.
        of_map: takes the gradient with respect to `source`.
        of_weights: takes that with respect to `weights`.
        threads: among which the samples are shared.

    Raises:
        MemoryError: there is none for transformed weights.
    """
    samples, inputs, height, width = source.shape
    call = _Convolution(
        samples,
        height,
        width,
        inputs,
        len(weights),
        source.data_ptr(),
        weights.data_ptr(),
        _address(gradient),
        _address(output),
        _address(of_map),
        _address(of_weights),
        None,
    )
    if _library().archscore_convolve(ctypes.byref(call), threads):
        raise MemoryError


def pool(source: Tensor, target: Tensor, rows: Tensor, columns: Tensor, *, backward: bool, threads: int) -> None:
    """3x3 average pooling with stride 1, or its derivative.

    Args:
        source: [N, C, H, W], float32, dense in channels_last memory.
        target: takes the result, likewise.
        rows: one over the number of neighbours of each row that lie inside, itself among them, [H].
        columns: likewise, [W].
        backward: whether `source` is a gradient.
        threads: among which the samples are shared.

    Raises:
        MemoryError: there is none for a row.
    """
    samples, channels, height, width = source.shape
    call = _Pool(
        samples,
        height,
        width,
        channels,
        backward,
        source.data_ptr(),
        target.data_ptr(),
        rows.data_ptr(),
        columns.data_ptr(),
    )
    if _library().archscore_pool(ctypes.byref(call), threads):
        raise MemoryError


def overlaps(codes: Tensor, target: Tensor, *, threads: int) -> None:
    """Entries that are 1 in the codes of both, for all pairs of samples.

    Args:
        codes: uint8 [N, bytes], from `join`.
        target: int32 [N, N], filled in.
        threads: among which the samples are shared.
    """
    samples, size = codes.shape
    _library().archscore_overlaps(codes.data_ptr(), samples, size // 8, threads, target.data_ptr())


def _library() -> ctypes.CDLL:
    if _LIBRARY is None:
        raise RuntimeError("there are no kernels for CPUs here")
    return _LIBRARY


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _array(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*map(_address, tensors))
