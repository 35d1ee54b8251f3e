"""Adapters for libraries that search: each a module of its own, which needs its library installed.

- `archscore.adapters.optuna`: studies whose trials are scored in batches (`pip install 'archscore[optuna]'`).
- `archscore.adapters.pymoo`: a problem whose population is scored at once (`pip install 'archscore[pymoo]'`).
- `archscore.adapters.archai`: an evaluator with `send` and `fetch_all`; needs nothing more.

They ask an `archscore.search.Scorer`, such as `archscore.Client`. docs/adapters.md has an example of each.
"""
