"""The engine in this process, behind the interface of the client.

    from archscore.search import Settings, run_search
    from archscore_server.scorer import EngineScorer

    run_search(EngineScorer(), Settings(space="nasbench201", evaluations=100))

What is asked, what comes back and what is refused are the same as with `archscore.Client`: the same messages are
checked by the same code as in a server. There are no workers and no store: everything is computed when it is asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from google.rpc import status_pb2

from archscore import Result
from archscore._many import DEFAULT_CHUNK_SIZE, DEFAULT_MAX_IN_FLIGHT
from archscore._requests import Architecture, Config, architecture_fields, config_message, proxy_names, text
from archscore._results import Evaluation
from archscore._status import from_status
from archscore._version import __version__
from archscore.errors import ArchitectureError, UsageError
from archscore.spaces import Architecture as Parsed
from archscore.v1 import scoring_pb2
from archscore_server import errors, responses
from archscore_server.admission import admit
from archscore_server.config import Limits
from archscore_server.datasets import Catalogue
from archscore_server.engine import ArchitectureTooLargeError, DatasetError, Datasets, EvaluationConfig, evaluate_stacks
from archscore_server.engine import proxies as registry
from archscore_server.engine.data import minibatch_sha256
from archscore_server.errors import RequestError
from archscore_server.requests import ScoringRequest, ScoringRequests

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Item:
    """An architecture that is to be evaluated."""

    position: int
    architecture: Architecture
    parsed: Parsed


class EngineScorer:
    """Scores architectures in this process; an `archscore.search.Scorer`."""

    def __init__(self, *, device: str = "cpu", data_dir: Path | None = None) -> None:
        """Looks at the datasets.

        Args:
            device: where to compute, such as "cpu" or "cuda".
            data_dir: directory with the real datasets; None for none.
        """
        self._device = device
        self._data = Datasets(data_dir)
        self._limits = Limits()
        catalogue = Catalogue(self._data)
        with ThreadPoolExecutor(1) as thread:  # since an event loop may be running in this one
            thread.submit(asyncio.run, catalogue.scan()).result()
        self._requests = ScoringRequests(self._limits, catalogue)
        self._minibatches: dict[EvaluationConfig, str] = {}

    def proxies(self) -> list[scoring_pb2.Proxy]:
        """The proxies that the engine computes, by name."""
        return [responses.proxy_message(registry.get(name)) for name in registry.names()]

    def score_many(
        self,
        architectures: Iterable[Architecture],
        proxies: str | Iterable[str],
        *,
        space: str | None = None,
        config: Config | None = None,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        ordered: bool = True,
    ) -> Generator[Result, None, None]:
        """Scores architectures; see `archscore.Client.score_many`.

        `chunk_size * max_in_flight` architectures are evaluated together, in stacks that suit the device.

        Raises:
            ArchscoreError: the request as a whole is at fault.
        """
        if isinstance(architectures, str):
            raise UsageError("architectures is a string: score_many takes an iterable of architectures")
        if chunk_size < 1 or max_in_flight < 1:
            raise UsageError("chunk_size and max_in_flight must be at least 1")
        template = scoring_pb2.ScoreArchitecturesRequest(proxies=proxy_names(proxies), config=config_message(config))
        if space is not None:
            text("space", space)
        return self._results(enumerate(architectures), template, space, chunk_size * max_in_flight, ordered=ordered)

    def _results(
        self,
        architectures: Iterator[tuple[int, Architecture]],
        template: scoring_pb2.ScoreArchitecturesRequest,
        space: str | None,
        window: int,
        *,
        ordered: bool,
    ) -> Generator[Result, None, None]:
        while taken := list(itertools.islice(architectures, window)):
            results = self._window(taken, template, space)
            yield from _in_order(results, taken[0][0]) if ordered else results

    def _window(
        self,
        taken: Sequence[tuple[int, Architecture]],
        template: scoring_pb2.ScoreArchitecturesRequest,
        space: str | None,
    ) -> Iterator[Result]:
        """The results of architectures, as they are ready."""
        readable: list[tuple[int, Architecture, str, str]] = []
        for position, architecture in taken:
            try:
                readable.append((position, architecture, *architecture_fields(architecture, space, position)))
            except ArchitectureError as error:
                yield Result(position, architecture, None, error)
        for name, group in itertools.groupby(readable, key=lambda entry: entry[2]):
            request, fingerprint = self._check(template, name)
            items: list[_Item] = []
            for position, architecture, _, encoding in group:
                field = f"architectures[{position}].encoding"
                admitted = admit(request.space, encoding, field, request.config, self._limits)
                if isinstance(admitted, status_pb2.Status):
                    yield Result(position, architecture, None, from_status(admitted, of_item=True))
                else:
                    items.append(_Item(position, architecture, admitted))
            yield from self._evaluate(items, request, fingerprint)

    def _check(
        self, template: scoring_pb2.ScoreArchitecturesRequest, space: str
    ) -> tuple[ScoringRequest, scoring_pb2.Fingerprint]:
        """The request for architectures of a search space, and what its scores depend on.

        Raises:
            ArchscoreError: it is refused.
        """
        message = scoring_pb2.ScoreArchitecturesRequest(architectures=[scoring_pb2.Architecture(space=space)])
        message.MergeFrom(template)
        try:
            request = self._requests.check(message)
        except RequestError as error:
            raise from_status(error.status) from None
        return request, self._fingerprint(request)

    def _fingerprint(self, request: ScoringRequest) -> scoring_pb2.Fingerprint:
        import torch

        minibatch = self._minibatches.get(request.config)
        if minibatch is None:
            minibatch = self._minibatches[request.config] = minibatch_sha256(request.config, self._data)
        return scoring_pb2.Fingerprint(
            config=responses.config_message(request.config, request.space),
            proxy_versions={name: registry.get(name).version for name in request.proxies},
            minibatch_sha256=minibatch,
            torch_version=torch.__version__,
            archscore_version=__version__,
            device_kind=torch.device(self._device).type,
        )

    def _evaluate(
        self, items: Sequence[_Item], request: ScoringRequest, fingerprint: scoring_pb2.Fingerprint
    ) -> Iterator[Result]:
        """The results of architectures of one search space. One that breaks the engine fails alone."""
        left = dict(enumerate(items))
        try:
            yield from self._evaluate_stacks(left, request, fingerprint)
        except DatasetError as error:
            raise from_status(errors.dataset_unusable(error.name, error.reason).status) from error
        except Exception as error:
            self._check_device()
            if len(items) == 1:
                _logger.exception("%s cannot be evaluated", items[0].parsed.format())
                yield _failed(items[0], errors.architecture_failed(f"the engine failed: {error!r}"))
                return
            for item in list(left.values()):
                yield from self._evaluate([item], request, fingerprint)

    def _evaluate_stacks(
        self, left: dict[int, _Item], request: ScoringRequest, fingerprint: scoring_pb2.Fingerprint
    ) -> Iterator[Result]:
        """Evaluates what is left, and takes out of it what is answered."""
        items = list(left.values())
        stacks = evaluate_stacks(
            [item.parsed for item in items],
            request.proxies,
            request.config,
            data=self._data,
            device=self._device,
        )
        for stack in stacks:
            for place, found in stack:
                item = left.pop(place)
                if isinstance(found, ArchitectureTooLargeError):
                    yield _failed(item, errors.architecture_too_large("max_bytes", found.needed, found.available))
                    continue
                message = scoring_pb2.Evaluation()
                responses.write_evaluation(message, found.scores, request.proxies, fingerprint, frozenset())
                yield Result(item.position, item.architecture, Evaluation(message), None)

    def _check_device(self) -> None:
        """Raises if the device is broken, so that nothing can be evaluated any more."""
        import torch

        if torch.device(self._device).type == "cuda":
            torch.cuda.synchronize(self._device)


def _failed(item: _Item, status: status_pb2.Status) -> Result:
    return Result(item.position, item.architecture, None, from_status(status, of_item=True))


def _in_order(results: Iterator[Result], first: int) -> Iterator[Result]:
    """Results by position, each as soon as all before it are there."""
    early: dict[int, Result] = {}
    for result in results:
        early[result.index] = result
        while (ready := early.pop(first, None)) is not None:
            yield ready
            first += 1
