"""What can be said of a request without a worker: known answers, refusals, and scores out of the store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from google.rpc import status_pb2

from archscore.spaces import Architecture
from archscore_server.admission import admit
from archscore_server.budget import Budget
from archscore_server.config import Limits
from archscore_server.engine import evaluate_without_device
from archscore_server.engine import proxies as registry
from archscore_server.engine.static import static_scores
from archscore_server.library import Library
from archscore_server.metrics import Metrics
from archscore_server.pool import Pool
from archscore_server.progress import Pending, Progress
from archscore_server.recent import ByEncoding, Recent
from archscore_server.requests import Encodings, ScoringRequest
from archscore_server.results import Numbered, Result, evaluated, not_admitted
from archscore_server.scheduler import Item
from archscore_server.slices import Slices

#: Known answers that are looked up between two looks at the clock: each takes no longer than a look.
_STRIDE = 32


class Preparation:
    """Answers what needs no worker, and says what is to be evaluated. In slices, for which clients take turns."""

    def __init__(self, library: Library, metrics: Metrics, limits: Limits, pool: Pool, slices: Slices) -> None:
        """Takes what it answers from.

        Args:
            library: scores that are stored.
            metrics: counts answers that were known.
            limits: what is let in.
            pool: the workers, whose memory limits what is let in.
            slices: shares out the event loop.
        """
        self._library = library
        self._metrics = metrics
        self._limits = limits
        self._budget = Budget(limits, pool)
        self._slices = slices
        self._admitted: Recent[Architecture] = Recent()

    async def prepare(
        self,
        progress: Progress,
        request: ScoringRequest,
        part: range,
        encodings: Encodings,
        field_of: Callable[[int], str],
        client: str,
        answers: ByEncoding[Result],
    ) -> list[Pending]:
        """Answers what needs no worker of a part of a request; returns the rest.

        Args:
            progress: takes the answers.
            request: what the architectures have in common.
            part: consecutive positions in the request.
            encodings: all architectures of the request.
            field_of: path of the field that holds the i-th encoding, for errors.
            client: who asks; clients take turns.
            answers: those that are known already, out of the store.

        Raises:
            RequestError: the dataset can no longer be used.
        """
        left = await self._repeat(progress, request, part, encodings.part(part), client, answers)
        candidates = await self._read(progress, request, left, client, field_of)
        return await self._look_up(progress, request, client, candidates)

    async def _repeat(
        self,
        progress: Progress,
        request: ScoringRequest,
        part: range,
        encodings: Sequence[str],
        client: str,
        answers: ByEncoding[Result],
    ) -> list[tuple[int, str]]:
        """Gives the answers that are known; returns the other encodings with their positions."""
        left: list[tuple[int, str]] = []
        repeated: list[Numbered] = []
        for start in range(0, len(encodings), _STRIDE):
            if self._slices.over:
                await self._slices.turn(client)
            some = encodings[start : start + _STRIDE]
            for index, encoding, result in zip(part[start:], some, map(answers.get, some), strict=False):
                if result is None:
                    left.append((index, encoding))
                else:
                    repeated.append((index, result))
        if repeated:
            progress.finish(*repeated)
            self._metrics.store_hits(len(repeated) * len(_of_device(request)))
        return left

    async def _read(
        self,
        progress: Progress,
        request: ScoringRequest,
        encodings: Sequence[tuple[int, str]],
        client: str,
        field_of: Callable[[int], str],
    ) -> dict[int, Architecture]:
        """Reads encodings; answers those that are not let in or need no device, and returns the rest by position."""
        config = request.config
        # All that admission depends on.
        admitted = self._admitted.under((request.space.name, config.network, config.resolution, config.num_classes))
        candidates: dict[int, Architecture] = {}
        for index, encoding in encodings:
            if self._slices.over:
                await self._slices.turn(client)
            known = admitted.get(encoding)
            if known is not None:
                candidates[index] = known
                continue
            architecture = admit(request.space, encoding, field_of(index), request.config, self._limits)
            if isinstance(architecture, status_pb2.Status):
                progress.finish((index, not_admitted(architecture)))
            elif evaluation := evaluate_without_device(architecture, request.proxies, request.config):
                progress.finish((index, evaluated(evaluation.scores)))
            else:
                candidates[index] = architecture
                admitted.add(encoding, architecture)
        return candidates

    async def _look_up(
        self, progress: Progress, request: ScoringRequest, client: str, candidates: Mapping[int, Architecture]
    ) -> list[Pending]:
        """Answers what the store has, and what takes more work or memory than it may; returns the rest."""
        if not candidates:
            return []
        static = [name for name in request.proxies if registry.get(name).static]
        wanted = tuple(sorted(_of_device(request)))
        pending = []
        await self._slices.turn(client)
        found = await self._library.get(request.config, list(candidates.values()), wanted)
        await self._slices.turn(client)
        for (index, architecture), stored in zip(candidates.items(), found, strict=True):
            if self._slices.over:
                await self._slices.turn(client)
            known = {**static_scores(architecture, static, request.config), **stored} if static else stored
            if len(stored) == len(wanted):
                progress.finish((index, evaluated(known, stored.keys(), lasting=True)))
                continue
            missing = tuple(name for name in wanted if name not in stored) if stored else wanted
            pending.append(Pending(index, Item(architecture, missing, request.config), known, stored.keys()))
        return await self._within_budget(progress, request, pending)

    async def _within_budget(
        self, progress: Progress, request: ScoringRequest, pending: list[Pending]
    ) -> list[Pending]:
        """Answers what takes more work or memory than it may; returns the rest."""
        evaluations = [(one.item.architecture, one.item.proxies) for one in pending]
        refusals = await self._budget.refusals(evaluations, request.config)
        for one, refusal in zip(pending, refusals, strict=True):
            if refusal:
                progress.finish((one.index, not_admitted(refusal)))
        return [one for one, refusal in zip(pending, refusals, strict=True) if refusal is None]


def _of_device(request: ScoringRequest) -> list[str]:
    """The proxies whose scores need a device, and are kept in the store."""
    return [name for name in request.proxies if not registry.get(name).static]
