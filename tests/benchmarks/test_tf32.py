"""tf32.py: factors are rounded as TF32 rounds them, all of them, and nothing else is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tf32
from tf32 import Emulated, compare, rounded


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1.0, 1.0),
        (1 + 2**-10, 1 + 2**-10),
        (1 + 2**-11, 1.0),  # a tie, to even
        (1 + 3 * 2**-11, 1 + 2**-9),  # likewise
        (1 + 2**-11 + 2**-20, 1 + 2**-10),
        (-(1 + 2**-11 + 2**-20), -(1 + 2**-10)),
        (2 - 2**-20, 2.0),
        (0.0, 0.0),
        (float("inf"), float("inf")),
    ],
)
def test_factors_have_ten_bits_after_the_point(value: float, expected: float) -> None:
    assert rounded(torch.tensor([value])).item() == expected


def test_what_is_no_number_stays_none() -> None:
    assert rounded(torch.tensor([float("nan")])).isnan().all()


FINE = 1 + 2**-12
"""A float32 that TF32 has not."""


def test_products_and_their_derivatives_see_rounded_factors() -> None:
    images = torch.full((1, 2, 4, 4), FINE, requires_grad=True)
    weights = torch.full((3, 2, 1, 1), FINE, requires_grad=True)
    with Emulated() as emulated:
        out = F.conv2d(images, weights)
        of_images, of_weights = torch.autograd.grad(out, [images, weights], torch.full_like(out, FINE))
        matrix = torch.full((2, 2), FINE)
        product, sum_ = matrix @ matrix, torch.addmm(matrix, matrix, matrix)
    assert emulated.products == 4
    assert (out == 2).all()
    assert (of_images == 3).all()
    assert (of_weights == 16).all()
    assert (product == 2).all()
    assert (sum_ == FINE + 2).all(), "a summand is not rounded"


def test_sums_pools_and_float64_stay_as_they_are() -> None:
    images = torch.full((1, 2, 4, 4), FINE)
    double = torch.full((2, 2), FINE, dtype=torch.float64)
    with Emulated() as emulated:
        assert (images + images == 2 * FINE).all()
        assert (F.conv2d(images, torch.full((2, 1, 1, 1), FINE), groups=2) == torch.tensor(FINE) ** 2).all()
        assert (double @ double == 2 * FINE**2).all()
    assert emulated.products == 1, "of float64, with factors as they were"


def test_how_far_scores_are_apart() -> None:
    found = compare(np.array([1.0, 2.0, 4.0, 0.0]), np.array([1.1, 2.0, 1.0, 0.0]))
    assert found["median"] == pytest.approx(0.05)
    assert found["largest"] == pytest.approx(0.75)
    assert found["tau"] == pytest.approx(1 / 3)


def test_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tf32.json"
    options = ["--cells", "3", "--batch-size", "2", "--proxies", "snip,synflow,parameters", "--json", str(path)]
    assert tf32.main([*options, "--threads", "1"]) == 0
    report = json.loads(path.read_text())
    assert set(report["proxies"]) == {"snip", "synflow"}
    assert 0 < report["proxies"]["snip"]["median"] < 0.1
    assert report["proxies"]["synflow"] == {"median": 0, "largest": 0, "tau": 1, "cells": 3}, "in float64"
    assert "| synflow | 0.0e+00 |" in capsys.readouterr().out
