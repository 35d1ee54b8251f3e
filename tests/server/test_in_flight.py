"""What clients have in flight."""

import pytest

from archscore_server.in_flight import ClientFullError, InFlight


def test_requests_of_a_client_count_together() -> None:
    in_flight = InFlight(10)
    first, second, other = in_flight.of("a"), in_flight.of("a"), in_flight.of("b")
    first.take(6)
    with pytest.raises(ClientFullError) as caught:
        second.take(7)
    assert caught.value.excess == 3
    assert second.count == 0
    second.take(4)
    other.take(10)
    first.give_back(2)
    second.take(2)
    with pytest.raises(ClientFullError):
        in_flight.of("a").take(1)


def test_nothing_is_kept_of_clients_that_have_nothing_in_flight() -> None:
    in_flight = InFlight(10)
    for number in range(100):
        share = in_flight.of(str(number))
        share.take(10)
        share.give_back(3)
        share.give_back(share.count)
        share.give_back(share.count)
    refused = in_flight.of("a")
    with pytest.raises(ClientFullError):
        refused.take(11)
    refused.give_back(refused.count)
    assert len(in_flight) == 0
