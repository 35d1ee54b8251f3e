"""NSGA-II over ZenNAS genomes of at most a million parameters: high T-CET against few parameters.

python examples/pymoo_search.py --generations 20

The server is where $ARCHSCORE_SERVER says, or at localhost:50051.
"""

from __future__ import annotations

import argparse

from pymoo.optimize import minimize

from archscore import Client
from archscore.adapters.pymoo import ArchitectureProblem, nsga2
from archscore.search import Constraints


def main() -> None:
    """Runs the search and prints the front."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--generations", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--population", type=int, default=24, help="architectures of each (default: %(default)s)")
    arguments = parser.parse_args()

    with Client(client_id="pymoo") as client:
        problem = ArchitectureProblem(
            client,
            maximize=["tcet_log"],
            minimize=["parameters"],
            space="zennas",
            constraints=Constraints(max_parameters=1_000_000, max_sub_layers=18),
        )
        found = minimize(problem, nsga2(arguments.population), ("n_gen", arguments.generations), seed=1)
    if found.X is None:
        print("no genome within the constraints: more generations, or a larger population")
        return
    print("tcet_log against parameters:")
    for (negated, parameters), x in sorted(zip(found.F.tolist(), found.X, strict=True), key=lambda row: row[0][1]):
        print(f"{-negated:10.4f} {parameters:12,.0f} {problem.architecture(x).format()}")


if __name__ == "__main__":
    main()
