"""Many architectures: what to send next, what is still unanswered, and in which order results go out.

All decisions of `score_many`, for both stacks; they only carry messages. A `Chunk` belongs to the thread or task that
sends it, the `Plan` to whoever consumes the results.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from archscore._requests import DEFAULT_SPACE, Architecture, architecture_fields, text
from archscore._results import Evaluation, Result
from archscore._retry import Contact, Retrier
from archscore._status import from_status, relocate
from archscore.errors import (
    ArchitectureError,
    ArchscoreError,
    DeadlineExceededError,
    QueueFullError,
    UnavailableError,
)
from archscore.v1 import scoring_pb2

DEFAULT_CHUNK_SIZE: Final = 64
DEFAULT_MAX_IN_FLIGHT: Final = 4
MAX_CHUNK_BYTES: Final = 1 << 20
"""A request is kept below this where its architectures allow it. gRPC's own limit for a message is 4 MiB."""
_FRAMING: Final = 32
"""Bytes of an architecture in a request, besides its encoding."""


Item: TypeAlias = tuple[Architecture, str]
"""An architecture as the caller's iterable held it, and the encoding that is sent."""


class Chunk:
    """Architectures that travel in one request, and in as many more as faults make necessary.

    An answer for an architecture is final, but for UNAVAILABLE and QUEUE_FULL: those, and architectures that a broken
    stream left unanswered, are asked again. When the queue is full, less is asked at a time.

    Attributes:
        size: how many results will come of it.
        rejected: results of architectures that cannot even be sent.
    """

    def __init__(
        self,
        template: scoring_pb2.ScoreArchitecturesRequest,
        space: str,
        items: dict[int, Item],
        rejected: list[Result],
        retrier: Retrier,
    ) -> None:
        """Starts with everything unanswered.

        Args:
            template: the request without architectures.
            space: the search space of all architectures.
            items: architectures to score, by their position in the caller's iterable.
            rejected: results of those that cannot be sent.
            retrier: deadline and pauses of this chunk.
        """
        self.size = len(items) + len(rejected)
        self.rejected = rejected
        self._template = template
        self._space = space
        self._pending = items
        self._retrier = retrier
        self._limit = self.size
        self._sent: dict[int, Item] = {}
        self._positions: list[int] = []
        self._refusal: ArchscoreError | None = None

    @property
    def done(self) -> bool:
        """Whether everything is answered."""
        return not self._pending

    def request(self) -> scoring_pb2.ScoreArchitecturesRequest:
        """The next request: what is not answered yet, as far as it may be sent at a time."""
        self._sent = dict(itertools.islice(self._pending.items(), self._limit))
        self._positions = list(self._sent)
        self._refusal = None
        request = scoring_pb2.ScoreArchitecturesRequest()
        request.CopyFrom(self._template)
        add, space = request.architectures.add, self._space
        for _, encoding in self._sent.values():
            add(space=space, encoding=encoding)
        return request

    def timeout(self) -> float:
        """Seconds for the next request."""
        return self._retrier.remaining()

    def answered(self, response: scoring_pb2.ScoreArchitecturesResponse) -> list[Result]:
        """Results out of one message of the stream."""
        results = []
        positions, pending = self._positions, self._pending
        for message in response.results:
            place = message.index
            # Nothing is handed out twice, whatever a server may send.
            if place >= len(positions) or (item := pending.pop(position := positions[place], None)) is None:
                continue
            if message.HasField("evaluation"):
                results.append(Result(position, item[0], Evaluation(message.evaluation), None))
                continue
            error = _error(position, message)
            if isinstance(error, (UnavailableError, QueueFullError)):
                self._refusal = error
                pending[position] = item
            else:
                results.append(Result(position, item[0], None, error))
        if results:
            self._retrier.progressed()
        return results

    def ended(self) -> ArchscoreError | None:
        """What was wrong with a stream that ended well, if not everything that was sent is answered now."""
        left = len(self._pending.keys() & self._sent.keys())
        if not left:
            self._limit = min(2 * self._limit, self.size)
            return None
        return self._refusal or UnavailableError(
            f"the server left {left} of {len(self._sent)} architectures unanswered", code="UNAVAILABLE"
        )

    def failed(self, error: ArchscoreError) -> tuple[float, list[Result]]:
        """Seconds to wait before the next request, and the results of architectures that are given up.

        Raises:
            ArchscoreError: the request as a whole failed, for good.
        """
        if self.done:
            return 0.0, []
        if error is not self._refusal:  # Which was an answer for one architecture, and relocated as such.
            relocate(error, dict(enumerate(self._positions)))
        if isinstance(error, QueueFullError):
            self._limit = max(1, len(self._sent) // 2)
            return self._retrier.postpone(error), []
        if isinstance(error, DeadlineExceededError):
            self._retrier.heard(error)
            if self._retrier.reached:
                # A server that refuses a deadline beforehand says nothing of what it was not asked.
                refused = error.status is not None and not self._retrier.expired
                return 0.0, self._give_up(self._sent if refused else self._pending, error)
        if error.code == "RESOURCE_EXHAUSTED" and not error.reason and len(self._sent) == 1:
            # Too large for a message by itself: a fault of this architecture.
            too_large = ArchitectureError(error.message, code=error.code, status=error.status)
            return 0.0, self._give_up(self._sent, too_large)
        return self._retrier.outlast(error), []

    def _give_up(self, positions: Iterable[int], error: ArchscoreError) -> list[Result]:
        given_up = {position: self._pending.pop(position) for position in list(positions) if position in self._pending}
        return [Result(position, architecture, None, error) for position, (architecture, _) in given_up.items()]


class Plan:
    """Cuts an iterable into chunks, lazily, and puts the results in order.

    At most `max_in_flight` chunks have results that were not handed out yet, so that what is held in memory is bounded
    whatever the length of the iterable and the order of the answers.
    """

    def __init__(
        self,
        architectures: Iterable[Architecture],
        *,
        space: str | None,
        template: scoring_pb2.ScoreArchitecturesRequest,
        chunk_size: int,
        max_in_flight: int,
        ordered: bool,
        contact: Contact,
        timeout: float,
    ) -> None:
        """Nothing is taken from the iterable yet.

        Args:
            architectures: what to score.
            space: their search space, or None to leave it to them.
            template: the request without architectures.
            chunk_size: architectures in a request.
            max_in_flight: chunks on their way at a time.
            ordered: whether results go out in the order of the iterable.
            contact: of the client.
            timeout: seconds for each chunk.

        Raises:
            UsageError: the search space is not text.
        """
        self._architectures = enumerate(architectures)
        self._space = None if space is None else text("space", space)
        self._template = template
        self._chunk_size = chunk_size
        self._max_in_flight = max_in_flight
        self._ordered = ordered
        self._contact = contact
        self._timeout = timeout

        self._exhausted = False
        self._held_over: tuple[int, Architecture] | None = None
        self._left: dict[Chunk, int] = {}
        self._early: dict[int, Result] = {}
        self._next_index = 0

    @property
    def done(self) -> bool:
        """Whether the iterable is exhausted and every result was handed out."""
        return self._exhausted and not self._left

    def next_chunk(self) -> Chunk | None:
        """The next chunk, unless enough is in flight or nothing is left."""
        if self._exhausted or len(self._left) >= self._max_in_flight:
            return None
        items: dict[int, Item] = {}
        rejected: list[Result] = []
        size = 0
        common = ""
        space_of_text = DEFAULT_SPACE if self._space is None else self._space
        for position, architecture in itertools.islice(self._unsent(), self._chunk_size):
            if type(architecture) is str and architecture.isascii():  # most are, and there are many
                space, encoding, length = space_of_text, architecture, len(architecture)
            else:
                try:
                    space, encoding = architecture_fields(architecture, self._space, position)
                except ArchitectureError as error:
                    rejected.append(Result(position, architecture, None, error))
                    continue
                length = len(encoding.encode())
            size += _FRAMING + length
            if not items:
                common = space
            elif size > MAX_CHUNK_BYTES or space != common:
                self._held_over = position, architecture
                break
            items[position] = architecture, encoding
        else:
            self._exhausted = len(items) + len(rejected) < self._chunk_size
        if not items and not rejected:
            return None
        chunk = Chunk(self._template, common, items, rejected, Retrier(self._contact, self._timeout))
        self._left[chunk] = chunk.size
        return chunk

    def hand_out(self, chunk: Chunk, results: list[Result]) -> list[Result]:
        """The results that may go out now that these came of a chunk. Make no new chunk before they are gone."""
        if not self._ordered:
            self._release(chunk, len(results))
            return results
        ready: list[Result] = []
        early, following = self._early, self._next_index
        in_order = [result.index for result in results] == list(range(following, following + len(results)))
        if in_order and not early:  # as mostly
            ready, following = results, following + len(results)
            results = []
        for result in results:
            if result.index != following:
                early[result.index] = result
                continue
            ready.append(result)
            following += 1
            while early and (next_one := early.pop(following, None)) is not None:
                ready.append(next_one)
                following += 1
        self._next_index = following
        left = len(ready)
        while left:  # Results in order are those of the oldest chunks.
            left -= self._release(next(iter(self._left)), left)
        return ready

    def _release(self, chunk: Chunk, results: int) -> int:
        """Counts results of a chunk that go out, and returns how many of them are the chunk's."""
        released = min(results, self._left[chunk])
        self._left[chunk] -= released
        if not self._left[chunk]:
            del self._left[chunk]
        return released

    def _unsent(self) -> Iterator[tuple[int, Architecture]]:
        """What the iterable still holds, with positions."""
        if self._held_over is None:
            return self._architectures
        held_over, self._held_over = self._held_over, None
        return itertools.chain([held_over], self._architectures)


def _error(position: int, message: scoring_pb2.ArchitectureResult) -> ArchscoreError:
    if not message.HasField("error"):
        return ArchscoreError("the server sent neither scores nor an error", code="INTERNAL")
    error = from_status(message.error, of_item=True)
    relocate(error, {message.index: position})
    return error
