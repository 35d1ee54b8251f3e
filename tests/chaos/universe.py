"""What may be asked in a chaos run, and the right answers, as a quiet server gives them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from google.rpc import code_pb2

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from chaos.answers import Answer, Fault, Score, result

#: Proxies that are asked, those of `faults` aside.
PROXIES: Final = ("grad_norm", "l2_norm", "naswot", "parameters", "snip", "ssnr", "synflow", "tcet")

#: Architectures in a request at most: small, so that too many are quickly sent.
MAX_ARCHITECTURES: Final = 64

FAILED: Final = Fault(code_pb2.INTERNAL, "ARCHITECTURE_FAILED")

_SEEDS: Final = 3


@dataclass(frozen=True)
class Point:
    """An architecture under a config."""

    cell: nasbench201.Cell
    seed: int

    @property
    def is_poison(self) -> bool:
        """Whether `fault_poison` kills the worker that evaluates it."""
        return self.cell.connected and not any("conv" in operation for operation in self.cell.operations)


class Universe:
    """Points and their answers.

    Attributes:
        points: all of them.
    """

    def __init__(self, cells: int, rng: random.Random) -> None:
        """Draws cells; nothing is known of their scores yet."""
        drawn = [nasbench201.from_index(index) for index in rng.sample(range(nasbench201.NUM_CELLS), cells)]
        self.points = [Point(cell, seed) for seed in range(_SEEDS) for cell in drawn]
        self._answers: dict[Point, Mapping[str, Score]] = {}

    def learn(self, answers: Mapping[Point, Mapping[str, Score]]) -> None:
        """Takes right answers, by proxy."""
        self._answers.update(answers)

    def ask(self, address: str) -> None:
        """Learns all answers from a server that nobody disturbs."""
        with grpc.insecure_channel(address) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            for seed, points in itertools.groupby(self.points, lambda point: point.seed):
                remaining = list(points)
                while remaining:
                    chunk, remaining = remaining[:MAX_ARCHITECTURES], remaining[MAX_ARCHITECTURES:]
                    request = scoring_pb2.ScoreArchitecturesRequest(
                        architectures=[architecture(point) for point in chunk], proxies=PROXIES, config=config(seed)
                    )
                    for response in stub.ScoreArchitectures(request, timeout=600):
                        for message in response.results:
                            answer = result(message)
                            assert not isinstance(answer, Fault), f"{chunk[message.index]} in a quiet run: {answer}"
                            self.learn({chunk[message.index]: answer})
        assert len(self._answers) == len(self.points)

    def answer(self, point: Point, proxies: Sequence[str]) -> Answer:
        """The right answer."""
        harmless = "fault_raise" not in proxies and not (point.is_poison and "fault_poison" in proxies)
        if not harmless and point.cell.connected:
            return FAILED
        known = self._answers[point]
        return {name: known["l2_norm" if name.startswith("fault_") else name] for name in proxies}


def architecture(point: Point) -> scoring_pb2.Architecture:
    """The architecture as it is sent."""
    return scoring_pb2.Architecture(space="nasbench201", encoding=point.cell.format())


def config(seed: int) -> scoring_pb2.EvaluationConfig:
    """A config under which an evaluation takes moments."""
    return scoring_pb2.EvaluationConfig(
        batch_size=8,
        resolution=8,
        seed=seed,
        nasbench201=scoring_pb2.NasBench201Config(channels=4, cells_per_stage=1),
    )
