"""The sections of gpu.py: each measures one thing and gives rows of the table."""

from __future__ import annotations

import importlib.util
import itertools
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import numpy as np
import torch

from _gpu_run import Row, Run, Work, skipped
from archscore.spaces import zennas
from archscore.spaces.nasbench201 import Cell, sample
from archscore_server.engine import Datasets, EvaluationConfig, Precision, _pipeline, evaluate
from archscore_server.engine import proxies as registry
from archscore_server.engine._launch import usable_bytes
from archscore_server.engine._numerics import arithmetic, has_tf32
from archscore_server.engine._pipeline import run_stacks
from archscore_server.engine.memory import ArchitectureTooLargeError, fits, runs_single
from archscore_server.engine.stack_sizes import STACKS_A_BATCH
from archscore_server.engine.work import predicted_work
from references import plain_loop, toolkit

Section: TypeAlias = Callable[[Run], Iterator[Row]]

System: TypeAlias = Callable[[Cell, Sequence[str]], Work]
"""Prepares to score a cell with proxies; what it gives does it, once."""

WORKLOADS: Mapping[str, tuple[str, ...]] = {"tcet": ("tcet",), "bundle": plain_loop.PROXIES}

#: What the service needs besides the engine.
_SERVICE = ("click", "grpc", "grpc_health", "grpc_reflection", "grpc_status", "prometheus_client", "structlog")

_LAUNCHES = 10_000

#: Networks that small stacks are timed on together, at most.
_MOST_CELLS = 48

#: Bytes of what is sent to the device.
_TRANSFERRED = 2**26

#: Seconds for a server to start: it loads torch twice, and once more in each worker.
_SERVER_START = 45.0

_TESTS = Path(__file__).resolve().parents[1] / "tests"


def ceilings(run: Run) -> Iterator[Row]:
    """The most that the device does: products, copies, launches."""
    side, name = run.setting.matrix, "ceilings"
    factors = torch.randn(2, side, side, device=run.device)
    for precision in (Precision.FLOAT32, Precision.TF32):
        if precision is Precision.TF32 and not has_tf32(run.device):
            yield skipped(name, "matrix product, tf32", "the device has no TF32")
            continue
        with arithmetic(precision, run.device):
            seconds = run.median(partial(torch.matmul, *factors))
        yield Row(
            name, f"matrix product, {precision.value}", 2 * side**3 / seconds / 1e12, "TFLOP/s", f"{side} squared"
        )
    del factors
    source = torch.ones(run.setting.copied // 4, device=run.device)
    target = torch.empty_like(source)
    seconds = run.median(lambda: target.copy_(source))
    yield Row(name, "memory copy", 2 * source.nbytes / seconds / 1e9, "GB/s", "read and written")
    if not run.cuda:
        for what in ("launches", "pageable transfer", "pinned transfer"):
            yield skipped(name, what, "only on CUDA")
        return
    one = torch.zeros(1, device=run.device)

    def launch() -> None:
        for _ in range(_LAUNCHES):
            one.add_(1)

    yield Row(name, "launches", _LAUNCHES / run.median(launch) / 1e3, "thousand/s", "add_ of one value, one thread")
    for what, host in (
        ("pageable transfer", torch.ones(_TRANSFERRED // 4)),
        ("pinned transfer", torch.ones(_TRANSFERRED // 4).pin_memory()),
    ):
        seconds = run.median(partial(host.to, run.device, non_blocking=host.is_pinned()))
        yield Row(name, what, host.nbytes / seconds / 1e9, "GB/s", "host to device")


def golden(run: Run) -> Iterator[Row]:
    """The reference scores: all proxies of all cases, within the tolerances of the definitions."""
    cases, images = _load("golden_cases"), _load("support/images")
    with tempfile.TemporaryDirectory() as directory:
        images.write_golden(Path(directory))
        data = Datasets(Path(directory))
        left = sorted(cases.cases(), key=partial(_work, cases))[: run.setting.golden]
        found: dict[Precision, dict[str, float]] = {Precision.FLOAT32: {}, Precision.FLOAT64: {}}
        took = 0.0
        while left and run.budget.allows(2 * took):
            case, started = left.pop(0), time.monotonic()
            for precision, deviations in found.items():
                for name, deviation in _deviations(cases, case, precision, run.device, data).items():
                    deviations[f"{name} of {case['encoding'][:60]} {cases.case_id(case)}"] = deviation
            took = time.monotonic() - started
    for precision, deviations in found.items():
        what = f"scores that match, {precision.value}"
        if not deviations:
            yield skipped("golden", what, "no time")
            continue
        wrong = [name for name, deviation in deviations.items() if not deviation <= 1]
        worst = max(deviations, key=lambda name: deviations[name])
        note = f"of {len(deviations)}; the worst uses {deviations[worst]:.2g} of its tolerance: {worst}"
        note += f"; {len(left)} cases skipped: no time" if left else ""
        note += f"; wrong: {', '.join(wrong[:5])}" if wrong else ""
        yield Row("golden", what, len(deviations) - len(wrong), "", note, bool(wrong))


def stacks(run: Run) -> Iterator[Row]:
    """Networks a second by batch size and stack size."""
    for batch_size, workload in itertools.product(run.setting.batch_sizes, WORKLOADS):
        config = run.setting.config(batch_size)
        rates: dict[int, float] = {}
        took = 0.0
        for size in run.setting.stack_sizes:
            what = f"{workload}, batch {batch_size}, stack {size}"
            if not run.budget.allows(2 * took):
                yield skipped("stacks", what, "no time")
                continue
            started = time.monotonic()
            row = _stack_row(run, what, WORKLOADS[workload], config, size)
            took = time.monotonic() - started
            yield row
            if row.value is None:
                break
            rates[size] = row.value
        if rates:
            run.best[workload, batch_size] = max(rates, key=lambda size: rates[size])


def pipeline(run: Run) -> Iterator[Row]:
    """What it gains to give the device the next stack before this one is read."""
    cells = _sample(run.setting.sample, 3)
    size = min(run.stack_size("tcet"), max(1, len(cells) // 4))  # several stacks, or none has a next one
    ask = partial(evaluate, cells, WORKLOADS["tcet"], run.setting.config(), device=run.device, stack_size=size)
    seconds: dict[int, float] = {}
    for behind, how in enumerate(("read before the next is launched", "read behind the next")):
        what = f"tcet, stacks {how}"
        if not run.budget.allows(seconds.get(0, 0.0) * run.setting.rounds):
            yield skipped("pipeline", what, "no time")
            continue
        with mock.patch.dict(_pipeline.BEHIND, {run.device.type: behind}):
            seconds[behind] = run.median(ask)
        yield Row("pipeline", what, len(cells) / seconds[behind], "networks/s", f"stacks of {size}")


def opponents(run: Run, *, directory: Path) -> Iterator[Row]:
    """The plain loop and the toolkit beside the engine, taking turns, in IEEE float32 and as torch is by default."""
    config = run.setting.config()
    systems: dict[str, System] = {
        "plain loop": partial(_plain_loop, run, tf32=False),
        **({"plain loop, TF32 convolutions": partial(_plain_loop, run, tf32=True)} if has_tf32(run.device) else {}),
    }
    try:
        toolkit.install(directory)
        score = toolkit.load(directory, run.device.type)
        systems["toolkit"] = partial(_toolkit, run, score, tf32=False)
        if has_tf32(run.device):
            systems["toolkit, TF32 convolutions"] = partial(_toolkit, run, score, tf32=True)
    except (ImportError, OSError, subprocess.SubprocessError) as error:
        yield skipped("opponents", f"alethiometer {toolkit.VERSION}", f"cannot be had: {error}")
    for workload, proxies in WORKLOADS.items():
        size = run.stack_size(workload)
        ours = partial(evaluate, proxies=proxies, config=config, device=run.device, stack_size=size)
        cells = [own for _, own in zip(range(max(size, len(run.cells))), itertools.cycle(run.cells), strict=False)]
        seconds = run.median(lambda: ours(cells)) / len(cells)  # noqa: B023 -- called at once
        yield Row("opponents", f"{workload}, archscore", 1 / seconds, "networks/s", f"stacks of {size}")
        for name, system in systems.items():
            yield _opponent_row(run, f"{workload}, {name}", system, proxies, seconds)


def zen(run: Run) -> Iterator[Row]:
    """Zen with its repeats side by side, and one after the other."""
    config = EvaluationConfig(
        batch_size=run.setting.batch_sizes[0],
        resolution=32,
        repeats=run.setting.repeats,
        network=zennas.NetworkConfig(),
    )
    seconds: dict[str, float] = {}
    for how, size in (("stacked", run.setting.repeats), ("looped", 1)):
        if not run.budget.allows(2 * seconds.get("stacked", 0.0)):
            yield skipped("zen", how, "no time")
            continue
        seconds[how] = run.median(
            partial(evaluate, [zennas.START], ["zen"], config, device=run.device, stack_size=size)
        )
        note = f"{run.setting.repeats} repeats, stacks of {size} at most"
        yield Row("zen", how, 1 / seconds[how], "genomes/s", note)


def tf32(run: Run) -> Iterator[Row]:
    """How much faster TF32 is, and how far its scores are from those of float32."""
    if not has_tf32(run.device):
        yield skipped("tf32", "scores and speed", "the device has no TF32")
        return
    cells = _sample(run.setting.sample, 1)
    size = run.stack_size("bundle")
    found: dict[Precision, Any] = {}
    seconds: dict[Precision, float] = {}
    for precision in (Precision.FLOAT32, Precision.TF32):
        config = run.setting.config(precision=precision)
        ask = partial(evaluate, cells, plain_loop.PROXIES, config, device=run.device, stack_size=size)
        seconds[precision] = run.median(lambda: found.__setitem__(precision, ask()))  # noqa: B023 -- called at once
        yield Row(
            "tf32", f"bundle, {precision.value}", len(cells) / seconds[precision], "networks/s", f"stacks of {size}"
        )
    for proxy in plain_loop.PROXIES:
        exact, rounded = (
            np.array([own.scores[proxy].value for own in found[precision]], dtype=np.float64)
            for precision in (Precision.FLOAT32, Precision.TF32)
        )
        relative = np.abs(rounded - exact) / np.abs(exact)
        ranks = np.corrcoef(exact.argsort().argsort(), rounded.argsort().argsort())[0, 1]
        note = f"relative, at most {relative.max():.2g}; rank correlation {ranks:.5f} over {len(cells)} cells"
        yield Row("tf32", f"{proxy}, change of the score", float(np.median(relative)), "median", note)


def service(run: Run) -> Iterator[Row]:
    """The service from end to end, with one and with several workers on each device."""
    missing = [module for module in _SERVICE if importlib.util.find_spec(module) is None]
    if missing:
        yield skipped("service", "end to end", f"these are not installed: {', '.join(missing)}")
        return
    size = run.stack_size("tcet")
    cells = _sample(run.setting.served, 2)
    direct = partial(evaluate, cells, WORKLOADS["tcet"], run.setting.config(), device=run.device, stack_size=size)
    rate = len(cells) / run.seconds(direct)
    yield Row("service", "tcet, the engine by itself", rate, "networks/s", f"stacks of {size}, other cells than above")
    if run.cuda:
        torch.cuda.empty_cache()  # the workers need it
    devices = torch.cuda.device_count() if run.cuda else 1
    for workers in run.setting.workers:
        what = f"tcet, {workers} workers on each of {devices} devices"
        expected = _SERVER_START + 2 * workers * len(cells) / rate
        if not run.budget.allows(expected if run.cuda else 0):
            yield skipped("service", what, "no time")
            continue
        served = _served_rate(run, workers * devices, size)
        yield Row("service", what, served, "networks/s", f"{served / rate:.2f} of the engine by itself")


def _stack_row(run: Run, what: str, proxies: Sequence[str], config: EvaluationConfig, size: int) -> Row:
    """Networks a second in stacks of a size."""
    try:
        available = usable_bytes(run.device)
        single = runs_single(run.cells[0], config, size, run.device.type)
        most = min(fits(cell, proxies, config, available, device=run.device.type, single=single) for cell in run.cells)
    except ArchitectureTooLargeError as error:
        return skipped("stacks", what, str(error))
    if size > most:
        return skipped("stacks", what, f"there is memory for {most}, as predicted")
    # Whole rounds of the cells, so that all sizes are timed on the same mix; large stacks are near it anyway.
    whole = math.lcm(size, len(run.cells))
    count = whole if whole <= _MOST_CELLS else size * STACKS_A_BATCH[run.device.type]
    cells = [cell for _, cell in zip(range(count), itertools.cycle(run.cells), strict=False)]
    out_of_memory = False

    def work() -> None:
        nonlocal out_of_memory
        stacks = ((cells[start : start + size], [0] * size) for start in range(0, count, size))
        out_of_memory = out_of_memory or not run_stacks(stacks, proxies, config, run.device)

    if run.cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = run.median(work)
    if out_of_memory:
        return skipped("stacks", what, "memory ran out")
    peak = f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GiB of tensors at most" if run.cuda else ""
    return Row("stacks", what, count / seconds, "networks/s", peak)


def _work(cases: Any, case: dict[str, Any]) -> tuple[bool, int]:
    """Orders cases by how long they take; real images come last."""
    architecture = cases.architecture(case)
    return bool(case.get("dataset")), predicted_work(architecture, ["tcet"], cases.engine_config(case, "float32"))


def _deviations(
    cases: Any, case: dict[str, Any], precision: Precision, device: torch.device, data: Datasets
) -> dict[str, float]:
    """How far each score is from its reference, in units of its tolerance; inf where the outcome is another one."""
    config = cases.engine_config(case, precision)
    [evaluation] = evaluate([cases.architecture(case)], registry.names(), config, data=data, device=device)
    found = {}
    for name, score in evaluation.scores.items():
        expected = case["scores"].get(name)
        if expected is None or score.value is None:
            outcome = "non_finite" if name in case.get("non_finite", []) else "degenerate"
            same = expected is None and score.value is None and score.outcome.value == outcome
            found[name] = 0.0 if same else float("inf")
        else:
            allowed = cases.tolerance(name, precision) * abs(expected)
            off = abs(score.value - expected)
            found[name] = off / allowed if allowed else (0.0 if off == 0 else float("inf"))
    return found


def _opponent_row(run: Run, what: str, system: System, proxies: Sequence[str], ours: float) -> Row:
    """Networks a second of an opponent, and how many times as long it takes."""
    try:
        warm = run.seconds(system(run.cells[0], proxies))
        estimate = len(run.cells) * run.setting.rounds * warm
        rounds = run.setting.rounds if run.budget.allows(estimate) else 1
        if not run.budget.allows(estimate / run.setting.rounds):
            return skipped("opponents", what, "no time")
        by_cell = [statistics.median(run.seconds(system(cell, proxies)) for _ in range(rounds)) for cell in run.cells]
    except Exception as error:  # noqa: BLE001 -- it is somebody else's, and what it cannot do is worth a line
        return Row("opponents", what, note=f"failed: {type(error).__name__}: {str(error).splitlines()[0]}")
    seconds = statistics.fmean(by_cell)
    return Row("opponents", what, 1 / seconds, "networks/s", f"archscore is {seconds / ours:.2f} times as fast")


def _plain_loop(run: Run, cell: Cell, proxies: Sequence[str], *, tf32: bool) -> Work:
    def work() -> object:
        with _convolutions(tf32):
            return plain_loop.score(cell, proxies, **_plain_setting(run), device=run.device.type)

    return work


def _toolkit(run: Run, score: toolkit.Score, cell: Cell, proxies: Sequence[str], *, tf32: bool) -> Work:
    """Its network is ready-made, as in score_nasbench201.py."""
    setting = _plain_setting(run)
    shape = {name: setting[name] for name in ("channels", "cells_per_stage", "num_classes", "seed")}
    images, labels = plain_loop.minibatch(
        setting["seed"], setting["batch_size"], setting["resolution"], setting["num_classes"], run.device.type
    )
    images = images.contiguous()
    network = plain_loop.Network(cell.operations, **shape).to(run.device)

    def work() -> object:
        with _convolutions(tf32):
            return score(network, proxies, images, labels)

    return work


def _convolutions(tf32: bool) -> Any:
    """The arithmetic of opponents: torch's default has TF32 in convolutions alone."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=tf32)


def _plain_setting(run: Run) -> dict[str, int]:
    config = run.setting.config()
    return {
        "channels": run.setting.channels,
        "cells_per_stage": run.setting.cells_per_stage,
        "batch_size": config.batch_size,
        "resolution": config.resolution,
        "num_classes": config.num_classes,
        "seed": config.seed,
    }


def _served_rate(run: Run, workers: int, size: int) -> float:
    """Networks a second of a server of its own, none of them stored."""
    from archscore import Client
    from overhead import address_of, process

    config = {
        "batchSize": run.setting.batch_sizes[0],
        "resolution": run.setting.resolution,
        "nasbench201": {"channels": run.setting.channels, "cellsPerStage": run.setting.cells_per_stage},
    }
    options = ("--workers", str(workers), "--stack-size", str(size), "--log-level", "warning")
    ports = ("--port", "0", "--metrics-port", "0")
    with (
        process("-m", "archscore_server", "--device", run.device.type, *ports, *options) as server,
        Client(address_of(server)) as client,
    ):

        def ask(count: int, seed: int) -> None:
            for result in client.score_many(_sample(count, seed), WORKLOADS["tcet"], config=config, ordered=False):
                if result.error is not None:
                    raise result.error

        ask(workers * size, 3)
        count = workers * run.setting.served
        started = time.perf_counter()
        ask(count, 4)
        return count / (time.perf_counter() - started)


def _sample(count: int, seed: int) -> list[Cell]:
    """Random connected cells, each once."""
    rng = random.Random(seed)
    found: dict[Cell, None] = {}
    while len(found) < count:
        cell = sample(rng)
        if cell.connected:
            found[cell] = None
    return list(found)


def _load(name: str) -> Any:
    """A module of the tests, which are no package and not on the path."""
    spec = importlib.util.spec_from_file_location(f"tests_{name.replace('/', '_')}", _TESTS / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(f"no {name} in {_TESTS}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
