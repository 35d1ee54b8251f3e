"""What is particular to the blocking client."""

from __future__ import annotations

import _thread
import itertools
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from archscore import Client, UsageError
from puppet_server import QUEUE_FULL, Fault, score_of


def readers():
    return [thread for thread in threading.enumerate() if thread.name == "archscore-reader"]


def test_breaking_out_of_the_loop_leaves_no_threads(target, puppet):
    puppet.script.append(Fault(None, after=2, hangs=True))
    with Client(target) as client:
        for result in client.score_many(map(str, itertools.count()), ["tcet"], chunk_size=4):
            assert result["tcet"] == score_of("0", "tcet")
            break
        assert not readers()
        assert puppet.abandoned.wait(10)


@pytest.fixture
def interruptible():
    """Has SIGINT raise KeyboardInterrupt. Whoever runs the tests in the background may have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_just_before_a_wait_ends_it(target, puppet):
    """A signal that comes between two instructions of the main thread is only noted, and wakes up nobody."""
    puppet.gate.clear()
    heard = threading.Event()

    def interrupt():
        while not puppet.chunks():
            time.sleep(0.01)
        _thread.interrupt_main()  # only notes it, too
        unheard = not heard.wait(10)
        puppet.gate.set()
        return unheard

    with Client(target) as client, ThreadPoolExecutor() as pool:
        unheard = pool.submit(interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(client.score_many(["a"], ["tcet"]))
        heard.set()
        assert not unheard.result()
        assert not readers()


def test_threads_share_a_client(target):
    with Client(target) as client, ThreadPoolExecutor(8) as pool:

        def work(worker):
            names = [f"{worker}.{number}" for number in range(50)]
            results = list(client.score_many(names, ["tcet"], chunk_size=7))
            return [result["tcet"] for result in results] == [score_of(name, "tcet") for name in names]

        assert all(pool.map(work, range(8)))


def test_closing_the_generator_ends_the_wait_for_a_full_queue(target, puppet):
    puppet.item_script["b"] = [QUEUE_FULL] * 100
    with Client(target) as client:
        results = client.score_many(["a", "b"], ["tcet"], chunk_size=1)
        next(results)
        closing = threading.Thread(target=results.close)
        closing.start()
        closing.join(20)
        assert not closing.is_alive()
        assert not readers()


def test_closing_the_client_ends_what_is_in_flight(target, puppet):
    puppet.script.append(Fault(None, after=1, hangs=True))
    client = Client(target)
    results = client.score_many(["a", "b"], ["tcet"])
    next(results)
    client.close()
    with pytest.raises(UsageError, match="the client is closed"):
        next(results)
    assert not readers()


def test_default_target(target, monkeypatch):
    monkeypatch.setenv("ARCHSCORE_SERVER", target)
    with Client() as client:
        assert client.target == target
        assert client.server_info()
    monkeypatch.delenv("ARCHSCORE_SERVER")
    with Client() as client:
        assert client.target == "localhost:50051"
