"""The ranking studies, on few cells and proxies that need no device."""

import csv
import gzip
import json
from pathlib import Path

import pytest

import _scores
import rank_nasbench201
import rank_published
from archscore.spaces import nasbench201
from archscore_server.engine import EvaluationConfig
from support.images import draw, write_npz

CONFIG = EvaluationConfig(batch_size=4, network=nasbench201.NetworkConfig(channels=4, cells_per_stage=1))
CELLS = rank_nasbench201.random_cells(6, seed=0)
PROXIES = ["flops", "parameters"]


def write_csv(path: Path, rows: list[dict[str, object]]) -> Path:
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_run_that_was_cut_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scores.jsonl"
    expected = _scores.score(CELLS, PROXIES, CONFIG)
    assert _scores.score(CELLS[:4], PROXIES, CONFIG, path=path) == expected[:4]
    whole = path.read_text()
    path.write_text(whole[:-10])  # the fourth line was not finished
    asked: list[object] = []

    def evaluate_stacks(cells: object, *args: object, **kwargs: object) -> object:
        asked.extend(cells)
        return original(cells, *args, **kwargs)

    original = _scores.evaluate_stacks
    monkeypatch.setattr(_scores, "evaluate_stacks", evaluate_stacks)
    assert _scores.score(CELLS, PROXIES, CONFIG, path=path) == expected
    assert asked == CELLS[3:]
    assert path.read_text().startswith(whole)
    assert _scores.score(CELLS, PROXIES, CONFIG, path=path) == expected
    assert asked == CELLS[3:]


def test_scores_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    _scores.score(CELLS, PROXIES, CONFIG, path=path)
    with pytest.raises(ValueError, match="other proxies or another config"):
        _scores.score(CELLS, ["flops"], CONFIG, path=path)
    with pytest.raises(ValueError, match="other proxies or another config"):
        _scores.score(CELLS, PROXIES, EvaluationConfig(batch_size=5, network=CONFIG.network), path=path)


def test_what_has_no_score_ranks_last_and_lower_is_better_where_it_is() -> None:
    scores = [
        {"snip": 2.0, "ntk_condition_number": 2.0},
        {"snip": "degenerate", "ntk_condition_number": "non_finite"},
        {"snip": -9.0, "ntk_condition_number": 9.0},
    ]
    accuracies = {"c": {cell.index: value for cell, value in zip(CELLS, (90.0, 10.0, 50.0), strict=False)}}
    found = rank_nasbench201.taus(CELLS[:3], scores, list(scores[0]), accuracies)
    assert [own["c"].value for own in found.values()] == [1.0, 1.0]


def test_the_study_reports_and_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [cell.size(nasbench201.SPACE.network, resolution=32, num_classes=10) for cell in CELLS]
    rows = [
        {"architecture": cell.format(), "cifar10_test": size.flops} for cell, size in zip(CELLS, sizes, strict=True)
    ]
    table, report = write_csv(tmp_path / "accuracy.csv", rows), tmp_path / "report.json"
    command = ["--accuracies", str(table), "--cells", "6", "--proxies", "flops", "--json", str(report)]
    assert rank_nasbench201.main(command) == 0
    assert "| flops | 1.000 (0.000) | 6 |" in capsys.readouterr().out
    tau = json.loads(report.read_text())["kendall_tau"]["flops"]["cifar10_test"]
    assert tau == pytest.approx({"value": 1.0, "standard_error": 0.0})
    with pytest.raises(SystemExit):
        rank_nasbench201.main([*command, "--check"])  # its targets are about other proxies
    monkeypatch.setattr(rank_nasbench201, "TARGETS", {"flops": 1.0})
    assert rank_nasbench201.main([*command, "--check"]) == 0
    monkeypatch.setattr(rank_nasbench201, "TARGETS", {"flops": 1.01})
    assert rank_nasbench201.main([*command, "--check"]) == 1
    assert "missed: tau of flops on cifar10_test is 1.000, not 1.01" in capsys.readouterr().err


def test_the_comparison_with_published_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_npz(tmp_path, "tiny", images=draw(8, 8).transpose(0, 2, 3, 1), labels=[0, 1, 2, 0, 1, 2, 0, 1])
    monkeypatch.setattr(rank_published, "TARGETS", {"flops": 0.9, "parameters": 0.9})
    monkeypatch.setattr(rank_published, "COLUMNS", {"parameters": "params"})
    rows = [
        {"dataset": dataset, "arch_str": cell.format(), "flops": size.flops, "params": -size.parameters}
        for dataset in ("cifar10", "cifar100")
        for cell in CELLS[:3]
        for size in [cell.size(nasbench201.SPACE.network, resolution=8, num_classes=3)]
    ]
    table = write_csv(tmp_path / "published.csv", rows)
    command = ["--published", str(table), "--images", str(tmp_path / "tiny.npz"), "--batch-size", "4", "--check"]
    assert rank_published.main(command) == 1
    out, err = capsys.readouterr()
    assert "| flops | 1.0000 | 0.90 | 3 |" in out
    assert "missed: Spearman's correlation of parameters is -1.0000, not 0.90" in err
