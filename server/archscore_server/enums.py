"""Enums of the contract and what their numbers mean to the rest of the server."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, Generic, TypeVar

from archscore.v1 import scoring_pb2
from archscore_server.engine import Init, Outcome, Precision
from archscore_server.scheduler import Priority

E = TypeVar("E", bound=Enum)


class EnumField(Generic[E]):
    """An enum of the contract whose values are named PREFIX_MEMBER after members of a Python enum; 0 is the default."""

    def __init__(self, wrapper: Any, prefix: str, members: Iterable[E], default: E) -> None:
        """Matches the members with the numbers of their names."""
        self._member_of = {wrapper.Value(f"{prefix}_{member.name}"): member for member in members}
        self._number_of = {member: number for number, member in self._member_of.items()}
        self._known = ", ".join(wrapper.Name(number) for number in self._member_of)
        self._default = default

    def read(self, number: int) -> E:
        """The member that a number stands for.

        Raises:
            ValueError: none does; the message names those there are.
        """
        if number == 0:
            return self._default
        if number not in self._member_of:
            raise ValueError(f"unknown value {number}: known are {self._known}")
        return self._member_of[number]

    def write(self, member: E) -> Any:
        """The number of a member."""
        return self._number_of[member]


INIT = EnumField(scoring_pb2.Init, "INIT", Init, Init.KAIMING_NORMAL)
PRECISION = EnumField(scoring_pb2.Precision, "PRECISION", Precision, Precision.FLOAT32)
PRIORITY = EnumField(scoring_pb2.Priority, "PRIORITY", Priority, Priority.DEFAULT)
OUTCOME = EnumField(scoring_pb2.Outcome, "OUTCOME", Outcome, Outcome.OK)
