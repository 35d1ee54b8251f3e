"""archscore: zero-cost scores for untrained neural architectures, asked of a server.

    from archscore import Client

    with Client("localhost:50051") as client:
        evaluation = client.score("index:9930", ["tcet", "ssnr"])
        print(evaluation["tcet"])

`Client` and `AsyncClient` are imported when they are first touched: `import archscore` and `archscore.spaces` need
nothing outside the standard library.
"""

import importlib
from typing import TYPE_CHECKING, Final

from archscore._version import __version__

if TYPE_CHECKING:
    from archscore._results import Evaluation, Outcome, Result, Score
    from archscore.aio import AsyncClient
    from archscore.client import Client
    from archscore.errors import (
        ArchitectureError,
        ArchscoreError,
        AuthenticationError,
        DatasetNotFoundError,
        DeadlineExceededError,
        FieldViolation,
        InvalidRequestError,
        NoValueError,
        QueueFullError,
        UnavailableError,
        UsageError,
    )

__all__ = [
    "ArchitectureError",
    "ArchscoreError",
    "AsyncClient",
    "AuthenticationError",
    "Client",
    "DatasetNotFoundError",
    "DeadlineExceededError",
    "Evaluation",
    "FieldViolation",
    "InvalidRequestError",
    "NoValueError",
    "Outcome",
    "QueueFullError",
    "Result",
    "Score",
    "UnavailableError",
    "UsageError",
    "__version__",
]

_HOMES: Final = {
    "AsyncClient": "archscore.aio",
    "Client": "archscore.client",
    "Evaluation": "archscore._results",
    "Outcome": "archscore._results",
    "Result": "archscore._results",
    "Score": "archscore._results",
}


if not TYPE_CHECKING:  # For type checkers only what is listed above exists.

    def __getattr__(name: str) -> object:
        """Imports an exported name from its module when it is first touched."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES.get(name, "archscore.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """What the module offers, whether it was touched yet or not."""
    return sorted({*globals(), *__all__})
