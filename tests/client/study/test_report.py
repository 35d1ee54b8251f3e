"""What a study says of scores and accuracies: tables, Markdown, JSON, plots."""

import json
from pathlib import Path

import pytest

from archscore import UsageError
from archscore.study import _plots, _tables
from archscore.study._accuracies import read_csv
from archscore.study._file import ScoreFile
from archscore.study._page import write_section
from archscore.study._study import Study


@pytest.fixture
def study(scores: Path, accuracies: Path) -> Study:
    return Study.join(ScoreFile.read(scores), read_csv(accuracies), resamples=9)


def test_the_best_comes_first(study: Study) -> None:
    assert next(iter(study.rankings)) == ("ssnr",)
    figures = study.rankings[("ssnr",)]["cifar10_test"]
    # One pair of 1,770 ties: the two cells that are disconnected.
    assert figures.tau.value == pytest.approx((1769 / 1770) ** 0.5)
    assert figures.regret.value == 0


def test_lower_is_better_where_it_is(study: Study) -> None:
    assert study.rankings[("ntk_condition_number",)]["cifar10_test"].tau.value > 0.5


def test_the_rank_sum_that_the_paper_reports_is_there(study: Study) -> None:
    one = ("ntk_condition_number", "linear_regions")
    assert study.scored(one) == study.scored(("ntk_condition_number",)) == 57
    alone = study.rankings[("ntk_condition_number",)]["cifar10_test"].tau.value
    assert 0 < study.rankings[one]["cifar10_test"].tau.value < alone


def test_costs_are_those_of_the_passes(study: Study) -> None:
    assert study.seconds(("ssnr",)) == 0.5
    assert study.seconds(("ntk_condition_number", "linear_regions")) == 2.0
    assert study.seconds(("parameters",)) == 0


def test_rank_sums_are_of_proxies_of_these_passes(study: Study) -> None:
    choice = study.choice(["train"])
    assert {name for own in choice.best for name in own.proxies} == {"linear_regions", "parameters", "snip", "ssnr"}
    assert choice.single.proxies == ("ssnr",)
    assert len(choice.best[0].taus) == 3  # validation does not count where there are test accuracies
    with pytest.raises(UsageError, match="unknown passes: trian; these proxies need ntk, train"):
        study.choice(["trian"])
    with pytest.raises(UsageError, match="takes two proxies"):
        study.choice([])


def test_cells_of_unknown_accuracy_are_left_out(scores: Path, accuracies: Path) -> None:
    lines = accuracies.read_text().splitlines()
    accuracies.write_text("\n".join(lines[:11]))
    study = Study.join(ScoreFile.read(scores), read_csv(accuracies), resamples=2)
    assert len(study.rows) == 10
    accuracies.write_text("\n".join(lines[:4]))
    with pytest.raises(UsageError, match="there are 3 cells"):
        Study.join(ScoreFile.read(scores), read_csv(accuracies), resamples=2)


def test_a_terminal(study: Study) -> None:
    text = _tables.terminal(study, study.choice(["train"]))
    taus, rhos, *_ = [line.split() for line in text.splitlines() if line.startswith("ssnr ")]
    assert (taus[1], taus[-1]) == ("1.000", "58")
    assert (rhos[1], rhos[-3:]) == ("1.000", ["0.00", "[0.00,", "0.00]"])
    assert "Kendall's tau on 60 cells" in text
    assert "ranked by" in text


def test_markdown(study: Study) -> None:
    text = _tables.markdown(study, study.choice(["train"]), commands=["archscore study"], plots={"Tau": "a/tau.png"})
    assert "60 cells drawn at random without replacement from the 15,625 (seed 0)" in text
    assert "archscore 1.2.3, torch 9.9, cpu (abacus)" in text
    assert "All 5 proxies took 0.03 hours of CPU time." in text  # 58 cells of 2 s
    assert "2 here are disconnected, and at most 1 have a value that is not finite" in text
    [ssnr] = [line for line in text.splitlines() if line.startswith("| `ssnr` | 1.000") and "0.68" in line]
    assert [cell.strip() for cell in ssnr.split("|")][3::2] == ["0.68", "0.65", "0.63"]
    assert "`ssnr` (+0.32, +0.35, +0.37)" in text
    assert "### Beyond the paper" in text
    assert "![Tau](a/tau.png)" in text
    assert "```sh\narchscore study\n```" in text


def test_a_study_that_agrees_with_the_paper_says_so(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archscore.study._published.TAU", {("ssnr",): (0.98, 1.02, 1.0)})
    assert "All of the paper's proxies are within 0.03" in _tables.markdown(study, None, commands=[], plots={})
    monkeypatch.setattr("archscore.study._published.TAU", {("ssnr",): (0.98, 1.04, 1.0)})
    assert "`ssnr` (+0.02, -0.04, +0.00)" in _tables.markdown(study, None, commands=[], plots={})


def test_json(study: Study) -> None:
    found = json.loads(_tables.to_json(study, study.choice(["train"])))
    assert found["cells"] == 60
    assert found["setting"]["proxies"]["snip"]["passes"] == ["train"]
    [ssnr] = [own for own in found["rankings"] if own["proxies"] == ["ssnr"]]
    assert ssnr["accuracies"]["cifar10_test"]["tau"]["value"] == pytest.approx(0.9997, abs=1e-4)
    assert found["rank_sums"]["judged_on"] == 30


def test_no_plot_of_costs_that_are_not_known(study: Study) -> None:
    assert _plots.costs(study) is not None
    study.__dict__["pass_seconds"] = {}
    assert _plots.costs(study) is None


def test_the_page_around_a_section_is_kept(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    write_section(page, "one\n")
    assert page.read_text().count("one") == 1
    page.write_text("# Title\n\n" + page.read_text() + "\nEnd.\n")
    write_section(page, "two")
    assert "one" not in page.read_text()
    assert page.read_text().startswith("# Title\n\n<!--")
    assert page.read_text().endswith("-->\n\nEnd.\n")
    other = tmp_path / "other.md"
    other.write_text("# Mine\n")
    write_section(other, "three")
    assert other.read_text().startswith("# Mine\n\n<!--")
