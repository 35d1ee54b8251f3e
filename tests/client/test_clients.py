"""What both clients do against a server: one suite."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import threading

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

import archscore
import puppet_server
from archscore import _base, spaces
from puppet_server import QUEUE_FULL, STARTING, UNAVAILABLE, Fault, score_of, status

NAMES = [f"cell{number}" for number in range(20)]


def check(results, names, *, ordered=True):
    """Every name has its own score exactly once."""
    results = list(results)
    assert [result.architecture for result in sorted(results, key=lambda result: result.index)] == names
    assert sorted(result.index for result in results) == list(range(len(names)))
    if ordered:
        assert [result.index for result in results] == list(range(len(names)))
    for result in results:
        assert result["tcet"] == score_of(result.architecture, "tcet")


# One architecture


def test_score(driver, puppet):
    config = {"batchSize": 16, "nasbench201": {"channels": 8}}
    evaluation = driver.call("score", "x", ["tcet", "ssnr"], config=config, priority="bulk")
    assert evaluation["tcet"] == score_of("x", "tcet")
    assert list(evaluation.scores) == ["tcet", "ssnr"]
    assert evaluation.fingerprint.device_kind == "cpu"
    (request,) = puppet.requests
    assert request.architecture.space == "nasbench201"
    assert request.config.batch_size == 16
    assert request.config.nasbench201.channels == 8
    assert request.priority == 1


def test_score_takes_an_architecture_value_and_one_proxy(driver, puppet):
    cell = spaces.nasbench201.from_index(7)
    assert driver.call("score", cell, "tcet")["tcet"] == score_of(cell.format(), "tcet")
    assert puppet.requests[0].architecture.space == "nasbench201"


def test_degenerate_scores_have_no_value(driver):
    evaluation = driver.call("score", "none", ["tcet"])
    assert evaluation.scores["tcet"].outcome == archscore.Outcome.DEGENERATE
    with pytest.raises(archscore.NoValueError, match="tcet has no value: degenerate"):
        evaluation["tcet"]
    with pytest.raises(KeyError):
        evaluation["ssnr"]


def test_malformed_encoding(driver):
    with pytest.raises(archscore.ArchitectureError, match="position 3") as caught:
        driver.call("score", "bad", ["tcet"])
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.field_violations[0].field == "architecture.encoding"


@pytest.mark.parametrize(
    ("sent", "kind"),
    [
        (status(grpc.StatusCode.INVALID_ARGUMENT, violations=[("proxies", "none")]), archscore.InvalidRequestError),
        (status(grpc.StatusCode.FAILED_PRECONDITION, reason="DATASET_NOT_FOUND"), archscore.DatasetNotFoundError),
        (status(grpc.StatusCode.RESOURCE_EXHAUSTED, "message too large"), archscore.ArchscoreError),
        (status(grpc.StatusCode.INTERNAL, "boom"), archscore.ArchscoreError),
    ],
)
def test_faults_of_the_request_are_raised_at_once(driver, puppet, sent, kind):
    puppet.script.extend([Fault(sent), Fault(sent)])
    with pytest.raises(archscore.ArchscoreError) as unary:
        driver.call("score", "x", ["tcet"])
    with pytest.raises(archscore.ArchscoreError) as stream:
        list(driver.many(["x", "y"], ["tcet"]))
    assert type(unary.value) is type(stream.value) is kind
    assert len(puppet.requests) == 2
    assert not driver.sleeps


@pytest.mark.parametrize("method", ["score", "describe", "proxies", "spaces", "server_info"])
def test_unavailable_is_tried_again(driver, puppet, method):
    puppet.script.extend([None, Fault(UNAVAILABLE), Fault(STARTING), Fault(UNAVAILABLE)])
    driver.call("server_info")
    arguments = {"score": ("x", ["tcet"]), "describe": ("x",)}.get(method, ())
    assert driver.call(method, *arguments)
    assert len(driver.sleeps) == 3
    assert driver.sleeps[1] > 5 > driver.sleeps[2] > driver.sleeps[0]


def test_full_queue_is_tried_again_when_the_server_says(driver, puppet):
    puppet.script.append(Fault(QUEUE_FULL))
    assert driver.call("score", "x", ["tcet"])
    (pause,) = driver.sleeps
    assert 30 < pause < 31


def test_full_queue_fails_once_the_deadline_is_too_near(driver, puppet):
    puppet.script.append(Fault(QUEUE_FULL))
    with pytest.raises(archscore.QueueFullError) as caught:
        driver.call("score", "x", ["tcet"], timeout=20)
    assert caught.value.retry_after == 30
    assert caught.value.reason == "QUEUE_FULL"


def test_deadlines_are_always_set(connect, target, puppet):
    driver = connect(target, timeout=50)
    driver.call("score", "x", ["tcet"])
    driver.call("score", "x", ["tcet"], timeout=20)
    list(driver.many(["x"], ["tcet"]))
    list(driver.many(["x"], ["tcet"], timeout=20))
    driver.call("proxies")
    pages = -(-len(puppet_server.PROXIES) // puppet_server.PAGE_SIZE)
    expected = [50, 20, 50, 20, *[30] * pages]
    assert [pytest.approx(timeout, abs=5) for timeout in puppet.timeouts] == expected


def test_lookups_follow_pages(driver):
    assert [proxy.name for proxy in driver.call("proxies")] == list(puppet_server.PROXIES)
    assert [space.name for space in driver.call("spaces")] == ["nasbench201", "other", "zennas"]
    assert driver.call("server_info").archscore_version == "1.2.3"
    assert driver.call("describe", "x").canonical_encoding == "x"


@pytest.mark.parametrize("method", ["score", "score_many"])
def test_unreachable_server(connect, method):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        driver = connect(f"127.0.0.1:{taken.getsockname()[1]}", connect_timeout=0.2)
        ask = {"score": driver.call, "score_many": lambda _, *arguments: list(driver.many(*arguments))}[method]
        with pytest.raises(archscore.UnavailableError, match=r"no answer from 127\.0\.0\.1:"):
            ask("score", ["x"] if method == "score_many" else "x", ["tcet"])


def test_credentials(connect, puppet):
    server, port = puppet_server.start(puppet, credentials=grpc.local_server_credentials())
    try:
        driver = connect(f"127.0.0.1:{port}", credentials=grpc.local_channel_credentials())
        assert driver.call("server_info")
    finally:
        server.stop(0).wait()


def test_an_endless_wait_is_no_retry(driver, puppet):
    full = status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", reason="QUEUE_FULL")
    puppet.script.extend([Fault(full, pushback="-1"), Fault(full, pushback="-1")])
    with pytest.raises(archscore.QueueFullError):
        driver.call("score", "x", ["tcet"])
    with pytest.raises(archscore.QueueFullError):
        list(driver.many(["x"], ["tcet"]))
    assert not driver.sleeps


def test_a_wait_that_only_the_trailer_names(driver, puppet):
    full = status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", reason="QUEUE_FULL")
    puppet.script.extend([Fault(full, pushback="7000"), Fault(full, pushback="7000")])
    driver.call("score", "x", ["tcet"])
    check(driver.many(NAMES[:8], ["tcet"]), NAMES[:8])
    assert len(driver.sleeps) == 2
    assert all(7 < pause < 8 for pause in driver.sleeps)


def test_every_call_names_the_client(connect, target, puppet, monkeypatch):
    def ask(driver):
        list(driver.many(["x", "y"], ["tcet"], chunk_size=1))
        driver.call("score", "x", ["tcet"])
        driver.call("describe", "x")
        for method in ("proxies", "spaces", "server_info"):
            driver.call(method)
        sent, puppet.client_ids[:] = set(puppet.client_ids), []
        return sent

    assert ask(connect(target)) == {None}
    assert ask(connect(target, client_id="search 7/a")) == {"search 7/a"}
    monkeypatch.setenv("ARCHSCORE_CLIENT_ID", "everywhere")
    assert ask(connect(target)) == {"everywhere"}
    assert ask(connect(target, client_id="x" * 64)) == {"x" * 64}
    monkeypatch.setenv("ARCHSCORE_CLIENT_ID", "")
    assert ask(connect(target)) == {None}


@pytest.mark.parametrize("client_id", ["", "x" * 65, "é", "a\nb", "a\x7f", " a", "a ", 7, "\udcff"])
@pytest.mark.parametrize("kind", [archscore.Client, archscore.AsyncClient])
def test_client_ids_that_cannot_be_sent(kind, client_id):
    with pytest.raises(archscore.UsageError, match="client_id"):
        kind("localhost:1", client_id=client_id)


# Many architectures


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
def test_every_architecture_has_its_own_score(driver, puppet, ordered, reverse):
    puppet.reverse = reverse
    results = driver.many(iter(NAMES), ["ssnr", "tcet"], chunk_size=7, max_in_flight=2, ordered=ordered)
    check(results, NAMES, ordered=ordered)
    assert sorted(len(chunk) for chunk in puppet.chunks()) == [6, 7, 7]


def test_nothing_to_score(driver, puppet):
    assert list(driver.many([], ["tcet"])) == []
    assert not puppet.requests


def test_a_bad_architecture_fails_alone(driver, puppet):
    puppet.item_script["large"] = [
        status(grpc.StatusCode.RESOURCE_EXHAUSTED, "too large", reason="ARCHITECTURE_TOO_LARGE")
    ]
    puppet.item_script["late"] = [status(grpc.StatusCode.DEADLINE_EXCEEDED)]
    results = list(driver.many(["a", "bad", "large", "late", "\udcff", "b"], ["tcet"]))
    kinds = [type(result.error) for result in results]
    failed = archscore.ArchitectureError
    assert kinds == [type(None), failed, failed, archscore.DeadlineExceededError, failed, type(None)]
    assert results[2].error.reason == "ARCHITECTURE_TOO_LARGE"
    assert "position 0" in str(results[4].error)
    with pytest.raises(failed, match="position 3"):
        results[1]["tcet"]
    assert puppet.chunks() == [["a", "bad", "large", "late", "b"]]


def test_errors_name_the_place_in_the_callers_list(driver, puppet):
    """Not that in the chunk, nor that in what is asked again of it."""
    puppet.script.extend([None, Fault(UNAVAILABLE, after=1)])
    names = ["a", "b", "c", "bad1", "\udcff", "bad2", "bad3"]
    results = list(driver.many(names, ["tcet"], chunk_size=3, max_in_flight=1))
    faults = {3: "at position 3: expected '|'", 4: "at position 0: expected Unicode text"}
    for result in results[3:]:
        field = f"architectures[{result.index}].encoding"
        fault = faults.get(result.index, faults[3])
        assert str(result.error) == f"{field}: {fault}"
        assert result.error.field_violations == (archscore.FieldViolation(field, fault),)
        error = result.to_message().error
        bad_request = BadRequest()
        assert error.details[0].Unpack(bad_request)
        assert (error.message, bad_request.field_violations[0].field) == (f"{field}: {fault}", field)
    assert puppet.chunks() == [["a", "b", "c"], ["bad1", "bad2"], ["bad2"], ["bad3"]]


def test_a_refused_request_names_the_place_in_the_callers_list(driver, puppet):
    field, fault = "architectures[1].space", "unknown"
    refusal = status(grpc.StatusCode.INVALID_ARGUMENT, f"x: y; {field}: {fault}", violations=[(field, fault)])
    puppet.script.extend([None, Fault(refusal)])
    with pytest.raises(archscore.InvalidRequestError) as caught:
        list(driver.many(NAMES, ["tcet"], chunk_size=3, max_in_flight=1))
    assert str(caught.value) == "x: y; architectures[4].space: unknown"
    assert caught.value.field_violations[0].field == "architectures[4].space"


def test_architecture_values_and_their_space(driver, puppet):
    cells = [spaces.nasbench201.from_index(index) for index in range(3)]
    results = list(driver.many(cells, "tcet"))
    assert [result.architecture for result in results] == cells
    assert puppet.chunks() == [[cell.format() for cell in cells]]


def test_a_broken_stream_is_resumed_with_what_is_unanswered(driver, puppet):
    puppet.reverse = True
    puppet.script.extend(
        [Fault(UNAVAILABLE, after=4), Fault(STARTING), Fault(None, after=3), Fault(UNAVAILABLE, after=1)]
    )
    check(driver.many(NAMES[:10], ["tcet"]), NAMES[:10])
    assert [len(chunk) for chunk in puppet.chunks()] == [10, 6, 6, 3, 2]
    assert len(driver.sleeps) == 4


def test_architectures_refused_for_now_are_asked_again(driver, puppet):
    puppet.item_script = {"cell1": [UNAVAILABLE], "cell2": [QUEUE_FULL, STARTING]}
    check(driver.many(NAMES[:4], ["tcet"]), NAMES[:4])
    assert puppet.chunks()[0] == NAMES[:4]
    assert sorted(itertools.chain(*puppet.chunks()[1:])) == ["cell1", "cell2", "cell2"]


def test_a_full_queue_slows_down(driver, puppet):
    puppet.script.extend([Fault(QUEUE_FULL), Fault(QUEUE_FULL)])
    check(driver.many(NAMES[:8], ["tcet"], timeout=20), NAMES[:8])
    assert [len(chunk) for chunk in puppet.chunks()] == [8, 4, 2, 4, 2]
    assert all(30 < pause < 31 for pause in driver.sleeps)
    assert len(driver.sleeps) == 2


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_goes_wrong_on_the_way_each_architecture_has_one_result(driver, puppet, seed, ordered):
    rng = random.Random(seed)
    eager = status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", reason="QUEUE_FULL", retry_after=0)
    faults = [QUEUE_FULL, eager, UNAVAILABLE, STARTING, status(grpc.StatusCode.CANCELLED), None]
    driver.call("server_info")
    puppet.reverse = bool(seed % 2)
    puppet.script.extend(rng.choice([None, Fault(rng.choice(faults), after=rng.randrange(6))]) for _ in range(60))
    refusals = [QUEUE_FULL, eager, UNAVAILABLE, STARTING]
    puppet.item_script = {name: rng.choices(refusals, k=rng.randrange(3)) for name in NAMES}
    check(driver.many(NAMES, ["tcet"], chunk_size=6, max_in_flight=3, ordered=ordered), NAMES, ordered=ordered)
    assert all(pause > 0 for pause in driver.sleeps)


@pytest.mark.parametrize("ordered", [True, False])
def test_a_server_that_is_killed_and_comes_back(connect, ordered):
    """Every stream is cut in the middle, and nobody listens for a while."""
    with contextlib.ExitStack() as stack:
        child, target = stack.enter_context(puppet_server.process(hangs_after=3))
        driver = connect(target)
        driver.on_sleep = lambda: threading.Event().wait(0.1)
        results = driver.many(NAMES, ["tcet"], chunk_size=5, max_in_flight=2, ordered=ordered)
        given = [next(results) for _ in range(3)]
        child.kill()
        child.wait()

        def restart():
            while len(driver.sleeps) < 8:
                threading.Event().wait(0.01)
            stack.enter_context(puppet_server.process(int(target.rpartition(":")[2])))

        restarter = threading.Thread(target=restart)
        stack.callback(restarter.join)
        restarter.start()
        check([*given, *results], NAMES, ordered=ordered)
        assert len(driver.sleeps) >= 8


def test_a_server_that_stops_and_comes_back(connect, puppet):
    server, port = puppet_server.start(puppet)
    driver = connect(f"127.0.0.1:{port}")
    results = driver.many(NAMES, ["tcet"], chunk_size=5, max_in_flight=1)
    first = next(results)
    puppet.gate.clear()
    servers = [server]

    def stop():
        while len(puppet.chunks()) < 2:
            threading.Event().wait(0.01)
        server.stop(0).wait()

    def restart():
        threading.Event().wait(0.02)
        if len(servers) == 1:
            puppet.gate.set()
            servers.append(puppet_server.start(puppet, port)[0])

    driver.on_sleep = restart
    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        check([first, *results], NAMES)
    finally:
        stopper.join()
        for running in servers:
            running.stop(0).wait()
    assert driver.sleeps


def test_architectures_that_are_not_in_time_fail_alone(driver, puppet):
    driver.call("server_info")
    late = status(grpc.StatusCode.DEADLINE_EXCEEDED, "late")
    puppet.script.append(Fault(late, after=3))
    results = list(driver.many(NAMES[:9], ["tcet"], chunk_size=5, max_in_flight=1))
    errors = [type(result.error) for result in results]
    assert errors == [type(None)] * 3 + [archscore.DeadlineExceededError] * 2 + [type(None)] * 4


@pytest.mark.parametrize("reached", [True, False])
def test_a_deadline_that_the_server_refuses_beforehand(driver, puppet, reached):
    if reached:
        driver.call("server_info")
    refusal = status(grpc.StatusCode.DEADLINE_EXCEEDED, "cannot be met")
    puppet.script.append(Fault(refusal))
    results = list(driver.many(NAMES[:9], ["tcet"], chunk_size=5, max_in_flight=1))
    errors = [type(result.error) for result in results]
    assert errors == [archscore.DeadlineExceededError] * 5 + [type(None)] * 4
    assert [len(chunk) for chunk in puppet.chunks()] == [5, 4]


def test_what_was_not_asked_is_not_refused(driver, puppet):
    """A full queue has the chunk sent in parts; the deadline of one is refused."""
    puppet.script.extend([Fault(QUEUE_FULL), Fault(status(grpc.StatusCode.DEADLINE_EXCEEDED), after=1)])
    results = list(driver.many(NAMES[:8], ["tcet"]))
    errors = [type(result.error) for result in results]
    assert errors == [type(None)] + [archscore.DeadlineExceededError] * 3 + [type(None)] * 4


def test_a_server_that_vanishes_is_noticed(connect, network, puppet, monkeypatch):
    """Its connection stays, but nothing comes over it any more."""
    monkeypatch.setattr(_base, "_KEEPALIVE_TIME", 0.2)
    monkeypatch.setattr(_base, "_KEEPALIVE_TIMEOUT", 0.2)
    puppet.script.append(Fault(None, after=1, hangs=True))
    driver = connect(network.address)
    results = driver.many(["a", "b"], ["tcet"])
    first = next(results)
    network.swallow()
    check([first, *results], ["a", "b"])
    assert driver.sleeps


def test_a_real_deadline(driver, puppet):
    puppet.script.append(Fault(None, after=1, hangs=True))
    on_time, late = driver.many(["x", "y"], ["tcet"], timeout=0.3)
    assert on_time["tcet"] == score_of("x", "tcet")
    assert isinstance(late.error, archscore.DeadlineExceededError)
    assert "no answer from 127.0.0.1" in str(late.error)
    assert puppet.abandoned.wait(10)


def test_a_deadline_without_any_answer_raises(driver, puppet):
    puppet.script.append(Fault(None, hangs=True))
    with pytest.raises(archscore.DeadlineExceededError):
        list(driver.many(["x"], ["tcet"], timeout=0.1))


def test_an_architecture_too_large_for_a_message_fails_alone(connect, puppet):
    with puppet_server.serve(puppet, [("grpc.max_receive_message_length", 10_000)]) as target:
        results = list(connect(target).many(["a", "x" * 2_000_000, "b"], ["tcet"]))
    assert [result.error is None for result in results] == [True, False, True]
    assert isinstance(results[1].error, archscore.ArchitectureError)


@pytest.mark.parametrize("ordered", [True, False])
def test_an_endless_iterable_is_consumed_only_as_far_as_needed(driver, ordered):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield f"cell{taken}"

    results = driver.many(endless(), ["tcet"], chunk_size=4, max_in_flight=3, ordered=ordered)
    assert taken == 0
    for given in range(1, 50):
        next(results)
        assert taken - given < 4 * 3
    results.close()


def test_no_more_in_flight_than_allowed(driver, puppet):
    puppet.gate.clear()
    results = driver.many(itertools.cycle(NAMES), ["tcet"], chunk_size=4, max_in_flight=3)
    opener = threading.Timer(0.2, puppet.gate.set)
    opener.start()
    next(results)
    opener.join()
    assert len(puppet.requests) == 3
    results.close()


def test_an_iterable_that_fails_ends_the_call(driver):
    def failing():
        yield from NAMES
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(driver.many(failing(), ["tcet"], chunk_size=3))


def test_a_closed_client_says_so(connect, target, puppet):
    driver = connect(target)
    driver.call("close")
    for method, arguments in (("score", ("x", ["tcet"])), ("server_info", ())):
        with pytest.raises(archscore.UsageError, match="the client is closed"):
            driver.call(method, *arguments)
    with pytest.raises(archscore.UsageError, match="the client is closed"):
        list(driver.many(["x"], ["tcet"]))
    assert not puppet.requests


@pytest.mark.parametrize("sent", ["late", ""])
def test_a_deadline_that_the_server_reports_is_an_answer(driver, puppet, sent):
    puppet.script.append(Fault(status(grpc.StatusCode.DEADLINE_EXCEEDED, sent)))
    with pytest.raises(archscore.DeadlineExceededError) as caught:
        driver.call("score", "x", ["tcet"])
    assert str(caught.value) == (sent or "DEADLINE_EXCEEDED")


def running(driver):
    """Threads and tasks of the client that still run."""
    threads = [thread for thread in threading.enumerate() if thread.name == "archscore-reader"]
    return threads or (driver.tasks() if hasattr(driver, "tasks") else [])


def test_leaving_early_cancels_and_leaves_nothing_running(driver, puppet):
    puppet.script.append(Fault(None, after=2, hangs=True))
    results = driver.many(itertools.cycle(NAMES), ["tcet"], chunk_size=4, max_in_flight=3)
    next(results)
    next(results)
    results.close()
    assert not running(driver)
    assert puppet.abandoned.wait(10)


def test_a_failed_request_leaves_nothing_running(driver, puppet):
    puppet.script.append(Fault(status(grpc.StatusCode.INVALID_ARGUMENT)))
    with pytest.raises(archscore.InvalidRequestError):
        list(driver.many(itertools.cycle(NAMES), ["tcet"], chunk_size=4))
    assert not running(driver)


@pytest.mark.parametrize(
    "arguments",
    [
        {"architectures": "cell"},
        {"chunk_size": 0},
        {"max_in_flight": 0},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"timeout": 1e300},
        {"config": {"nope": 1}},
        {"config": [1]},
        {"priority": "urgent"},
        {"proxies": ["\udcff"]},
        {"proxies": [1]},
    ],
)
def test_arguments_that_make_no_sense(driver, puppet, arguments):
    arguments = {"architectures": NAMES, "proxies": ["tcet"], **arguments}
    with pytest.raises(archscore.UsageError):
        driver.many(arguments.pop("architectures"), arguments.pop("proxies"), **arguments)
    assert not puppet.requests
