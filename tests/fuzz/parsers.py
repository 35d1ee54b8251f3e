"""Gives the parsers of encodings millions of texts, in several processes."""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from types import FrameType
from typing import Final

from fuzz.encodings import encoding
from fuzz.properties import check, check_work
from fuzz.tally import Tally, ViolationError

TARGET: Final = "parsers"

#: Inputs that a process is given at a time.
BLOCK: Final = 5_000

#: Seconds after which an input is taken to hang its parser.
PATIENCE: Final = 60

#: Characters from which the work for an input is counted; of shorter ones, that of one in so many.
LONG: Final = 500
SAMPLED: Final = 20


def run_block(seed: int, first: int, inputs: int) -> Tally:
    """Checks inputs one after the other, from number `first` on."""
    tally = Tally(TARGET)
    before = signal.signal(signal.SIGALRM, _hangs)
    try:
        for number in range(first, first + inputs):
            kind, space, text = encoding(seed, number)
            signal.alarm(PATIENCE)
            try:
                outcome = check(space, text, number)
                if len(text) >= LONG or number % SAMPLED == 0:
                    check_work(space, text)
            except Exception as error:  # noqa: BLE001 -- whatever a parser raises is what is looked for
                outcome = "violation"
                tally.violation(f"input {number} ({kind}, {space}): {_words(error)}: {text[:2_000]!a}")
            finally:
                signal.alarm(0)
            tally.count(f"{space} {kind}", f"{space} {outcome}")
    finally:
        signal.signal(signal.SIGALRM, before)
    return tally


def run(seed: int, first: int, inputs: int, *, processes: int, last: float, progress: Callable[[Tally], None]) -> Tally:
    """Checks inputs in several processes.

    Args:
        seed: with the number, makes an input.
        first: number of the first.
        inputs: how many.
        processes: how many work at a time.
        last: by `time.monotonic`, when no more are begun.
        progress: told from time to time.
    """
    tally, started = Tally(TARGET), time.monotonic()
    # Not forked: this process has threads of gRPC's.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        blocks = _blocks(first, inputs)
        running = {pool.submit(run_block, seed, *block) for _, block in zip(range(2 * processes), blocks, strict=False)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for block in done:
                tally.add(block.result())
                if time.monotonic() < last and (following := next(blocks, None)):
                    running.add(pool.submit(run_block, seed, *following))
            progress(tally)
    tally.seconds = time.monotonic() - started
    return tally


def _blocks(first: int, inputs: int) -> Iterator[tuple[int, int]]:
    for start in range(first, first + inputs, BLOCK):
        yield start, min(BLOCK, first + inputs - start)


def _words(error: Exception) -> str:
    if isinstance(error, ViolationError):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:500]} at {last.filename}:{last.lineno}"


def _hangs(_number: int, _frame: FrameType | None) -> None:
    raise ViolationError(f"no answer within {PATIENCE} s")
