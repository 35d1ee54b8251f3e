"""docs/proxies.md, which is up to date if `make check` says so, docs/limits.md and docs/metrics.md."""

import dataclasses
import importlib.util
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from archscore.spaces import nasbench201
from archscore_server import _rates, _turns, cli, config, errors, logs, pagination, recent
from archscore_server.admission import MAX_WORK
from archscore_server.config import Limits
from archscore_server.engine import EvaluationConfig, init, minibatches, tables
from archscore_server.engine.memory import USABLE_MEMORY
from archscore_server.engine.proxies import get, names
from archscore_server.engine.statistics import Pass
from archscore_server.engine.work import predicted_work
from archscore_server.metrics import ArchitectureOutcome, Metrics, _metrics, _page
from archscore_server.pool import LossReason
from archscore_server.scheduler import BatchReason, Priority, RetryReason

ROOT = Path(__file__).parents[1]
METRICS = (ROOT / "docs" / "metrics.md").read_text()
LIMITS = (ROOT / "docs" / "limits.md").read_text()
COSTS = json.loads((ROOT / "docs" / "benchmarks" / "pass-costs-cpu.json").read_text())


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "scripts" / "generate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_proxy_is_there(generator: ModuleType) -> None:
    page = generator.document(COSTS)
    for proxy in map(get, names()):
        assert page.count(f"### `{proxy.name}`\n\n{proxy.description}\n\n- `{proxy.formula}`\n- {proxy.paper}\n") == 1
        assert page.count(f"| [`{proxy.name}`](#{proxy.name}) |") == 1


def test_a_proxy_that_is_newer_than_the_measurement(generator: ModuleType) -> None:
    relative = {name: cost for name, cost in COSTS["summary"]["relative_to_snip"].items() if name != "zen"}
    page = generator.document({**COSTS, "summary": {**COSTS["summary"], "relative_to_snip": relative}})
    assert "| [`zen`](#zen) | higher | zen | no | 1 | not measured |" in page


def test_a_page_that_differs_is_refused(generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "_DOCUMENT", tmp_path / "proxies.md")
    generator.main([])
    generator.main(["--check"])
    (tmp_path / "proxies.md").write_text("old")
    with pytest.raises(SystemExit, match="make docs"):
        generator.main(["--check"])


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Limits)])
def test_every_limit_is_documented_with_its_option_and_default(field: str) -> None:
    [option] = [f"--{option}" for option, name, _, _ in cli._LIMITS if name == field]
    default = getattr(Limits(), field)
    shown = cli._BY_WORKERS[field] if default is None else f"{default:,}"
    rows = [line for line in LIMITS.splitlines() if line.startswith(f"| `{field}` |")]
    assert len(rows) == 1
    assert rows[0].startswith(f"| `{field}` | `{option}` | {shown} | ")


def test_no_limit_is_documented_that_there_is_not() -> None:
    documented = re.findall(r"^\| `(max_\w+)` \|", LIMITS, re.MULTILINE)
    assert sorted(documented) == sorted(field.name for field in dataclasses.fields(Limits))


def test_bounds_of_connections_are_documented() -> None:
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", LIMITS.partition("## Connections")[2], re.MULTILINE))
    assert rows["connections at a time"].startswith(f"{config._MAX_CONNECTIONS:,},")
    assert rows["RPCs of a connection at a time"] == f"{config._MAX_STREAMS:,}"
    assert rows["metadata of an RPC"] == f"{config._MAX_METADATA_BYTES:,} bytes"
    assert rows["time until a connection speaks HTTP/2"] == f"{config._HANDSHAKE_TIMEOUT_MS / 1000:g} s"
    assert rows["pings of a client"] == f"one in {config._MIN_PING_INTERVAL_MS / 1000:g} s"


def test_the_tally_of_fuzzing_is_what_its_file_says() -> None:
    page = (ROOT / "docs" / "fuzzing.md").read_text(encoding="utf-8").partition("## The last run")[2]
    found = json.loads((ROOT / "docs" / "benchmarks" / "fuzz.json").read_text(encoding="utf-8"))
    rows = {
        name: (inputs, bad)
        for name, inputs, bad in re.findall(r"^\| `(\w+)` \| ([\d,]+) \| (\d+) \|$", page, re.MULTILINE)
    }
    assert rows == {name: (f"{tally['inputs']:,}", str(len(tally["violations"]))) for name, tally in found.items()}


def test_bounds_of_what_is_kept_are_documented() -> None:
    kept = LIMITS.partition("## What the server keeps")[2]
    for bound in (
        f"{recent._MAX_KINDS} kinds of requests with {recent._MAX_ENCODINGS:,} short ones",
        f"times of kinds of work ({_rates._MAX_KINDS})",
        f"{_turns._MAX_DEBTS:,} clients",
        f"at most {pagination._MAX_TOKEN} characters, a page {pagination.MAX_PAGE_SIZE:,} entries",
        f"cut to {errors._MAX_QUOTED} characters",
        f"in the log to {logs._HEAD + logs._TAIL:,} characters",
        f"{init.CACHE_BYTES // 2**20} MiB of the random streams",
        f"{tables.CACHE_BYTES // 2**20} MiB of weights and {minibatches.CACHE_BYTES // 2**20} MiB of minibatches",
        f"the {1 - USABLE_MEMORY:.0%} of the memory".replace("%", " %"),
    ):
        assert bound in " ".join(kept.split())


def test_the_default_for_work_is_what_its_reason_says() -> None:
    largest = nasbench201.Cell(("nor_conv_3x3",) * 6)
    work = predicted_work(largest, names(), EvaluationConfig(repeats=Limits().max_repeats))
    assert f"({work:.1e})".replace("e+", "e") in LIMITS
    assert work <= MAX_WORK["cuda"]
    assert f"{USABLE_MEMORY:.0%}".replace("%", " %") in LIMITS


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    rows = re.findall(r"^\| `(archscore_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", METRICS, re.MULTILINE)
    documented = {name: (kind, re.findall(r"\w+", labels)) for name, kind, labels in rows}
    assert len(documented) == len(rows)
    assert documented == dict(described(Metrics()))


def described(metrics: Metrics) -> Iterator[tuple[str, tuple[str, list[str]]]]:
    """Type and labels of each metric, by name."""
    labels = {
        description.name: list(getattr(collector, "_labelnames", ()))
        for collector in metrics.registry._collector_to_names
        for description in collector.collect()
    }
    for family in metrics.registry.collect():
        suffix, kind = {"counter": ("_total", "counter"), "info": ("_info", "gauge")}.get(
            family.type, ("", family.type)
        )
        names = labels[family.name] or list(getattr(family, "_labelnames", ()))
        if family.type == "info":
            names = list(family.samples[0].labels)
        yield family.name + suffix, (kind, names)


@pytest.mark.parametrize(
    "values",
    [
        ArchitectureOutcome,
        Pass,
        get_args(BatchReason),
        get_args(RetryReason),
        get_args(LossReason),
        [priority.name.lower() for priority in Priority],
    ],
)
def test_values_of_labels_are_documented(values: Iterable[str]) -> None:
    for value in values:
        assert f"`{value}`" in METRICS


def test_bounds_of_the_metrics_page_are_documented() -> None:
    page = " ".join(METRICS.partition("## The page")[2].split())
    assert f"of which there are {_page._MAX_CONNECTIONS} at most" in page
    assert f"each ends after {_page._MAX_SECONDS:g} s" in page
    assert _page._PAUSE_FACTOR == 3, "a quarter of a core"
    assert f"the first {_metrics._MAX_CLIENTS:,} have" in METRICS
