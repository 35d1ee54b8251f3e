"""What each strategy makes of what it is told."""

from __future__ import annotations

import random

import pytest

from archscore.search import Constraints, Elimination, LocalSearch, Objective, RegularisedEvolution
from archscore.search._domain import domain_of
from archscore.spaces import nasbench201, zennas

OBJECTIVE = Objective({"a": True})
CELLS = domain_of("nasbench201", Constraints(), None)
GENOMES = domain_of("zennas", Constraints(), None)


def parents(proposer, number, draws=300):
    rng = random.Random(0)
    return {proposer.propose(number, rng).parent for _ in range(draws)}


def distance(one, other):
    return sum(a != b for a, b in zip(one.operations, other.operations, strict=True))


def test_evolution_draws_its_first_population_at_random(record):
    proposer = RegularisedEvolution(population=3, tournament=2).start(CELLS, OBJECTIVE, 1)
    for number in range(3):
        assert parents(proposer, number) == {None}
        proposer.tell(record(number, a=1.0))
    assert None not in parents(proposer, 3)


def test_evolution_forgets_the_oldest_however_good_it_is(record):
    proposer = RegularisedEvolution(population=3, tournament=2).start(CELLS, OBJECTIVE, 1)
    for index, value in enumerate((9.0, 1.0, 2.0, 3.0)):
        proposer.tell(record(index, a=value))
    assert parents(proposer, 4) == {1, 2, 3}


def test_evolution_mutates_the_best_of_its_tournament(record):
    proposer = RegularisedEvolution(population=10, tournament=200).start(CELLS, OBJECTIVE, 1)
    for index in range(10):
        proposer.tell(record(index, a=float(index % 7)))
    proposal = proposer.propose(10, random.Random(0))
    assert proposal.parent == 6
    assert distance(proposal.architecture, nasbench201.from_index(6)) == 1


def test_elimination_starts_with_single_replacements_of_the_start():
    proposer = Elimination().start(GENOMES, OBJECTIVE, 1)
    rng, twin = random.Random(0), random.Random(0)
    for number in range(5):
        proposal = proposer.propose(number, rng)
        assert proposal.parent is None
        assert proposal.architecture == zennas.START.mutate(twin)


def test_elimination_goes_on_with_two_replacements_of_random_members(record):
    proposer = Elimination().start(GENOMES, OBJECTIVE, 1)
    genome = zennas.START.format()
    for index in range(10):
        proposer.tell(record(index, a=float(index), architecture=genome))
    assert parents(proposer, 10) == {None}
    proposer.tell(record(10, a=0.0, architecture=genome))
    assert parents(proposer, 11) == set(range(11))
    rng, twin = random.Random(1), random.Random(1)
    twin.choice(range(11))
    assert proposer.propose(11, rng).architecture == zennas.START.mutate(twin).mutate(twin)


def test_elimination_drops_the_worst_and_of_equals_the_oldest(record):
    proposer = Elimination(population=12).start(CELLS, OBJECTIVE, 1)
    values = [5.0, 1.0, 2.0, 1.0, *[6.0] * 8, 3.0, None, 4.0]
    for index, value in enumerate(values):
        proposer.tell(record(index, a=value))
    assert parents(proposer, 15, draws=1000) == {0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 14}


@pytest.mark.parametrize("population", [1, 3])
def test_a_small_population_leaves_its_start_as_well(record, population):
    proposer = Elimination(population=population).start(CELLS, OBJECTIVE, 1)
    for index in range(population):
        proposer.tell(record(index, a=1.0))
    assert None not in parents(proposer, population)


def test_local_search_moves_to_what_is_better(record):
    proposer = LocalSearch().start(CELLS, OBJECTIVE, 1)
    assert parents(proposer, 0) == {None}
    for index, value in enumerate((1.0, 0.5, 2.0, 2.0)):
        proposer.tell(record(index, a=value))
    assert parents(proposer, 4) == {2}
    assert distance(proposer.propose(4, random.Random(0)).architecture, nasbench201.from_index(2)) == 1


def test_local_search_starts_afresh_when_nothing_is_better(record):
    proposer = LocalSearch(patience=3).start(CELLS, OBJECTIVE, 1)
    proposer.tell(record(0, a=5.0))
    for index in (1, 2):
        proposer.tell(record(index, parent=0, a=1.0))
    assert parents(proposer, 3) == {0}
    proposer.tell(record(3, parent=0, a=None))
    assert parents(proposer, 4) == {None}
    proposer.tell(record(4, a=0.1))  # far worse than where it was, but another place
    assert parents(proposer, 5) == {4}


def test_local_search_does_not_return_to_what_was_under_way_when_it_gave_up(record):
    proposer = LocalSearch(patience=1).start(CELLS, OBJECTIVE, lag=3)
    for index in range(3):
        proposer.tell(record(index, a=5.0 - index))
    assert parents(proposer, 5) == {0}
    proposer.tell(record(3, parent=0, a=1.0))  # proposed around 0, known by then: it is given up
    for index in (4, 5):
        proposer.tell(record(index, parent=0, a=9.0))
        assert parents(proposer, index + 3) == {None}
    proposer.tell(record(6, a=0.1))
    assert parents(proposer, 9) == {6}


def test_local_search_counts_only_what_was_proposed_around_the_centre(record):
    proposer = LocalSearch(patience=1).start(CELLS, OBJECTIVE, lag=3)
    for index in range(3):
        proposer.tell(record(index, a=5.0 - index))
    assert parents(proposer, 5) == {0}


def test_what_has_no_score_is_no_centre_for_long(record):
    proposer = LocalSearch().start(CELLS, OBJECTIVE, 1)
    proposer.tell(record(0, a=None))
    proposer.tell(record(1, parent=0, a=-5.0))
    assert parents(proposer, 2) == {1}
