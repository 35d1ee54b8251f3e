"""An Optuna study over NAS-Bench-201: the cell with the highest T-CET, and one that trades it against parameters.

python examples/optuna_search.py --trials 100

The server is where $ARCHSCORE_SERVER says, or at localhost:50051.
"""

from __future__ import annotations

import argparse

import optuna

from archscore import Client
from archscore.adapters.optuna import optimize


def main() -> None:
    """Runs two studies and prints what they found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trials", type=int, default=100, help="architectures of each study (default: %(default)s)")
    trials = parser.parse_args().trials
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    with Client(client_id="optuna") as client:
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=1))
        optimize(study, client, "tcet", trials=trials)
        best = study.best_trial
        print(f"highest tcet: {best.value:.6g} by {best.user_attrs['architecture']}, trial {best.number}")

        sampler = optuna.samplers.NSGAIISampler(seed=1, population_size=16)
        both = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        optimize(both, client, ["tcet", "parameters"], trials=trials)
        print("tcet against parameters:")
        for trial in sorted(both.best_trials, key=lambda trial: trial.values[1]):
            print(f"{trial.values[0]:14.6g} {trial.values[1]:12,.0f} {trial.user_attrs['architecture']}")


if __name__ == "__main__":
    main()
