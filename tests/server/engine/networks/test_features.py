"""Dealing features to consumers and collecting them again."""

import pytest
import torch

from archscore_server.engine.networks._features import Units, collect, deal

CPU = torch.device("cpu")
CHANNELS = 2

#: How three consumers may share four units: overlapping ranges, gathers, everything, disjoint.
SHARES = [
    [(0, 1, 2, 3)],
    [(0, 1, 2, 3), (0, 1, 2, 3)],
    [(0, 1, 2, 3), (1,), (3, 0)],
    [(0, 1), (2, 3)],
    [(2, 0), (1, 3)],
    [(0,), (0, 1), (1, 3)],
]


def features(units: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(units)
    drawn = torch.randn(3, units * CHANNELS, 2, 2, generator=generator, dtype=torch.float64)
    return drawn.contiguous(memory_format=torch.channels_last).requires_grad_()


def channels_of(numbers: tuple[int, ...]) -> list[int]:
    return [number * CHANNELS + channel for number in numbers for channel in range(CHANNELS)]


@pytest.mark.parametrize("shares", SHARES)
def test_each_consumer_gets_its_units(shares: list[tuple[int, ...]]) -> None:
    x = features(4)
    dealt = deal(x, [Units(4, numbers, CPU) for numbers in shares])
    for part, numbers in zip(dealt, shares, strict=True):
        torch.testing.assert_close(part, x[:, channels_of(numbers)], rtol=0, atol=0)


@pytest.mark.parametrize("shares", SHARES)
def test_parts_are_added_where_they_belong(shares: list[tuple[int, ...]]) -> None:
    parts = [features(len(numbers)) for numbers in shares]
    expected = torch.zeros(3, 4 * CHANNELS, 2, 2, dtype=torch.float64)
    for part, numbers in zip(parts, shares, strict=True):
        expected[:, channels_of(numbers)] += part.detach()
    total = collect(parts, [Units(4, numbers, CPU) for numbers in shares])
    torch.testing.assert_close(total.detach(), expected)
    assert total.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shares", SHARES)
def test_both_differentiate_twice(shares: list[tuple[int, ...]]) -> None:
    units = [Units(4, numbers, CPU) for numbers in shares]

    def round_trip(x: torch.Tensor) -> torch.Tensor:
        return collect([part**2 for part in deal(x**2, units)], units)

    x = features(4)
    assert torch.autograd.gradcheck(round_trip, x)
    assert torch.autograd.gradgradcheck(round_trip, x)


def test_a_part_that_nobody_reads_has_no_gradient() -> None:
    x = features(3)
    first, _ = deal(x, [Units(3, (0, 2), CPU), Units(3, (1,), CPU)])
    (gradient,) = torch.autograd.grad(first.sum(), x)
    assert gradient[:, channels_of((0, 2))].eq(1).all()
    assert gradient[:, channels_of((1,))].eq(0).all()
