"""The kernels for CPUs against torch in double precision, with every instruction set that this CPU has."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from archscore_server.engine import Precision, kernels
from archscore_server.engine.codes import codes, overlaps

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the kernels were not built: no C compiler")

SETS = ("popcount", "v4", "v3", "any")
#: N, C, H, W: whole vectors and not, maps of one pixel, more channels than a block of a map.
SHAPES = [(6, 16, 8, 8), (3, 24, 5, 7), (4, 3, 1, 1), (2, 65, 3, 2), (5, 1, 4, 4), (2, 2050, 1, 2)]
EPS = 1e-3


@pytest.fixture(params=SETS)
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    if not kernels.choose(request.param):
        pytest.skip("this CPU has not these instructions")
    yield request.param
    assert kernels.choose(None)


def image(*shape: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.contiguous(memory_format=torch.channels_last)


def unpacked(bits: Tensor, entries: int) -> Tensor:
    """Codes as int8 [N, entries], from bits; what is beyond must be 0."""
    whole = (bits[:, :, None] >> torch.arange(8, dtype=torch.uint8)).bitwise_and(1).flatten(1)
    assert not whole[:, entries:].any()
    return whole[:, :entries].to(torch.int8)


def normalised(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True, eps=EPS)


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_sum_and_its_derivative(instructions: str, shape: tuple[int, ...], threads: int) -> None:
    n, c, *_ = shape
    entries = math.prod(shape[1:])
    maps = [image(*shape, seed=seed) * (seed + 1) + 5 * seed for seed in range(3)]
    period = kernels.period(c)
    statistics = [torch.empty(kernels.STATISTICS, period), None, torch.empty(kernels.STATISTICS, period)]
    total, rectified = torch.empty_like(maps[0]), torch.empty_like(maps[0])
    bits = [torch.empty(n, kernels.code_bytes(entries), dtype=torch.uint8) for _ in range(3)]
    kernels.join(
        maps,
        statistics,
        eps=EPS,
        total=total,
        rectified=rectified,
        codes=bits[0],
        map_codes=[bits[1], bits[2], None],
        threads=threads,
    )
    exact = [own.double().requires_grad_() for own in maps]
    expected = normalised(exact[0]) + exact[1] + normalised(exact[2])
    torch.testing.assert_close(total, expected.float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(rectified, total.relu())
    for own, of in zip(bits, (total, maps[0], maps[1]), strict=True):
        assert torch.equal(unpacked(own, entries), codes(of, 1)[0])
    for own, values in zip(maps, statistics, strict=True):
        if values is not None:
            mean = own.double().mean(dim=(0, 2, 3))
            variance = own.double().var(dim=(0, 2, 3), correction=0)
            torch.testing.assert_close(values[kernels.MEAN, :c].double(), mean, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(values[kernels.VARIANCE, :c].double(), variance, rtol=1e-4, atol=1e-5)

    arrived = [image(*shape, seed=seed) for seed in range(10, 14)]
    (expected * (arrived[0] + arrived[1]) + expected.relu() * (arrived[2] + arrived[3])).sum().backward()
    gradient, in_place = torch.empty_like(total), maps[2]
    of_maps = [torch.empty_like(total), in_place]
    kernels.unjoin(
        of_total=arrived[:2],
        of_rectified=arrived[2:],
        mask=rectified,
        maps=[maps[0], maps[2]],
        statistics=[own for own in statistics if own is not None],
        gradient=gradient,
        gradients=of_maps,
        factors=torch.empty(2, 3, period),
        threads=threads,
    )
    for found, own in zip((of_maps[0], gradient, of_maps[1]), exact, strict=True):
        assert own.grad is not None
        torch.testing.assert_close(found.double(), own.grad, rtol=1e-3, atol=1e-4)


def test_a_channel_that_hardly_varies_is_normalised(instructions: str) -> None:
    x = 1000 + image(8, 16, 8, 8) * 1e-3
    statistics = torch.empty(kernels.STATISTICS, kernels.period(16))
    total = torch.empty_like(x)
    kernels.join([x], [statistics], eps=1e-12, total=total, rectified=None, codes=None, map_codes=[None], threads=1)
    variance = x.double().var(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(statistics[kernels.VARIANCE, :16].double(), variance, rtol=1e-4, atol=0)


def test_what_is_not_a_number_stays_so(instructions: str) -> None:
    x = image(2, 16, 4, 4)
    x[0, 3, 1, 1] = math.nan
    x[1, 5, 0, 0] = math.inf
    rectified, statistics = torch.empty_like(x), torch.empty(kernels.STATISTICS, kernels.period(16))
    kernels.join([x], [None], eps=EPS, total=None, rectified=rectified, codes=None, map_codes=[None], threads=1)
    torch.testing.assert_close(rectified, x.relu(), rtol=0, atol=0, equal_nan=True)
    kernels.join([x], [statistics], eps=EPS, total=None, rectified=rectified, codes=None, map_codes=[None], threads=1)
    assert rectified[:, 3].isnan().all()
    assert rectified[:, 5].isnan().all()
    assert rectified[:, 4].isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (2, 2), (3, 3), (4, 2), (7, 6), (16, 16)])
def test_average_pooling_and_its_derivative(instructions: str, size: tuple[int, int]) -> None:
    x = image(3, 17, *size).requires_grad_()
    expected = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    g = image(3, 17, *size, seed=1)
    (of_x,) = torch.autograd.grad(expected, x, g)
    rows, columns = (torch.tensor([1 / (1 + (i > 0) + (i < length - 1)) for i in range(length)]) for length in size)
    for source, wanted, backward in ((x, expected, False), (g, of_x, True)):
        found = torch.empty_like(g)
        kernels.pool(source, found, rows, columns, backward=backward, threads=2)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("samples", [1, 2, 9, 64])
def test_overlaps_are_those_of_the_codes(instructions: str, samples: int, threads: int) -> None:
    x = image(samples, 7, 5, 3)
    bits = torch.empty(samples, kernels.code_bytes(7 * 5 * 3), dtype=torch.uint8)
    kernels.join([x], [None], eps=EPS, total=None, rectified=None, codes=None, map_codes=[bits], threads=1)
    found = torch.empty(samples, samples, dtype=torch.int32)
    kernels.overlaps(bits, found, threads=threads)
    assert torch.equal(found[None], overlaps(codes(x, 1)).int())


def convolution(n: int, inputs: int, outputs: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    if not kernels.convolves(inputs, outputs, height, width):
        pytest.skip("this CPU has no convolutions of ours")
    return image(n, inputs, height, width).relu(), torch.randn(outputs, inputs, 3, 3)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "shape",
    [(4, 16, 16, 32, 32), (3, 32, 16, 6, 10), (2, 48, 128, 2, 2), (1, 16, 32, 4, 18), (5, 64, 64, 8, 8)],
    ids=str,
)
def test_convolutions_and_their_derivatives(
    instructions: str, shape: tuple[int, int, int, int, int], threads: int
) -> None:
    x, weight = convolution(*shape)
    exact = [own.double().requires_grad_() for own in (x, weight)]
    expected = F.conv2d(exact[0], exact[1], padding=1)
    gradient = image(*expected.shape, seed=1)
    of_exact = torch.autograd.grad(expected, exact, gradient.double())
    found = [torch.empty_like(own) for own in (gradient, x, weight)]
    kernels.convolve(
        x, weight, output=found[0], gradient=gradient, of_map=found[1], of_weights=found[2], threads=threads
    )
    for own, wanted in zip(found, (expected, *of_exact), strict=True):
        assert (own - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_convolution_of_zeros_is_exactly_zero(instructions: str) -> None:
    x, weight = convolution(2, 16, 32, 8, 8)
    x[0, :, 2:] = 0
    x[1] = 0
    x[1, 5, 3, 3] = 1
    found = torch.empty_like(image(2, 32, 8, 8))
    kernels.convolve(x, weight, output=found, threads=1)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    assert not found[0, :, 3:].any()
    assert torch.equal(found == 0, expected == 0)


def test_convolutions_keep_to_whole_blocks_and_tiles() -> None:
    assert not kernels.convolves(8, 16, 8, 8)
    assert not kernels.convolves(16, 24, 8, 8)
    assert not kernels.convolves(16, 16, 7, 8)
    assert not kernels.convolves(16, 16, 8, 7)
    assert not kernels.convolves(144, 16, 8, 8)


def test_kernels_serve_single_networks_in_float32_on_a_cpu() -> None:
    assert kernels.serve(1, Precision.FLOAT32, "cpu")
    assert not kernels.serve(2, Precision.FLOAT32, "cpu")
    assert not kernels.serve(1, Precision.FLOAT64, "cpu")
    assert not kernels.serve(1, Precision.FLOAT32, "cuda")


def test_instruction_sets_have_names() -> None:
    assert not kernels.choose("quantum")
    assert kernels.chosen() in SETS


@pytest.mark.parametrize("content", [None, b"not a library", b"\x7fELF and no more"])
def test_what_is_no_library_of_this_version_is_none(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "_kernels.so"
    if content is not None:
        file.write_bytes(content)
    assert kernels._load(file) is None


def test_without_a_library_nothing_is_served() -> None:
    with kernels.off():
        assert not kernels.available()
        assert kernels.chosen() == ""
        assert not kernels.serve(1, Precision.FLOAT32, "cpu")
        with pytest.raises(RuntimeError, match="no kernels"):
            kernels.choose(None)
    assert kernels.available()
