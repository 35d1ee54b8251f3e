"""An evaluator as Archai has them: `send` architectures, then `fetch_all` scores, None for what has none.

python examples/archai_evaluator.py

The server is where $ARCHSCORE_SERVER says, or at localhost:50051. Archai itself is not needed: where it is installed, a
class that derives from `ProxyEvaluator` and `archai.discrete_search.api.model_evaluator.AsyncModelEvaluator`, in this
order and with nothing in it, can be an objective of its searches.
"""

from __future__ import annotations

from dataclasses import dataclass

from archscore import Client
from archscore.adapters.archai import ProxyEvaluator


@dataclass
class Model:
    """What a search handles, as Archai's `ArchaiModel`.

    Attributes:
        archid: names the architecture; here it is an encoding.
    """

    archid: str


def encoding(model: Model) -> str:
    """What the server is asked for."""
    return model.archid


def main() -> None:
    """Scores four cells, of which one is disconnected and one is none."""
    models = [Model(archid) for archid in ("index:6111", "index:81", "index:10", "|no|cell|")]
    with Client(client_id="archai") as client:
        evaluator = ProxyEvaluator(client, "tcet", encode=encoding)
        for model in models:
            evaluator.send(model)
        for model, score in zip(models, evaluator.fetch_all(), strict=True):
            print(f"{model.archid:12} {'no score' if score is None else f'{score:.6g}'}")


if __name__ == "__main__":
    main()
