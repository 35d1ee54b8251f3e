"""Searches for architectures by their scores, against a server or an engine in the same process.

    from archscore import Client
    from archscore.search import Constraints, Elimination, Settings, run_search

    settings = Settings(
        space="zennas",
        proxies=("tcet_log",),
        strategy=Elimination(),
        constraints=Constraints(max_parameters=1_000_000, max_sub_layers=18),
        evaluations=2000,
    )
    with Client("localhost:50051") as client:
        print(run_search(client, settings).best)

`docs/search.md` says what is deterministic about it, and what the command `archscore search` adds.
"""

from archscore.search._constraints import Constraints, Measures
from archscore.search._domain import NothingFoundError
from archscore.search._elimination import Elimination
from archscore.search._evolution import RegularisedEvolution
from archscore.search._history import History, Ranked
from archscore.search._local import LocalSearch
from archscore.search._objective import CELL_OBJECTIVE, DEFAULT_OBJECTIVE, TE_NAS, Objective
from archscore.search._random import RandomSearch
from archscore.search._record import Record
from archscore.search._run import run_search
from archscore.search._scorer import Scorer
from archscore.search._screening import Screening
from archscore.search._settings import Settings, default_constraints, default_proxies, default_strategy
from archscore.search._strategy import Strategy

__all__ = [
    "CELL_OBJECTIVE",
    "DEFAULT_OBJECTIVE",
    "TE_NAS",
    "Constraints",
    "Elimination",
    "History",
    "LocalSearch",
    "Measures",
    "NothingFoundError",
    "Objective",
    "RandomSearch",
    "Ranked",
    "Record",
    "RegularisedEvolution",
    "Scorer",
    "Screening",
    "Settings",
    "Strategy",
    "default_constraints",
    "default_proxies",
    "default_strategy",
    "run_search",
]
