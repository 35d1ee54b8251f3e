"""Gram matrices of activation codes and their log-determinants."""

import numpy as np
import pytest
import torch

from archscore_server.engine.codes import _in_float16, certain_logdet, codes, gram, overlaps, settled


def naive_gram(features: torch.Tensor) -> np.ndarray:
    """K from its definition, one pair of samples at a time; features [N, n]."""
    codes = (features > 0).double().numpy()
    return np.array([[(a == b).sum() for b in codes] for a in codes])


@pytest.mark.parametrize("units", [1, 3])
@pytest.mark.parametrize(("batch", "channels", "side"), [(2, 1, 1), (5, 3, 4), (64, 16, 8), (3, 50, 13)])
def test_gram_counts_agreeing_entries(units: int, batch: int, channels: int, side: int) -> None:
    torch.manual_seed(0)
    features = torch.randn(batch, units * channels, side, side).contiguous(memory_format=torch.channels_last)
    size = channels * side * side
    k = gram(overlaps(codes(features, units)), torch.full((units,), size))
    for unit, own in enumerate(features.split(channels, dim=1)):
        np.testing.assert_array_equal(k[unit].numpy(), naive_gram(own.flatten(1)))


def test_entries_of_zero_count_as_not_positive() -> None:
    features = torch.zeros(2, 4, 2, 2).contiguous(memory_format=torch.channels_last)
    features[0, 0, 0, 0] = -0.0
    assert overlaps(codes(features, 1)).tolist() == [[[0, 0], [0, 0]]]


def random_gram(rng: np.random.Generator, batch: int, size: int, share: float) -> np.ndarray:
    """A Gram matrix of codes that agree with a common code in a share of their entries."""
    common = rng.random(size) < 0.5
    own = rng.random((batch, size)) < 0.5
    codes = np.where(rng.random((batch, size)) < share, common, own).astype(float)
    return codes @ codes.T + (1 - codes) @ (1 - codes.T)


def rule(k: np.ndarray) -> float:
    """The definition: log det from the eigenvalues, NaN where the smallest is within rounding of 0."""
    values = np.linalg.eigvalsh(k)
    singular = values[0] <= 16 * len(k) * 2.2e-16 * values[-1]
    return float("nan") if singular else float(np.log(values).sum())


def logdet(ks: np.ndarray) -> np.ndarray:
    """First those that are certain, then the others."""
    matrices = torch.from_numpy(ks)
    return settled(certain_logdet(matrices).numpy(), matrices.__getitem__, ks.shape[-1], matrices.device)


def test_logdet_follows_the_rank_rule() -> None:
    rng = np.random.default_rng(0)
    ks = [random_gram(rng, 16, size, share) for size in (8, 14, 15, 16, 17, 40, 4000) for share in (0, 0.5, 0.9, 1)]
    ks.append(np.full((16, 16), 7.0))
    expected = np.array([rule(k) for k in ks])
    assert np.isnan(expected).any()
    assert np.isfinite(expected).any()
    np.testing.assert_allclose(logdet(np.stack(ks)), expected, rtol=1e-12)


@pytest.mark.parametrize("smallest", [1e-16, 1e-14, 3e-13, 1e-12, 1e-10, 1e-6])
def test_logdet_near_the_threshold_decides_as_the_eigenvalues_do(smallest: float) -> None:
    rng = np.random.default_rng(1)
    basis = np.linalg.qr(rng.standard_normal((64, 64)))[0]
    values = np.concatenate([[smallest], rng.uniform(0.1, 1, 62), [1.0]])
    k = (basis * values) @ basis.T
    k = (k + k.T) / 2
    np.testing.assert_allclose(logdet(k[None]), [rule(k)], rtol=1e-4)


def test_a_matrix_does_not_change_its_neighbours() -> None:
    rng = np.random.default_rng(2)
    regular, singular = random_gram(rng, 8, 100, 0), np.full((8, 8), 3.0)
    alone = logdet(regular[None])
    beside = logdet(np.stack([singular, regular, singular]))
    assert beside[1] == alone[0]
    assert np.isnan(beside[[0, 2]]).all()


def test_however_many_take_their_eigenvalues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archscore_server.engine.codes._AGAIN", 64 * 8**2 + 1)  # 64 at a time
    rng = np.random.default_rng(3)
    nearly = np.diag([*[1.0] * 7, 1e-12])
    for count in (1, 63, 64, 65, 200):
        ks = np.stack([nearly * scale for scale in rng.uniform(1, 2, count)])
        found = certain_logdet(torch.from_numpy(ks))
        assert found.isinf().all()
        np.testing.assert_allclose(logdet(ks), [rule(k) for k in ks], rtol=1e-9)


def test_rectified_features_have_the_codes_of_what_they_were() -> None:
    torch.manual_seed(0)
    features = torch.randn(5, 6, 4, 4).contiguous(memory_format=torch.channels_last)
    assert torch.equal(codes(torch.relu(features), 2, rectified=True), codes(features, 2))


@pytest.mark.parametrize("size", [1, 7, 2047, 2048, 2049, 4096, 6000, 16384, 70000])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_products__in_float16_are_exact(size: int, share: float) -> None:
    own = (torch.rand(2, 5, size, generator=torch.Generator().manual_seed(size)) < share).to(torch.int8)
    expected = own.double() @ own.double().mT
    found = _in_float16(own)
    assert found.dtype is torch.float32
    assert torch.equal(found.double(), expected)
    assert torch.equal(overlaps(own).double(), expected)
