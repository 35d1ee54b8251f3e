"""The searches of ZenNAS by several proxies: resumed, ranked and documented."""

from __future__ import annotations

import json

import pytest

import search_zennas
from archscore.search import run_search
from archscore.spaces import zennas

PROXIES = "naswot,ntk_condition_number,random"
TINY = ("--evaluations", "6", "--batch", "4", "--config", '{"batch_size": 4, "resolution": 8}')


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the script; returns its report and what it printed."""
    monkeypatch.setattr(search_zennas.zennas, "_SAMPLE_STEPS", 4)

    def run(*arguments):
        file = tmp_path / "report.json"
        options = [
            "--output",
            str(tmp_path / "searches"),
            "--proxies",
            PROXIES,
            "--json",
            str(file),
        ]
        assert search_zennas.main([*options, *TINY, *arguments]) == 0
        return json.loads(file.read_text()), capsys.readouterr().out

    return run


def test_every_proxy_searches_and_scores_what_all_found(run):
    report, printed = run()
    assert [(own["by"], own["seed"]) for own in report["found"]] == [
        (by, seed) for by in ("naswot", "ntk_condition_number", "random") for seed in (0, 1)
    ]
    for own, scores in zip(report["found"], report["scores"], strict=True):
        genome = zennas.parse(own["genome"])
        assert zennas.CIFAR_BUDGET.fits(genome)
        assert own["sub_layers"] == genome.sub_layers
        best = own["curve"][-1]
        assert best[0] == own["found_at"]
        if own["by"] == "random":
            assert sum(own["outcomes"].values()) == 6
            assert set(scores) == {"naswot", "ntk_condition_number"}
        else:
            assert best[1] == pytest.approx(scores[own["by"]], rel=1e-4)
        assert own["genome"] in printed


def test_a_run_that_was_cut_off_goes_on(run, monkeypatch):
    def cut(scorer, settings, **options):
        if settings.seed == 1:
            raise KeyboardInterrupt
        return run_search(scorer, settings, **options)

    monkeypatch.setattr(search_zennas, "run_search", cut)
    with pytest.raises(KeyboardInterrupt):
        run()
    asked = []

    def watch(scorer, settings, *, on_record, **options):
        def note(record, history):
            asked.append((settings.seed, record.index))

        return run_search(scorer, settings, on_record=note, **options)

    monkeypatch.setattr(search_zennas, "run_search", watch)
    run()
    assert {seed for seed, _ in asked} == {1}


def test_a_random_search_asks_nothing_and_depends_on_its_seed(run):
    report, _ = run("--proxies", "random")
    first, second = report["found"]
    assert report["scores"] == [{}, {}]
    assert 0 < first["curve"][0][1] < 1
    assert first["curve"] != second["curve"]
    assert run("--proxies", "random")[0]["found"] == report["found"]


def test_an_earlier_report_is_extended(run):
    earlier, _ = run("--proxies", "naswot")
    report, _ = run("--proxies", "random", "--extend")
    assert [own["by"] for own in report["found"]] == ["naswot", "naswot", "random", "random"]
    assert report["found"][:2] == earlier["found"]
    assert [set(own) for own in report["scores"]] == [{"naswot"}] * 4
    assert report["scores"][:2] == earlier["scores"]
    with pytest.raises(ValueError, match="other evaluations: 6"):
        run("--proxies", "random", "--extend", "--evaluations", "7")


def test_ranks_go_the_way_of_the_proxy():
    scores = [{"naswot": value, "ntk_condition_number": value} for value in (2.0, None, 3.0, 2.0)]
    assert search_zennas.ranks(scores, "naswot") == [2.5, 4.0, 1.0, 2.5]
    assert search_zennas.ranks(scores, "ntk_condition_number") == [1.5, 4.0, 3.0, 1.5]


def test_the_page_has_the_tables_of_the_report(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{search_zennas._BEGIN}\nold\n{search_zennas._END}\nafter\n")
    monkeypatch.setattr(search_zennas, "_PAGE", page)
    monkeypatch.setattr(search_zennas, "_ROOT", tmp_path)
    monkeypatch.setattr(search_zennas, "_PLOT", tmp_path / "plot.png")
    _, printed = run("--document", "--seeds", "0")
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert printed.strip() in text
    assert (tmp_path / "plot.png").stat().st_size > 10_000
