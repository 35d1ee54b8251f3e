import contextlib

import pytest
import torch

from archscore.spaces import nasbench201
from archscore_server.engine import (
    ConfigError,
    EvaluationConfig,
    Precision,
    _numerics,
    evaluate,
    predicted_bytes,
    proxies,
)

CELL = nasbench201.from_index(6111)
CPU = torch.device("cpu")
CUDA = torch.device("cuda")
NETWORK = nasbench201.NetworkConfig(channels=16, cells_per_stage=1)


@pytest.fixture
def capability(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Pretends that there is a GPU."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: request.param)
    monkeypatch.setattr(torch.version, "cuda", "13.0")


@pytest.mark.parametrize(
    ("precision", "wanted"), [(Precision.FLOAT32, "highest"), (Precision.FLOAT64, "highest"), (Precision.TF32, "high")]
)
@pytest.mark.parametrize("before", ["highest", "medium"])
def test_arithmetic_is_that_of_the_precision_and_then_as_before(precision, wanted, before):
    torch.set_float32_matmul_precision(before)
    try:
        with contextlib.suppress(KeyError), _numerics.arithmetic(precision, CUDA):
            assert torch.get_float32_matmul_precision() == wanted
            assert torch.backends.cudnn.allow_tf32 is (precision is Precision.TF32)
            assert torch.backends.cudnn.deterministic
            raise KeyError
        assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (12, 1)], indirect=True)
def test_gpus_from_ampere_on_have_tf32(capability):
    _numerics.check(Precision.TF32, CUDA)


@pytest.mark.parametrize("capability", [(7, 5)], indirect=True)
def test_older_gpus_have_none(capability):
    with pytest.raises(ConfigError, match="no TF32"):
        _numerics.check(Precision.TF32, CUDA)
    _numerics.check(Precision.FLOAT32, CUDA)


def test_a_cpu_has_no_tf32():
    with pytest.raises(ConfigError, match=r"precision: there is no TF32 on this device \(cpu\)") as caught:
        evaluate([CELL], ["parameters"], EvaluationConfig(precision=Precision.TF32))
    assert caught.value.field == "precision"


def test_tensors_in_tf32_are_as_large_as_those_of_float32():
    sizes = [
        predicted_bytes(CELL, proxies.names(), EvaluationConfig(precision=precision), device="cuda")
        for precision in (Precision.TF32, Precision.FLOAT32, Precision.FLOAT64)
    ]
    assert sizes[0] == sizes[1] < sizes[2]


@pytest.mark.gpu
def test_scores_in_tf32_are_others_and_near():
    if not torch.cuda.is_available() or not _numerics.has_tf32(CUDA):
        pytest.skip("needs a GPU with TF32")
    asked = ["snip", "tcet", "naswot", "grad_norm"]
    exact, rounded = (
        evaluate([CELL], asked, EvaluationConfig(precision=precision, network=NETWORK), device="cuda")[0].scores
        for precision in (Precision.FLOAT32, Precision.TF32)
    )
    differences = [abs(rounded[name].value - exact[name].value) / abs(exact[name].value) for name in asked]
    assert 1e-6 < max(differences) < 0.1
