"""Refused calls in the log."""

from archscore_server.access.refusals import Refusals


def test_one_line_a_second_and_how_many_there_were(caplog):
    now = 100.0
    refusals = Refusals(lambda: now)
    for _ in range(1_000):
        refusals.refused("ipv4:192.0.2.1:5", "the token is wrong")
    now += 0.99
    refusals.refused("ipv4:192.0.2.1:5", "the token is wrong")
    now += 0.02
    refusals.refused("ipv6:[::1]:6", "no token")
    now += 10
    refusals.refused("ipv4:192.0.2.2:7\nfake line", "no token")
    assert [record.getMessage() for record in caplog.records] == [
        "refused a call from 'ipv4:192.0.2.1:5': the token is wrong",
        "refused a call from 'ipv6:[::1]:6': no token (1000 more since the last such line)",
        r"refused a call from 'ipv4:192.0.2.2:7\nfake line': no token",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}
