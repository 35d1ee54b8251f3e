"""Requests of a chaos run: right ones, malformed ones and dangerous ones, each with its one right answer."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from google.rpc import code_pb2

from archscore.v1 import scoring_pb2
from chaos.answers import Answer, Fault
from chaos.universe import MAX_ARCHITECTURES, PROXIES, Point, Universe, architecture, config

SERVICE: Final = "/archscore.v1.ScoringService/"
UNARY: Final = SERVICE + "ScoreArchitecture"
STREAM: Final = SERVICE + "ScoreArchitectures"

_CLIENTS: Final = (None, "a", "b", "c", "d", "e")
_PRIORITIES: Final = (0, scoring_pb2.PRIORITY_BULK, scoring_pb2.PRIORITY_DEFAULT, scoring_pb2.PRIORITY_INTERACTIVE)
_LONGEST_STREAM: Final = 5
_SWITCH_CHANCE: Final = 0.5

Message = scoring_pb2.ScoreArchitectureRequest | scoring_pb2.ScoreArchitecturesRequest


@dataclass(frozen=True)
class Request:
    """What is sent, and what must come back.

    Attributes:
        kind: for the tally: "right", "malformed" or "dangerous".
        label: what is special about it.
        method: path of the RPC.
        body: the message as it travels.
        expected: how the call fails, or the answers.
        client: how the client names itself.
        abandoned: how it is abandoned: "cancelled", "closed" or "expired"; None if it is not.
    """

    kind: str
    label: str
    method: str
    body: bytes
    expected: Fault | Sequence[Answer]
    client: str | None = None
    abandoned: str | None = None

    @property
    def streams(self) -> bool:
        """Whether the answers come as a stream."""
        return self.method == STREAM


def requests(universe: Universe, count: int, rng: random.Random) -> list[Request]:
    """The requests of a run: a third malformed, a tenth abandoned half-way, a few that harm workers."""
    maker = _Maker(universe, rng)
    malformations = itertools.cycle(maker.malformations())
    dangers = [
        *_spread(maker.slow, count // 100),
        *_spread(maker.raising, count // 200),
        *_spread(maker.harmful_once, count // 50),
        *_spread(maker.poisoned, max(1, count // 2500)),
    ]
    made = [next(malformations)() for _ in range(count // 3)] + [make() for make in dangers]
    made += [maker.right() for _ in range(count - len(made))]
    rng.shuffle(made)
    for index in rng.sample(range(count), count // 10):
        made[index] = replace(made[index], abandoned=rng.choice(["cancelled", "closed", "expired"]))
    return [replace(request, client=rng.choice(_CLIENTS)) for request in made]


def _spread(make: Callable[[], Request], count: int) -> Iterator[Callable[[], Request]]:
    return itertools.repeat(make, count)


class _Maker:
    """Makes requests of every kind."""

    def __init__(self, universe: Universe, rng: random.Random) -> None:
        self._universe = universe
        self._rng = rng
        self._poisons = [point for point in universe.points if point.is_poison]
        self._others = [point for point in universe.points if point.cell.connected and not point.is_poison]

    # Right ones

    def right(self) -> Request:
        return self._valid("right", "plain", self._points(), self._proxies())

    def slow(self) -> Request:
        return self._valid("dangerous", "slow", self._points(), [*self._proxies(), "fault_slow"])

    def raising(self) -> Request:
        return self._valid("dangerous", "raising", self._points(), [*self._proxies(), "fault_raise"])

    def harmful_once(self) -> Request:
        name = self._rng.choice(["fault_kill_once", "fault_stop_once", "fault_hang_once"])
        return self._valid("dangerous", name.removeprefix("fault_"), self._points(), [*self._proxies(), name])

    def poisoned(self) -> Request:
        culprit = self._rng.choice(self._poisons)
        mates = self._rng.sample([point for point in self._others if point.seed == culprit.seed], 3)
        points = [culprit, *mates]
        self._rng.shuffle(points)
        return self._valid("dangerous", "poisoned", points, [*self._proxies(), "fault_poison"])

    def _valid(self, kind: str, label: str, points: Sequence[Point], proxies: Sequence[str]) -> Request:
        answers = [self._universe.answer(point, proxies) for point in points]
        message = self._message(points, proxies)
        method = _method(message)
        expected = answers[0] if method == UNARY and isinstance(answers[0], Fault) else answers
        return Request(kind, label, method, message.SerializeToString(), expected)

    def _points(self) -> list[Point]:
        """Points of one config: one for a unary request, or a few."""
        first = self._rng.choice(self._universe.points)
        if self._rng.random() < _SWITCH_CHANCE:
            return [first]
        alike = [point for point in self._universe.points if point.seed == first.seed]
        return self._rng.choices(alike, k=self._rng.randint(1, _LONGEST_STREAM))

    def _proxies(self) -> list[str]:
        return self._rng.sample(PROXIES, self._rng.randint(1, 3))

    def _message(self, points: Sequence[Point], proxies: Sequence[str]) -> Message:
        common = {"proxies": proxies, "config": config(points[0].seed), "priority": self._rng.choice(_PRIORITIES)}
        if len(points) == 1 and self._rng.random() < _SWITCH_CHANCE:
            return scoring_pb2.ScoreArchitectureRequest(architecture=architecture(points[0]), **common)
        return scoring_pb2.ScoreArchitecturesRequest(architectures=map(architecture, points), **common)

    # Malformed ones

    def malformations(self) -> list[Callable[[], Request]]:
        """Makers of every kind of malformation."""
        return [
            self._garbage,
            self._truncated,
            self._unknown_method,
            self._no_architectures,
            self._too_many_architectures,
            self._two_spaces,
            *(lambda encoding=encoding: self._bad_encoding(encoding) for encoding in _BAD_ENCODINGS),
            *(lambda change=change: self._broken(*change) for change in _CHANGES),
        ]

    def _garbage(self) -> Request:
        body = b"\xff" + self._rng.randbytes(self._rng.randint(0, 200))
        return self._undecodable("garbage", body)

    def _truncated(self) -> Request:
        body = self._message(self._points(), self._proxies()).SerializeToString()
        return self._undecodable("truncated", body[:-1])

    def _undecodable(self, label: str, body: bytes) -> Request:
        return Request("malformed", label, self._rng.choice([UNARY, STREAM]), body, _invalid(""))

    def _unknown_method(self) -> Request:
        return Request("malformed", "method", SERVICE + "NoSuchMethod", b"", Fault(code_pb2.UNIMPLEMENTED))

    def _no_architectures(self) -> Request:
        message = scoring_pb2.ScoreArchitecturesRequest(proxies=self._proxies())
        return _refused("no architectures", message, _invalid("architectures"))

    def _too_many_architectures(self) -> Request:
        points = [point for point in self._universe.points if point.seed == 0]
        message = scoring_pb2.ScoreArchitecturesRequest(
            architectures=map(architecture, self._rng.choices(points, k=MAX_ARCHITECTURES + 1)),
            proxies=self._proxies(),
            config=config(0),
        )
        return _refused("too many architectures", message, _invalid("architectures"))

    def _two_spaces(self) -> Request:
        point = self._rng.choice(self._universe.points)
        message = scoring_pb2.ScoreArchitecturesRequest(
            architectures=[architecture(point), scoring_pb2.Architecture(space="zennas", encoding="x")],
            proxies=self._proxies(),
        )
        return _refused("two spaces", message, _invalid("architectures[1].space"))

    def _bad_encoding(self, encoding: str) -> Request:
        """A fault of one architecture: of a unary request it is all, in a stream the others are scored."""
        points, proxies = self._points(), self._proxies()
        message = self._message(points, proxies)
        if isinstance(message, scoring_pb2.ScoreArchitectureRequest):
            message.architecture.encoding = encoding
            return _refused("encoding", message, _bad(encoding, "architecture.encoding"))
        index = self._rng.randrange(len(points))
        message.architectures[index].encoding = encoding
        expected = [self._universe.answer(point, proxies) for point in points]
        expected[index] = _bad(encoding, f"architectures[{index}].encoding")
        return Request("malformed", "encoding", STREAM, message.SerializeToString(), expected)

    def _broken(self, label: str, change: Callable[[Message], None], expected: Fault) -> Request:
        """A fault of the request, of either RPC."""
        message = self._message(self._points(), self._proxies())
        change(message)
        unary = isinstance(message, scoring_pb2.ScoreArchitectureRequest)
        fields = tuple(
            field.replace("ARCHITECTURE", "architecture" if unary else "architectures[0]") for field in expected.fields
        )
        return _refused(label, message, replace(expected, fields=fields))


def _method(message: Message) -> str:
    return UNARY if isinstance(message, scoring_pb2.ScoreArchitectureRequest) else STREAM


def _refused(label: str, message: Message, expected: Fault) -> Request:
    return Request("malformed", label, _method(message), message.SerializeToString(), expected)


def _invalid(*fields: str) -> Fault:
    return Fault(code_pb2.INVALID_ARGUMENT, fields=fields)


_TOO_LONG: Final = "index:1" + " " * 10_000
_BAD_ENCODINGS: Final = (
    "",
    "garbage",
    "index:15625",
    "index:-1",
    "|nor_conv_3x3~0|",
    "|nor_conv_7x7~0|+|none~0|none~1|+|none~0|none~1|none~2|",
    "|none~1|+|none~0|none~1|+|none~0|none~1|none~2|",
    "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|é",
    _TOO_LONG,
)


def _bad(encoding: str, field: str) -> Fault:
    if encoding is _TOO_LONG:
        return Fault(code_pb2.RESOURCE_EXHAUSTED, "ARCHITECTURE_TOO_LARGE")
    return _invalid(field)


def _setting(**fields: object) -> Callable[[Message], None]:
    def change(message: Message) -> None:
        for name, value in fields.items():
            setattr(message.config, name, value)

    return change


def _naming(*proxies: str) -> Callable[[Message], None]:
    def change(message: Message) -> None:
        del message.proxies[:]
        message.proxies.extend(proxies)

    return change


def _in_space(space: str) -> Callable[[Message], None]:
    def change(message: Message) -> None:
        unary = isinstance(message, scoring_pb2.ScoreArchitectureRequest)
        for each in [message.architecture] if unary else message.architectures[:1]:
            each.space = space
        if not unary:
            del message.architectures[1:]

    return change


def _urgent(message: Message) -> None:
    message.priority = 99


def _no_channels(message: Message) -> None:
    message.config.nasbench201.channels = 0


def _of_another_space(message: Message) -> None:
    message.config.zennas.residual_links = True


#: Label, what is done to a right request, and how it fails. ARCHITECTURE stands for the path of the first one.
_CHANGES: Final = (
    ("no proxies", _naming(), _invalid("proxies")),
    ("unknown proxy", _naming("tcet", "no_such"), _invalid("proxies[1]")),
    ("proxy twice", _naming("tcet", "tcet"), _invalid("proxies[1]")),
    ("no space", _in_space(""), _invalid("ARCHITECTURE.space")),
    ("unknown space", _in_space("darts"), _invalid("ARCHITECTURE.space")),
    ("priority", _urgent, _invalid("priority")),
    ("batch size", _setting(batch_size=1), _invalid("config.batch_size")),
    ("large batch", _setting(batch_size=2**31), _invalid("config.batch_size")),
    ("resolution", _setting(resolution=6), _invalid("config.resolution")),
    ("classes", _setting(num_classes=1), _invalid("config.num_classes")),
    ("repeats", _setting(repeats=0), _invalid("config.repeats")),
    ("seed", _setting(seed=2**32), _invalid("config.seed")),
    ("init", _setting(init=99), _invalid("config.init")),
    ("precision", _setting(precision=99), _invalid("config.precision")),
    ("two faults", _setting(repeats=0, init=99), _invalid("config.init", "config.repeats")),
    ("unknown dataset", _setting(dataset="no such"), _invalid("config.dataset")),
    ("absent dataset", _setting(dataset="npz:absent"), Fault(code_pb2.FAILED_PRECONDITION, "DATASET_NOT_FOUND")),
    ("channels", _no_channels, _invalid("config.nasbench201.channels")),
    ("config of another space", _of_another_space, _invalid("config.zennas")),
)
