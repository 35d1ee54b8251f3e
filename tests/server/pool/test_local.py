from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from archscore.spaces import nasbench201
from archscore_server.engine import ArchitectureTooLargeError, Evaluation, EvaluationConfig
from archscore_server.engine.stack_sizes import Tuned, Workload, record
from archscore_server.pool import (
    Batch,
    BatchFailedError,
    DeviceInfo,
    LossReason,
    Memory,
    NullPoolObserver,
    PoolInfo,
    PoolStartError,
    WorkerLostError,
    _watch,
    local,
)
from archscore_server.pool._expectation import Expectation
from archscore_server.pool._messages import Start as StartMessage
from archscore_server.pool._process import WorkerProcess
from archscore_server.pool._torch_engine import TorchEngine, machine
from archscore_server.pool._watch import Timeouts
from archscore_server.pool.local import LocalPool
from archscore_server.scheduler import Item, Scheduler
from puppets import (
    SLOW,
    ExitingEngine,
    PlannedEngine,
    PuppetEngine,
    StackingEngine,
    UnavailableEngine,
    cell,
    evaluation_of,
)

#: Nothing here takes this long: it keeps a test that hangs from hanging for ever.
PATIENCE = 60

#: Seconds of silence after which workers are taken for hung, where that is what a test is about.
SILENCE = 1.5


def batch(proxy: str, *indices: int) -> Batch:
    return Batch(tuple(cell(index) for index in indices), (proxy,), EvaluationConfig())


class Results:
    """What a batch has reported, and when it has reported something."""

    def __init__(self) -> None:
        self.messages: list[list[tuple[int, Evaluation]]] = []
        self.first = asyncio.Event()
        self.third = asyncio.Event()

    def __call__(self, results: Any) -> None:
        self.messages.append(list(results))
        self.first.set()
        if len(self.all) >= 3:
            self.third.set()

    @property
    def all(self) -> list[tuple[int, Evaluation]]:
        return [result for message in self.messages for result in message]

    def value(self, proxy: str) -> int:
        [(_, evaluation)] = self.all
        return int(evaluation.scores[proxy].value or 0)


class Readiness(NullPoolObserver):
    """Hears how many workers are ready, how many are busy, how they are lost and what memory they use."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []
        self.busy: list[int] = []
        self.reasons: list[LossReason] = []
        self.memory: dict[tuple[int, str], Memory] = {}
        self._changed = asyncio.Event()

    def workers_changed(self, *, idle: int, busy: int, workers: int) -> None:
        if self.busy[-1:] != [busy]:
            self.busy.append(busy)
        ready = (idle + busy, workers)
        if self.heard[-1:] != [ready]:
            self.heard.append(ready)
            self._changed.set()

    def worker_lost(self, reason: LossReason) -> None:
        self.reasons.append(reason)

    def worker_memory(self, place: int, device: str, memory: Memory) -> None:
        self.memory[place, device] = memory

    async def until(self, ready: int) -> None:
        while self.heard[-1][0] != ready:
            self._changed.clear()
            await self._changed.wait()


Start = Callable[..., Coroutine[Any, Any, LocalPool]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    pools = []

    async def start(workers: int = 1, **kwargs: Any) -> LocalPool:
        pool = LocalPool(device="cpu", workers=workers, threads=1, **{"load": PuppetEngine, **kwargs})
        pools.append(pool)
        async with asyncio.timeout(PATIENCE):
            await pool.start()
        return pool

    yield start
    async with asyncio.timeout(PATIENCE):
        for pool in pools:
            await pool.stop()


def children() -> set[int]:
    """Processes that the main thread has started, but for a helper of multiprocessing, which stays to the end."""
    pid = os.getpid()
    started = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    return {child for child in started if "multiprocessing" not in command_line(child)}


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:  # gone meanwhile
        return ""


def oom_score_adj(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def belongings() -> tuple[set[int], int, int, int]:
    """Processes, open files, threads and tasks."""
    files = len(list(Path("/proc/self/fd").iterdir()))
    return children(), files, threading.active_count(), len(asyncio.all_tasks())


async def until(condition: Callable[[], bool]) -> None:
    """For what nothing tells of: a process that appears, a thread that ends."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.001)


async def pid_of(pool: LocalPool) -> int:
    results = Results()
    await pool.run(batch("pid", 1), results)
    return results.value("pid")


async def test_it_says_what_runs_in_the_workers(start: Start) -> None:
    pool = await start(workers=2)
    assert pool.info == PoolInfo("2.0", "1.0", (DeviceInfo("cpu", "puppet", 2, 1, 2**30),))
    assert (pool.slots, pool.ready_workers, pool.max_batch) == (2, 2, 4)


async def test_it_says_how_many_workers_are_busy(start: Start) -> None:
    readiness = Readiness()
    pool = await start(workers=2, observer=readiness)
    for indices in ((1,), (2, 3)):
        await pool.run(batch("tcet", *indices), Results())
    assert readiness.busy == [0, 1, 0, 1, 0]
    assert readiness.heard == [(1, 2), (2, 2)]


async def test_a_report_has_the_seconds_of_each_pass(start: Start) -> None:
    pool = await start()
    report = await pool.run(batch("tcet", 1, 2, 3), Results())
    assert report.pass_seconds == {"train": 3.0}
    report = await pool.run(batch("tcet", 1), Results())
    assert report.pass_seconds == {"train": 1.0}


async def test_workers_say_what_memory_they_use_while_idle(start: Start) -> None:
    readiness = Readiness()
    pool = await start(workers=2, observer=readiness, heartbeat_timeout=SILENCE)
    async with asyncio.timeout(PATIENCE):
        await until(lambda: len(readiness.memory) == 2)
    assert set(readiness.memory) == {(0, "cpu"), (1, "cpu")}
    assert {memory.resident for memory in readiness.memory.values()} == children()
    assert pool.ready_workers == 2


async def test_workers_say_what_memory_they_use_while_they_are_busy(start: Start) -> None:
    readiness = Readiness()
    pool = await start(observer=readiness)
    await pool.run(batch("tcet", 1), Results())
    assert set(readiness.memory) == {(0, "cpu")}


async def test_a_worker_that_has_nothing_to_do_gives_back_what_it_keeps_for_the_next_batch(start: Start) -> None:
    readiness = Readiness()
    pool = await start(observer=readiness, heartbeat_timeout=SILENCE)
    await pool.run(batch("tcet", 1), Results())
    assert readiness.memory[0, "cpu"].device_used == 2
    async with asyncio.timeout(PATIENCE):
        await until(lambda: readiness.memory[0, "cpu"].device_used == 0)
    await pool.run(batch("tcet", 1), Results())
    assert readiness.memory[0, "cpu"].device_used == 2


async def test_before_the_start_there_is_no_info() -> None:
    with pytest.raises(RuntimeError, match="not started"):
        _ = LocalPool(device="cpu", load=PuppetEngine).info


async def test_results_come_in_order(start: Start) -> None:
    pool = await start()
    results = Results()
    report = await pool.run(batch("tcet", 5, 6, 7), results)
    assert results.all == [(place, evaluation_of(cell(index))) for place, index in enumerate((5, 6, 7))]
    assert 0 <= report.compute_seconds < PATIENCE


async def test_results_come_while_the_batch_runs(start: Start) -> None:
    pool = await start()
    results = Results()
    run = asyncio.create_task(pool.run(batch("hang", 1, 2), results))
    async with asyncio.timeout(PATIENCE):
        await results.first.wait()
    assert not run.done()
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_results_that_go_together_wait_for_no_others(start: Start) -> None:
    pool = await start()
    results = Results()
    run = asyncio.create_task(pool.run(batch("hang_later", 1, 2, 3, 4), results))
    async with asyncio.timeout(PATIENCE):
        await results.third.wait()
    assert results.all == [(place, evaluation_of(cell(place + 1))) for place in range(3)]
    assert not run.done()
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)


async def test_messages_may_be_larger_than_a_pipe(start: Start) -> None:
    pool = await start()
    results = Results()
    await pool.run(batch("tcet", *range(15_625)), results)
    assert len(results.all) == 15_625


async def test_what_a_library_prints_is_not_taken_for_a_message(start: Start) -> None:
    pool = await start()
    results = Results()
    await pool.run(batch("print", 1), results)
    assert len(results.messages) == 1


async def test_threads_are_set_before_the_engine_loads(start: Start) -> None:
    pool = await start()
    results = Results()
    await pool.run(batch("threads", 1), results)
    assert results.value("threads") == 1


async def test_two_workers_run_at_once_and_a_third_batch_waits(start: Start) -> None:
    pool = await start(workers=2)
    hanging = [Results(), Results()]
    runs = [asyncio.create_task(pool.run(batch("hang", 1, 2), results)) for results in hanging]
    async with asyncio.timeout(PATIENCE):
        for results in hanging:
            await results.first.wait()
    third = asyncio.create_task(pool.run(batch("tcet", 3), Results()))
    await asyncio.sleep(0)
    assert not third.done()
    for run in (*runs, third):
        run.cancel()
    await asyncio.gather(*runs, third, return_exceptions=True)


async def test_a_batch_that_raises_fails_and_its_worker_lives_on(start: Start) -> None:
    pool = await start()
    pid = await pid_of(pool)
    results = Results()
    with pytest.raises(BatchFailedError, match="no such luck"):
        await pool.run(batch("raise", 1, 2), results)
    assert results.all == [(0, evaluation_of(cell(1)))]
    assert await pid_of(pool) == pid


@pytest.mark.parametrize(
    ("proxy", "ending", "reason"),
    [
        ("exit", "ended with exit code 7", "died"),
        ("kill", "was killed by SIGKILL", "died"),
        ("break", "reported a device error: .*the device is broken", "device_error"),
        ("stop", "hung and is killed: it was silent", "hung"),
        ("freeze", "hung and is killed: it was silent", "hung"),
    ],
)
async def test_a_worker_that_is_lost_is_replaced(start: Start, proxy: str, ending: str, reason: LossReason) -> None:
    readiness = Readiness()
    pool = await start(observer=readiness, heartbeat_timeout=SILENCE)
    pid = await pid_of(pool)
    results = Results()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(WorkerLostError, match=ending) as caught:
            await pool.run(batch(proxy, 1, 2), results)
        assert await pid_of(pool) != pid
    assert caught.value.reason == reason
    assert readiness.reasons == [reason]
    assert readiness.heard == [(1, 1), (0, 1), (1, 1)]
    assert (pool.slots, pool.ready_workers) == (1, 1)
    assert results.all == ([] if proxy in ("exit", "kill") else [(0, evaluation_of(cell(1)))])


async def test_a_worker_killed_in_the_middle_of_a_batch_is_replaced(start: Start) -> None:
    pool = await start(workers=2)
    pids = {await pid_of(pool), await pid_of(pool)}
    results = Results()
    hanging = asyncio.create_task(pool.run(batch("hang", 1, 2), results))
    async with asyncio.timeout(PATIENCE):
        await results.first.wait()
        free = await pid_of(pool)
        [busy] = pids - {free}
        os.kill(busy, signal.SIGKILL)
        with pytest.raises(WorkerLostError, match="SIGKILL"):
            await hanging
        assert results.all == [(0, evaluation_of(cell(1)))]
        assert await pid_of(pool) == free


async def test_a_worker_killed_while_it_is_free_is_replaced(start: Start) -> None:
    readiness = Readiness()
    pool = await start(observer=readiness)
    pid = await pid_of(pool)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        await readiness.until(0)
        await readiness.until(1)
        assert await pid_of(pool) != pid


async def test_a_worker_stopped_while_it_is_free_is_replaced(start: Start) -> None:
    readiness = Readiness()
    pool = await start(observer=readiness, heartbeat_timeout=SILENCE)
    pid = await pid_of(pool)
    os.kill(pid, signal.SIGSTOP)
    async with asyncio.timeout(PATIENCE):
        await readiness.until(0)
        await readiness.until(1)
        assert await pid_of(pool) != pid
    assert readiness.reasons == ["hung"]
    assert readiness.heard == [(1, 1), (0, 1), (1, 1)]


async def test_a_batch_that_never_ends_is_ended(start: Start) -> None:
    """An endless kernel: signs of life go on."""
    pool = await start(batch_timeout=0.5)
    results = Results()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(WorkerLostError, match="far longer than it should") as caught:
            await pool.run(batch("hang", 1, 2), results)
        assert caught.value.reason == "hung"
        assert len(results.messages) == 1
        await pool.run(batch("tcet", 1), results)


async def test_a_batch_that_never_ends_is_ended_though_nobody_waits_for_it(start: Start) -> None:
    readiness = Readiness()
    pool = await start(batch_timeout=0.5, observer=readiness)
    results = Results()
    run = asyncio.create_task(pool.run(batch("hang", 1, 2), results))
    async with asyncio.timeout(PATIENCE):
        await results.first.wait()
        run.cancel()
        await readiness.until(0)
        await readiness.until(1)
    await asyncio.gather(run, return_exceptions=True)


async def test_a_slow_batch_that_reports_its_stacks_is_left_alone(start: Start) -> None:
    readiness = Readiness()
    pool = await start(batch_timeout=3 * SLOW, observer=readiness)
    results = Results()
    async with asyncio.timeout(PATIENCE):
        await pool.run(batch("slow", *range(8)), results)
    assert len(results.all) == 8
    assert not readiness.reasons


async def test_that_a_network_does_not_fit_is_a_result(start: Start) -> None:
    pool = await start()
    results = Results()
    await pool.run(batch("huge", 1, 2), results)
    errors = [error for _, error in results.all]
    assert [(type(error), error.needed) for error in errors] == [(ArchitectureTooLargeError, 2)] * 2  # type: ignore[attr-defined]


async def test_a_batch_waits_for_the_successor_of_a_dead_worker(start: Start) -> None:
    readiness = Readiness()
    pool = await start(observer=readiness)
    os.kill(await pid_of(pool), signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        await readiness.until(0)
        assert pool.ready_workers == 0
        run = asyncio.create_task(pid_of(pool))
        await readiness.until(1)
        assert not run.done()
        [successor] = children()
        assert await run == successor


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_worker_that_is_lost_while_it_starts_is_tried_again(
    start: Start, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    readiness = Readiness()
    pool = await start(observer=readiness, heartbeat_timeout=SILENCE)
    monkeypatch.setattr(_watch, "_LEAST_START_SILENCE", 0)
    first = await pid_of(pool)
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        await until(lambda: bool(children() - {first}))
        [second] = children() - {first}
        os.kill(second, number)
        await readiness.until(0)
        await readiness.until(1)
        assert await pid_of(pool) not in {first, second}
    assert readiness.heard == [(1, 1), (0, 1), (1, 1)]
    assert readiness.reasons == ["died"], "a start that fails is no worker that was lost"


async def test_a_start_that_hangs_or_fails_is_tried_again(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plan = tmp_path / "plan"
    plan.write_text("go stop exit go")
    pool = await start(load=PlannedEngine, data_dir=tmp_path, heartbeat_timeout=SILENCE)
    monkeypatch.setattr(_watch, "_LEAST_START_SILENCE", 0)
    pid = await pid_of(pool)
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        await until(lambda: not plan.read_text())
        assert await pid_of(pool) != pid
    assert pool.ready_workers == 1


async def test_a_pool_whose_workers_hang_as_they_start_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = children()
    (tmp_path / "plan").write_text("stop")
    monkeypatch.setattr(_watch, "_LEAST_START_SILENCE", 0)
    pool = LocalPool(
        device="cpu", workers=1, threads=1, load=PlannedEngine, data_dir=tmp_path, heartbeat_timeout=SILENCE
    )
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(PoolStartError, match="hung before it was ready"):
            await pool.start()
    assert children() == before


async def test_workers_killed_again_and_again_are_replaced_each_time(start: Start) -> None:
    readiness = Readiness()
    pool = await start(observer=readiness)
    pids = set()
    async with asyncio.timeout(PATIENCE):
        for _ in range(10):
            pid = await pid_of(pool)
            pids.add(pid)
            os.kill(pid, signal.SIGKILL)
            await readiness.until(0)
            await readiness.until(1)
        pids.add(await pid_of(pool))
    assert len(pids) == 11
    assert readiness.heard == [(1, 1)] + [(0, 1), (1, 1)] * 10


async def test_signs_of_life_do_not_mix_with_large_messages() -> None:
    start = StartMessage(PuppetEngine, "cpu", 1, None, beat=0.0001)
    work = batch("large", *range(15_625))
    results = Results()
    async with asyncio.timeout(PATIENCE):
        worker = await WorkerProcess.spawn(start, {}, Timeouts(PATIENCE, PATIENCE))
        listening = asyncio.create_task(worker.listen(lambda: None))
        for _ in range(5):
            await worker.run(work, results, Expectation().of(work, "cpu"))
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await worker.bury()
    assert [len(stack) for stack in results.messages] == [15_625] * 5


async def test_the_kernel_prefers_workers_when_memory_runs_out(start: Start) -> None:
    pool = await start()
    assert oom_score_adj(await pid_of(pool)) >= 500


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_workers_do_not_heed_signals_meant_for_the_front_end(start: Start, number: signal.Signals) -> None:
    pool = await start()
    pid = await pid_of(pool)
    os.kill(pid, number)
    assert await pid_of(pool) == pid


async def test_a_cancelled_batch_is_finished_and_its_results_are_dropped(start: Start) -> None:
    pool = await start()
    results = Results()
    run = asyncio.create_task(pool.run(batch("tcet", *range(1000)), results))
    async with asyncio.timeout(PATIENCE):
        await results.first.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        heard = len(results.messages)
        await pool.run(batch("tcet", 7), Results())
    assert len(results.messages) == heard


async def test_a_caller_that_raises_gets_its_error_and_the_pool_goes_on(start: Start) -> None:
    pool = await start()

    def on_results(results: Any) -> None:
        raise KeyError("a fault of the caller")

    with pytest.raises(KeyError):
        await pool.run(batch("tcet", 1, 2), on_results)
    await pool.run(batch("tcet", 1), Results())


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (UnavailableEngine, "CUDA is not available: no GPU"),
        (ExitingEngine, "ended with exit code 9 before it was ready"),
    ],
)
async def test_a_pool_that_cannot_start_says_why_and_leaves_nothing(engine: Any, reason: str) -> None:
    before = children()
    pool = LocalPool(device="cpu", workers=2, threads=1, load=engine)
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(PoolStartError, match=reason):
            await pool.start()
    assert children() == before
    await pool.stop()


async def test_a_start_that_is_cancelled_leaves_nothing() -> None:
    before = children()
    pool = LocalPool(device="cpu", workers=2, threads=1, load=PuppetEngine)
    start = asyncio.create_task(pool.start())
    async with asyncio.timeout(PATIENCE):
        await until(lambda: children() != before)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
    assert children() == before


async def test_stop_ends_a_start_that_is_under_way() -> None:
    before = children()
    pool = LocalPool(device="cpu", workers=2, threads=1, load=PuppetEngine)
    start = asyncio.create_task(pool.start())
    async with asyncio.timeout(PATIENCE):
        await until(lambda: children() != before)
        await pool.stop()
        assert children() == before
        with pytest.raises(PoolStartError, match="stopped"):
            await start


async def test_stop_right_after_start_leaves_nothing() -> None:
    before = children()
    pool = LocalPool(device="cpu", workers=2, threads=1, load=PuppetEngine)
    async with asyncio.timeout(PATIENCE):
        await pool.start()
        await pool.stop()
    assert children() == before


async def test_stop_leaves_no_process_no_thread_and_no_file() -> None:
    async def use() -> None:
        readiness = Readiness()
        pool = LocalPool(
            device="cpu",
            workers=2,
            threads=1,
            load=PuppetEngine,
            heartbeat_timeout=SILENCE,
            observer=readiness,
        )
        await pool.start()
        for proxy in ("stop", "kill"):
            with pytest.raises(WorkerLostError):
                await pool.run(batch(proxy, 1, 2), Results())
        await readiness.until(2)
        results = Results()
        hanging = asyncio.create_task(pool.run(batch("hang", 1, 2), results))
        await results.first.wait()
        await pool.run(batch("tcet", 1, 2), Results())
        waiting = [asyncio.create_task(pool.run(batch("hang", 3, 4), Results())) for _ in range(2)]
        await asyncio.sleep(0)
        os.kill(max(children()), signal.SIGSTOP)
        await pool.stop()
        for run in (hanging, *waiting):
            with pytest.raises(WorkerLostError):
                await run

    async with asyncio.timeout(PATIENCE):
        # Threads of asyncio that still hold on to processes of other tests.
        await until(lambda: not any(thread.name.startswith("waitpid") for thread in threading.enumerate()))
        before = belongings()
        await use()
        await until(lambda: all(now <= then for now, then in zip(belongings(), before, strict=True)))


@pytest.mark.parametrize("proxy", ["hang", "freeze", "stop"])
def test_workers_do_not_outlive_a_front_end_that_is_killed(proxy: str) -> None:
    script = textwrap.dedent(
        """
        import asyncio
        import sys
        from archscore_server.engine import EvaluationConfig
        from archscore_server.pool import Batch
        from archscore_server.pool.local import LocalPool
        from puppets import PuppetEngine, cell

        async def main():
            pool = LocalPool(device="cpu", workers=2, threads=1, load=PuppetEngine)
            await pool.start()
            hang = Batch((cell(1), cell(2)), (sys.argv[1],), EvaluationConfig())
            await pool.run(hang, lambda results: print("hangs", flush=True))

        asyncio.run(main())
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, proxy],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as front_end:
        assert front_end.stdout
        assert front_end.stdout.readline() == b"hangs\n"
        front_end.kill()
        # The workers, one busy and one free, share its stderr: that closes when the last of them is gone.
        _, complaints = front_end.communicate(timeout=PATIENCE)
    assert complaints == b""


async def test_nothing_is_lost_while_workers_are_killed(start: Start) -> None:
    """A scheduler over a pool whose workers are killed all the time, one by one."""
    readiness = Readiness()
    pool = LocalPool(device="cpu", workers=2, threads=1, load=PuppetEngine, observer=readiness)
    scheduler = Scheduler(pool, max_queued=20_000, batch_delay=0, max_batch=64)
    async with asyncio.timeout(PATIENCE):
        await scheduler.start()
        waiters = scheduler.submit([Item(cell(index), ("tcet",), EvaluationConfig()) for index in range(15_000)])
        waiters[0].add_done_callback(lambda waiter: os.kill(max(children()), signal.SIGKILL))
        for number in range(8):
            await waiters[1000 * number].result()
            os.kill((min if number % 2 else max)(children()), signal.SIGKILL)
            await readiness.until(1)
        await scheduler.drain()
        await scheduler.stop()
    assert [waiter.outcome for waiter in waiters] == [evaluation_of(cell(index)) for index in range(15_000)]


@pytest.mark.parametrize(("visible", "expected"), [(None, ["0", "1", "0"]), ("3, GPU-5", ["3", "GPU-5", "3"])])
async def test_each_worker_sees_one_gpu(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: list[str]
) -> None:
    async def probe_gpus() -> list[str]:
        return ["a GPU", "another GPU"]

    monkeypatch.setattr(local, "probe_gpus", probe_gpus)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    pool = LocalPool(device="auto", workers=3, threads=1, load=PuppetEngine)
    async with asyncio.timeout(PATIENCE):
        await pool.start()
        await pool.stop()
    assert [seat.variables["CUDA_VISIBLE_DEVICES"] for seat in pool._seats] == expected
    assert [(device.kind, device.workers) for device in pool.info.devices] == [("cuda", 2), ("cuda", 1)]
    assert pool.max_batch == 128


@pytest.mark.slow
async def test_workers_evaluate_with_torch_unless_told_otherwise() -> None:
    pool = LocalPool(device="cpu", workers=1)
    results = Results()
    config = EvaluationConfig(batch_size=4, resolution=8)
    async with asyncio.timeout(PATIENCE):
        await pool.start()
        try:
            await pool.run(Batch((cell(6111), cell(7)), ("parameters", "tcet"), config), results)
        finally:
            await pool.stop()
    assert pool.info.torch_version
    [device] = pool.info.devices
    assert device.kind == "cpu"
    assert device.memory_bytes > 2**30
    evaluations = dict(results.all)
    assert sorted(evaluations) == [0, 1]
    assert list(evaluations[0].scores) == ["parameters", "tcet"]


@pytest.mark.slow
@pytest.mark.parametrize("told", [None, 3])
async def test_workers_take_the_stack_size_that_was_measured_unless_they_are_told_one(
    tmp_path: Path, told: int | None
) -> None:
    tiny = EvaluationConfig(batch_size=2, resolution=8, network=nasbench201.NetworkConfig(4, 1))
    record(tmp_path, machine("cpu", 1), Workload.of(["snip"], tiny), Tuned(2, {}))
    record(tmp_path, machine("cpu", 2), Workload.of(["snip"], tiny), Tuned(64, {}))
    pool = LocalPool(device="cpu", workers=1, threads=1, load=partial(TorchEngine, stack_size=told, cache_dir=tmp_path))
    cells = (cell(6111), cell(7), cell(81))
    measured, another = Results(), Results()
    async with asyncio.timeout(PATIENCE):
        await pool.start()
        try:
            await pool.run(Batch(cells, ("snip",), tiny), measured)
            await pool.run(Batch(cells, ("snip",), replace(tiny, batch_size=3)), another)
        finally:
            await pool.stop()
    assert len(measured.messages[0]) == (told or 2)
    assert len(another.messages[0]) == (told or 1)
    assert pool.max_batch == 4


@pytest.mark.parametrize(("device", "largest"), [("cpu", 64), ("cuda", 4 * 64)])
async def test_a_batch_is_as_large_as_the_largest_stack_and_on_a_gpu_some_stacks(
    monkeypatch: pytest.MonkeyPatch, device: Literal["cpu", "cuda"], largest: int
) -> None:
    async def probe_gpus() -> list[str]:
        return ["a GPU"]

    monkeypatch.setattr(local, "probe_gpus", probe_gpus)
    pool = LocalPool(device=device, workers=2, threads=1, load=StackingEngine)
    async with asyncio.timeout(PATIENCE):
        await pool.start()
        await pool.stop()
    assert pool.max_batch == largest
    assert pool.info.tf32
    assert pool.info.stack_size == 64


@pytest.mark.slow
async def test_cuda_that_is_not_there_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(PoolStartError, match="CUDA is not available"):
            await LocalPool(device="cuda").start()
