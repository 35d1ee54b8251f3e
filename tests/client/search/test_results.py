"""Tables, plots and the summary of a search."""

from __future__ import annotations

import csv
import json
import sys

import pytest

from archscore.search import RandomSearch, Screening, Settings, run_search
from archscore.search._history import Ranked
from archscore.search._plots import pareto_front, plot_scores, plot_sizes
from archscore.search._results import summary, write_results
from support.scorers import FakeScorer, invented


def partly(architecture, proxy):
    return "degenerate" if architecture.format().startswith("|none") else invented(architecture, proxy)


def search(strategy=None, value=partly, proxies=("tcet", "naswot"), **changes):
    settings = Settings(
        space="nasbench201", evaluations=60, proxies=proxies, strategy=strategy or RandomSearch(), batch=8, **changes
    )
    return run_search(FakeScorer(value=value), settings)


def test_tables_have_every_evaluation_and_its_rank(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("matplotlib")
    history = search()
    assert write_results(history, tmp_path) == []
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    parquet = pq.read_table(tmp_path / "results.parquet")
    assert [row["architecture"] for row in rows] == [record.architecture for record in history.records]
    for row, columns, record in zip(rows, parquet.to_pylist(), history.records, strict=True):
        assert {name: "" if value is None else str(value) for name, value in columns.items()} == row
        assert columns["tcet"] == record.scores["tcet"]
    ranks = {int(row["rank"]): int(row["index"]) for row in rows if row["rank"]}
    best = [entry.record.index for entry in history.ranking() if entry.record.outcome == "ok"]
    assert ranks == dict(enumerate(best, start=1))
    assert sum(row["outcome"] == "degenerate" for row in rows) == history.failures > 0
    settings = json.loads(parquet.schema.metadata[b"archscore.search"])
    assert settings == history.settings.to_json()


def test_a_screening_ranks_its_last_stage():
    history = search(Screening((("naswot",),), 0.25), proxies=("tcet",))
    found = summary(history)
    assert found["evaluations"] == len(history.records)
    assert [entry["stage"] for entry in found["best"]] == [1] * 10
    assert found["best"][0]["fitness"] == max(record.scores["tcet"] for record in history.stage_records)


def test_the_summary_is_json_also_where_nothing_has_a_score(tmp_path):
    history = search(value=lambda *_: "degenerate")
    missing = write_results(history, tmp_path)
    assert missing == ["plots: there is nothing to draw: no architecture has a score"]
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["outcomes"] == {"degenerate": 60}
    assert found["best"][0]["fitness"] is None


@pytest.mark.parametrize("package", ["pyarrow", "matplotlib"])
def test_what_is_not_installed_is_named_with_its_remedy(tmp_path, monkeypatch, package):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    (missing,) = write_results(search(), tmp_path)
    assert f"needs {package}" in missing
    assert "pip install 'archscore[search]'" in missing
    assert (tmp_path / "results.csv").exists()


@pytest.mark.parametrize("proxies", [("tcet",), ("ntk_condition_number",), ("tcet", "naswot")])
def test_plots(tmp_path, proxies):
    pytest.importorskip("matplotlib")
    history = search(proxies=proxies)
    scored = [record for record in history.records if record.outcome == "ok"]
    (axes,) = plot_scores(history).axes
    dots = axes.collections[0].get_offsets()
    (best,) = axes.lines
    assert [number for number, _ in dots] == [record.index + 1 for record in scored]
    falls = proxies == ("ntk_condition_number",)
    if len(proxies) == 1:
        assert [value for _, value in dots] == [record.scores[proxies[0]] for record in scored]
    steps = list(best.get_ydata())
    assert steps == sorted(steps, reverse=falls)
    assert axes.get_ylabel() == ("rank sum of tcet + naswot" if len(proxies) > 1 else proxies[0])
    sizes = plot_sizes(history).axes[0]
    assert [x for x, _ in sizes.collections[0].get_offsets()] == [record.measures.parameters for record in scored]


def test_the_pareto_front(record):
    values = [(3, 5.0), (1, 1.0), (2, 4.0), (2, 3.0), (3, 5.0), (4, 4.5), (5, 6.0)]
    entries = [Ranked(record(index, parameters=size), value) for index, (size, value) in enumerate(values)]
    assert [entry.record.index for entry in pareto_front(entries)] == [1, 2, 0, 6]


def test_the_same_search_draws_the_same_files(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_results(search(), tmp_path / name)
    for name in ("scores.png", "results.csv", "results.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
