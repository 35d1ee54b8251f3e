"""Cells scored by a server."""

from __future__ import annotations

import datetime
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Final

from google.protobuf import json_format

from archscore._version import __version__
from archscore.client import Client
from archscore.errors import ArchscoreError, UsageError
from archscore.spaces.nasbench201 import Cell, from_index
from archscore.study._rows import Failure, ProxyInfo, Row, Setting
from archscore.v1 import scoring_pb2

_LOWER: Final = scoring_pb2.DIRECTION_LOWER_IS_BETTER

#: What a worker has waiting: enough that it is never idle, and not so much that chunks of cells that take seconds each,
#: which all proxies together do, are late.
_CHUNKS: Final = 2
_CELLS_ON_CPU: Final = 4
_CELLS_ON_GPU: Final = 32


class ServerSource:
    """Asks a server. What its passes take is not known here, so that rows have no seconds."""

    def __init__(
        self, client: Client, *, proxies: Sequence[str] | None, config: Mapping[str, Any] | None, seed: int
    ) -> None:
        """Asks the server what it can do.

        Args:
            client: of the server.
            proxies: names; None takes all that the server has.
            config: an EvaluationConfig in the proto3 JSON mapping; None takes the defaults.
            seed: of the order of the cells.

        Raises:
            UsageError: the server does not know a proxy.
            ArchscoreError: it cannot be reached, or refuses the config.
        """
        known = {proxy.name: proxy for proxy in client.proxies()}
        unknown = sorted(set(proxies or ()) - known.keys())
        if unknown:
            raise UsageError(f"unknown proxies: {', '.join(unknown)}; the server knows {', '.join(known)}")
        self._client = client
        self._config = client.describe(from_index(0), config=config).config
        info = client.server_info()
        cuda = any(device.kind == "cuda" for device in info.devices)
        self._chunk_size = _CELLS_ON_GPU if cuda else _CELLS_ON_CPU
        self._max_in_flight = _CHUNKS * max(1, sum(device.workers for device in info.devices))
        self.run = {
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "archscore": info.archscore_version,
            "client": __version__,
            "torch": info.torch_version,
            "device": ", ".join(dict.fromkeys(f"{device.kind} ({device.name})" for device in info.devices)),
        }
        self.setting = Setting(
            seed,
            json_format.MessageToDict(self._config),
            {
                name: ProxyInfo(known[name].version, known[name].direction != _LOWER, tuple(known[name].passes))
                for name in sorted(proxies or known)
            },
        )

    def score(self, cells: Sequence[Cell]) -> Generator[Row | Failure, None, None]:
        """Scores cells; they come as they are ready.

        Raises:
            ArchscoreError: the server cannot be reached or refuses; or it is another one by now, with other proxies.
        """
        results = self._client.score_many(
            cells,
            self.setting.proxies,
            config=self._config,
            priority="bulk",
            chunk_size=self._chunk_size,
            max_in_flight=self._max_in_flight,
            ordered=False,
        )
        for result in results:
            index = cells[result.index].index
            if result.evaluation is None:
                yield Failure(index, str(result.error))
                continue
            self._check(result.evaluation.fingerprint)
            scores = result.evaluation.scores
            yield Row(
                index,
                {name: own.outcome.value if own.value is None else own.value for name, own in scores.items()},
                {},
            )

    def _check(self, fingerprint: scoring_pb2.Fingerprint) -> None:
        versions = {name: info.version for name, info in self.setting.proxies.items()}
        if fingerprint.config != self._config or dict(fingerprint.proxy_versions) != versions:
            raise ArchscoreError("the server's config or proxies changed while it was asked")
