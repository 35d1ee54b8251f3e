"""Convolutions whose gradients oneDNN computes past the end of its memory."""

import subprocess
import sys

import pytest

GENOMES = [
    "SuperConvK1BNRELU(3,8,2,1)",
    "SuperConvK1BNRELU(3,7,4,2)SuperConvK1BNRELU(7,5,2,1)",
    "SuperConvK3BNRELU(3,12,1,1)SuperConvK1BNRELU(12,9,2,1)SuperConvK3BNRELU(9,8,1,1)",
    "SuperConvK1BNRELU(3,34,2,1)SuperConvK5BNRELU(34,34,1,2)SuperConvK7BNRELU(34,8,1,1)",
]

SCRIPT = """
import sys
from archscore.spaces import zennas
from archscore_server.engine import EvaluationConfig, Precision, evaluate, proxies

compared = ["tcet", "snip", "grad_norm", "synflow"]
for genome in sys.argv[2:]:
    for seed in range(3):
        single, double = (
            evaluate(
                [zennas.parse(genome)],
                names,
                EvaluationConfig(
                    batch_size=16, seed=seed, precision=precision, network=zennas.NetworkConfig(sys.argv[1] == "links")
                ),
            )[0].scores
            for precision, names in ((Precision.FLOAT32, proxies.names()), (Precision.FLOAT64, compared))
        )
        for name in compared:
            assert abs(single[name].value / double[name].value - 1) < 1e-3, (genome, name, single[name], double[name])
"""


@pytest.mark.parametrize("links", ["links", "no links"])
def test_gradients_of_strided_1x1_convolutions_are_right_and_the_process_lives(links: str) -> None:
    """In a process of its own, which a fault of oneDNN would end; double precision does without oneDNN."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, links, *GENOMES], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
