"""One network by the kernels for CPUs scores what it scores by torch's operations."""

import dataclasses
import random

import pytest

from archscore.spaces import Architecture, nasbench201, zennas
from archscore_server.engine import EvaluationConfig, Outcome, evaluate, kernels
from archscore_server.engine import proxies as registry
from archscore_server.engine.config import NetworkConfig
from golden_cases import tolerance

pytestmark = pytest.mark.skipif(not kernels.available(), reason="the kernels were not built: no C compiler")

_RNG = random.Random(3)
CELLS = [
    *(nasbench201.sample(_RNG) for _ in range(6)),
    # a node that nothing feeds, one that nobody reads, and nothing to normalise
    nasbench201.Cell(("none", "nor_conv_3x3", "nor_conv_3x3", "skip_connect", "avg_pool_3x3", "nor_conv_1x1")),
    nasbench201.Cell(("nor_conv_3x3", "none", "nor_conv_1x1", "avg_pool_3x3", "avg_pool_3x3", "none")),
    nasbench201.Cell(("avg_pool_3x3", "avg_pool_3x3", "skip_connect", "skip_connect", "avg_pool_3x3", "skip_connect")),
]
GENOMES = [
    zennas.START,
    zennas.parse("SuperConvK3BNRELU(3,16,1,1)SuperResK1K5K1(16,32,2,16,1)SuperResIDWE2K3(32,16,1,16,1)"),
    zennas.parse("SuperConvK1BNRELU(3,5,2,2)SuperResK3K3(5,7,4,3,2)SuperConvK3BNRELU(7,32,2,2)"),
]
CASES: list[tuple[str, list[Architecture], NetworkConfig]] = [
    ("cells", list(CELLS), nasbench201.NetworkConfig(channels=8, cells_per_stage=2)),
    ("no links", list(GENOMES), zennas.NetworkConfig()),
    ("links", list(GENOMES), zennas.NetworkConfig(residual_links=True)),
]


@pytest.mark.parametrize("together", [True, False], ids=["all at once", "one by one"])
@pytest.mark.parametrize(("name", "architectures", "network"), CASES, ids=[case[0] for case in CASES])
def test_scores_are_those_of_torch(
    name: str, architectures: list[Architecture], network: NetworkConfig, together: bool
) -> None:
    config = EvaluationConfig(batch_size=9, resolution=16, network=network)
    names = registry.names()
    sets = [names] if together else [[one] for one in ("tcet", "naswot", "fisher", "zen", "zico", "jacob_cov")]
    found = [evaluate(architectures, own, config) for own in sets]
    with kernels.off():
        expected = [evaluate(architectures, own, config) for own in sets]
    for ours, theirs in zip(found, expected, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            for proxy, score in other.scores.items():
                own = one.scores[proxy]
                assert own.outcome is score.outcome, proxy
                if score.outcome is Outcome.OK:
                    assert own.value == pytest.approx(score.value, rel=tolerance(proxy, "float32")), proxy


def test_repeats_are_single_networks_too() -> None:
    config = EvaluationConfig(batch_size=8, resolution=16, repeats=3, network=zennas.NetworkConfig())
    [alone] = evaluate([zennas.START], ["ssnr", "naswot"], config, stack_size=1)
    [stacked] = evaluate([zennas.START], ["ssnr", "naswot"], config, stack_size=3)
    for proxy, score in alone.scores.items():
        assert dataclasses.astuple(score)[1:] == pytest.approx(dataclasses.astuple(stacked.scores[proxy])[1:], rel=1e-2)
