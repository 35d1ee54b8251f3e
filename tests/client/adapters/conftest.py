"""What tests of adapters share."""

from __future__ import annotations

import pytest

from archscore import ArchitectureError, ArchscoreError, DeadlineExceededError, Outcome
from archscore.spaces import Architecture, nasbench201, zennas
from support.invented import InventedScorer


def convolutions(cell: nasbench201.Cell) -> float:
    return float(sum(operation == "nor_conv_3x3" for operation in cell.operations))


def parameters(architecture: Architecture) -> float:
    network = zennas.NetworkConfig(True) if isinstance(architecture, zennas.Genome) else nasbench201.NetworkConfig()
    return float(architecture.size(network, resolution=32, num_classes=10).parameters)


@pytest.fixture
def scorer() -> InventedScorer:
    """`tcet` counts the 3x3 convolutions of cells, and wishes for deep genomes."""

    def tcet(architecture: Architecture) -> float:
        if isinstance(architecture, zennas.Genome):
            return float(architecture.sub_layers)
        return convolutions(architecture)

    return InventedScorer(tcet=tcet, parameters=parameters)


@pytest.fixture(
    params=[Outcome.DEGENERATE, Outcome.NON_FINITE, ArchitectureError("too large"), DeadlineExceededError("too late")],
    ids=lambda fault: fault if isinstance(fault, Outcome) else type(fault).__name__,
)
def fault(request: pytest.FixtureRequest) -> Outcome | ArchscoreError:
    """Each way in which an architecture can have no scores."""
    return request.param


@pytest.fixture
def faulty(scorer: InventedScorer, fault: Outcome | ArchscoreError) -> InventedScorer:
    """The scorer, with this fault in the cells that have `none` on their first edge."""
    for cell in nasbench201.cells():
        if cell.operations[0] == "none":
            scorer.faults[cell.format()] = fault
    return scorer
