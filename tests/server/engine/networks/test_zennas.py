"""Genomes as stacks: what shares a stack does not matter."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from archscore.spaces import nasbench201, zennas
from archscore_server.engine import Evaluation, EvaluationConfig, Outcome, Precision, evaluate
from archscore_server.engine import proxies as registry
from archscore_server.engine.networks import build

GENOME = zennas.parse(
    "SuperConvK3BNRELU(3,8,1,1)SuperResK1K5K1(8,16,2,8,1)SuperResIDWE2K3(16,16,1,16,1)SuperResK3K3(16,24,2,8,2)"
)
OTHER = zennas.parse("SuperResK3K3(3,8,2,8,1)SuperConvK1BNRELU(8,16,1,1)")


def config(*, links: bool = False, repeats: int = 3, precision: Precision = Precision.FLOAT64) -> EvaluationConfig:
    return EvaluationConfig(
        batch_size=16,
        resolution=16,
        seed=5,
        repeats=repeats,
        precision=precision,
        network=zennas.NetworkConfig(residual_links=links),
    )


def values(evaluations: list[Evaluation]) -> Iterator[tuple[str, float | None, float | None]]:
    for evaluation in evaluations:
        for name, score in evaluation.scores.items():
            yield name, score.value, score.standard_error


@pytest.mark.parametrize("links", [False, True])
def test_repeats_agree_in_one_stack_and_one_by_one(links: bool) -> None:
    own = config(links=links)
    one_by_one = values(evaluate([GENOME, OTHER], registry.names(), own, stack_size=1))
    stacked = values(evaluate([GENOME, OTHER], registry.names(), own, stack_size=3))
    for (name, value, error), (_, expected, expected_error) in zip(stacked, one_by_one, strict=True):
        assert value is not None, name
        assert value == pytest.approx(expected, rel=1e-9), name
        assert error == pytest.approx(expected_error, rel=1e-5, abs=1e-7 * abs(value)), name


def test_layers_are_those_of_the_description() -> None:
    for links in (False, True):
        own = config(links=links)
        stack = build([GENOME], [0], own, torch.device("cpu"))
        description = GENOME.describe(own.network, resolution=own.resolution, num_classes=own.num_classes)
        assert tuple(stack.layers[0]) == description.layers
        assert stack.present.all()
        weights = stack.weights(torch.float32)
        assert sum(leaf.numel() for leaf in weights.leaves.values()) == sum(
            layer.weights for layer in description.layers
        )


def test_links_change_the_network() -> None:
    scored, linked = (
        evaluate([GENOME], ["zen", "parameters"], config(links=links, repeats=1))[0].scores for links in (False, True)
    )
    assert scored["zen"].value != linked["zen"].value
    assert (scored["parameters"].value or 0) < (linked["parameters"].value or 0)


def test_a_config_of_the_other_space_is_refused() -> None:
    with pytest.raises(TypeError, match="another search space"):
        build([GENOME], [0], EvaluationConfig(), torch.device("cpu"))
    with pytest.raises(TypeError, match="another search space"):
        build([nasbench201.from_index(6111)], [0], config(), torch.device("cpu"))


def test_a_map_of_one_pixel_is_scored() -> None:
    narrow = zennas.parse("SuperConvK1BNRELU(3,8,16,1)")
    [evaluation] = evaluate([narrow], registry.names(), config(repeats=1))
    outcomes = {score.outcome for score in evaluation.scores.values()}
    assert outcomes <= {Outcome.OK, Outcome.NON_FINITE}
    assert np.isfinite([score.value for score in evaluation.scores.values() if score.value is not None]).all()
