"""The ablations of Table 1: measured, compared with the default, resumed and documented, on tiny networks."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import json_format

import _scores
import _variants
import ablations
from ablations import DEFAULT, Row, Term
from archscore.spaces.nasbench201 import SPACE, NetworkConfig, parse
from archscore.study._cells import random_cells
from archscore.study._file import ScoreFile
from archscore.study._published import COLUMNS, TAU
from archscore.study._rows import ProxyInfo, Setting
from archscore.study._rows import Row as StudyRow
from archscore_server.engine import EvaluationConfig, evaluate
from archscore_server.engine.proxies import get
from archscore_server.responses import config_message
from references import plain_loop
from support.images import draw, write_npz

CONFIG = EvaluationConfig(batch_size=8, resolution=8, network=NetworkConfig(4, 1))
COUNT = 6
CELLS = random_cells(COUNT, seed=0)
PROXIES = sorted({"layerwise_naswot_train", *(proxy for target in TAU for proxy in target)})


def write_study(path: Path, config: EvaluationConfig) -> Path:
    infos = {name: ProxyInfo(get(name).version, get(name).higher_is_better, ()) for name in PROXIES}
    setting = Setting(0, json_format.MessageToDict(config_message(config, SPACE)), infos)
    with ScoreFile.open_for(path, setting, {}) as file:
        for cell, evaluation in zip(CELLS, evaluate(CELLS, PROXIES, config), strict=True):
            scores = {
                name: own.outcome.value if own.value is None else own.value for name, own in evaluation.scores.items()
            }
            file.add(StudyRow(cell.index, scores, {}))
    return path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Options that name a study, accuracies and images."""
    directory = tmp_path_factory.mktemp("ablations")
    for name, classes in ((_variants.CIFAR10, 10), (_variants.CIFAR100, 100)):
        labels = [label % classes for label in range(128)]
        write_npz(directory, name.removeprefix("npz:"), images=draw(128, 8).transpose(0, 2, 3, 1), labels=labels)
    accuracies = directory / "accuracy.csv"
    with accuracies.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", *COLUMNS])
        writer.writerows([cell.format(), *(place + 10.0 for _ in COLUMNS)] for place, cell in enumerate(CELLS))
    study = write_study(directory / "study.parquet", CONFIG)
    return ["--study", str(study), "--accuracies", str(accuracies), "--data-dir", str(directory)]


@pytest.fixture
def run(inputs, tmp_path, monkeypatch, capsys):
    """Runs the script; returns its report and what it printed."""
    monkeypatch.setattr(ablations, "_CONFIG", CONFIG)

    def run(*arguments):
        file = tmp_path / "report.json"
        common = ["--scores", str(tmp_path / "scores"), "--cells", str(COUNT), "--resamples", "3"]
        assert ablations.main([*inputs, *common, "--json", str(file), *arguments]) == 0
        return json.loads(file.read_text()), capsys.readouterr().out

    return run


def test_every_variant_is_compared_on_the_same_cells_and_scored_once(run, monkeypatch):
    report, printed = run()
    assert set(report["variants"]) == {variant.name for variant in _variants.variants(CONFIG)}
    targets = {tuple(own["row"]) for own in report["rows"]}
    assert targets == {("naswot",), ("layerwise_naswot",), ("ssnr",), ("tcet",), ("grasp",), ablations.TE_NAS}
    for own in report["rows"]:
        assert own["cells"] == COUNT
        for figure in own["tau"].values():
            assert figure["difference"]["value"] == pytest.approx(figure["tau"] - figure["default"], nan_ok=True)
        assert f"| {own['variant']} | {COUNT} |" in printed

    def refuse(*arguments, **options):
        raise AssertionError("scored again")

    monkeypatch.setattr(_scores, "evaluate_stacks", refuse)
    monkeypatch.setattr(_variants, "_outcome", refuse)
    again, _ = run("--report-only")
    assert again["rows"] == report["rows"]


def test_a_variant_with_fewer_cells_is_compared_on_those(run):
    run("--only", "seed1", "--cells", "4")
    report, printed = run("--report-only")
    assert list(report["variants"]) == ["seed1"]
    assert {own["cells"] for own in report["rows"] if own["variant"] == "seed 1"} == {4}
    assert "| default | 4 |" in printed


def test_a_report_is_extended_by_other_variants(run, inputs):
    one, _ = run("--only", "seed1", "--cells", "4")
    less, _ = run("--report-only", "--only", "seed2")
    assert less["variants"] == {}
    run("--only", "seed1", "--cells", "4")
    both, printed = run("--only", "seed2", "--cells", "3", "--extend")
    assert list(both["variants"]) == ["seed1", "seed2"]
    of_seed_1 = [own for own in both["rows"] if own["variant"] == "seed 1"]
    assert of_seed_1 == [own for own in one["rows"] if own["variant"] == "seed 1"]
    assert {own["cells"] for own in both["rows"] if own["variant"] == "seed 2"} == {3}
    assert "| seed 1 | 4 |" in printed
    more, _ = run("--only", "seed2", "--extend")
    assert {own["cells"] for own in more["rows"] if own["variant"] == "seed 2"} == {COUNT}
    with pytest.raises(ValueError, match="another study, other accuracies or another number of resamples"):
        run("--only", "seed2", "--extend", "--resamples", "5")
    with pytest.raises(SystemExit):
        ablations.arguments([*inputs, "--extend"])


def test_the_page_has_the_tables_of_the_report(run, tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{ablations._BEGIN}\nold\n{ablations._END}\nafter\n")
    monkeypatch.setattr(ablations, "_PAGE", page)
    monkeypatch.setattr(ablations, "_ROOT", tmp_path)
    _, printed = run("--only", "batch32", "--document")
    assert page.read_text() == f"before\n{ablations._BEGIN}\n\n{printed.strip()}\n\n{ablations._END}\nafter\n"


def test_a_study_of_something_else_and_unknown_variants_are_refused(run, tmp_path):
    with pytest.raises(SystemExit):
        run("--only", "nothing")
    other = write_study(
        tmp_path / "other.parquet", EvaluationConfig(batch_size=4, resolution=8, network=CONFIG.network)
    )
    with pytest.raises(ValueError, match="is not of the config"):
        run("--study", str(other))


def test_a_study_of_all_cells(run, inputs, monkeypatch):
    study = inputs[inputs.index("--study") + 1]
    with pytest.raises(ValueError, match="has 6 of 15,625"):
        run("--report-only", "--whole", study)
    monkeypatch.setattr(ablations, "cells", lambda: CELLS)
    report, printed = run("--report-only", "--whole", study)
    of_sample = {
        tuple(own["row"]): {column: figure["value"] for column, figure in own["tau"]["all"].items()}
        for own in report["samples"]
    }
    assert {(proxy,): own for proxy, own in report["whole_space"].items()} == {
        target: own for target, own in of_sample.items() if len(target) == 1
    }
    figure = f"{of_sample[('synflow',)][COLUMNS[0]]:.3f}"
    assert f"| `synflow` | 0.54 | {figure} |  |" in printed
    accuracies = Path(inputs[inputs.index("--accuracies") + 1])
    header, *lines = accuracies.read_text().splitlines()
    with_validation = accuracies.with_name("validation.csv")
    lines = [f"{line},{line.rpartition(',')[2]}" for line in lines]
    with_validation.write_text("\n".join([f"{header},{COLUMNS[0].replace('test', 'valid')}", *lines]))
    _, printed = run("--report-only", "--whole", study, "--accuracies", str(with_validation))
    assert f"| `synflow` | 0.54 | {figure} | {figure} |" in printed


def test_published_scores(run, tmp_path):
    table = tmp_path / "published.csv"
    with table.open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["dataset", "arch_str", *ablations._PUBLISHED])
        for dataset, sign in (("cifar10", 1), ("cifar100", -1), ("ImageNet16-120", 1)):
            for place, cell in enumerate(CELLS):
                last = "nan" if place == 0 else sign * place
                writer.writerow([dataset, cell.format(), *(sign * place for _ in ablations._PUBLISHED[1:]), last])
    report, printed = run("--report-only", "--published", str(table))
    for proxy in ablations._PUBLISHED[:-1]:
        assert [own["value"] for own in report["published"][proxy].values()] == pytest.approx([1, -1, 1])
        assert {own["cells"] for own in report["published"][proxy].values()} == {COUNT}
    first_column = report["published"][ablations._PUBLISHED[-1]][COLUMNS[0]]
    assert first_column["value"] == pytest.approx(1), "a score that is none ranks last"
    assert "| `grasp` | 0.37 | 1.000 [" in printed


def test_what_has_no_score_and_what_is_averaged():
    measured = {
        DEFAULT: [{"grasp": 2.0}, {"grasp": "degenerate"}, {"grasp": -3.0}, {"grasp": 1.0}],
        "seed1": [{"grasp": 4.0}, {"grasp": "degenerate"}, {"grasp": 1.0}, {"grasp": 1.0}],
    }
    terms = (Term("grasp", (DEFAULT,)),)

    def values(row):
        return row.values(measured, 4).tolist()

    assert values(Row(("grasp",), "", terms)) == [2.0, -math.inf, -3.0, 1.0]
    assert values(Row(("grasp",), "", terms, unscored=0.0, transform=abs)) == [2.0, 0.0, 3.0, 1.0]
    assert values(Row(("grasp",), "", (Term("grasp", (DEFAULT, "seed1")),))) == [3.0, -math.inf, -1.0, 1.0]
    left_out = Row(("grasp",), "", terms, unscored=None)
    assert np.isnan(left_out.values(measured, 4)).tolist() == [False, True, False, False]
    accuracies = np.repeat([[3.0], [9.0], [1.0], [2.0]], len(COLUMNS), axis=1)
    figures = ablations.compared(left_out, measured, accuracies, resamples=2)["tau"]
    assert {(own["tau"], own["default"]) for own in figures.values()} == {(1.0, 0.0)}


def test_naswot_in_eval_mode_is_what_ordinary_pytorch_gives():
    cell = parse("index:6111")
    network = plain_loop.Network(cell.operations, channels=4, cells_per_stage=1, num_classes=10, seed=0).eval()
    images, _ = plain_loop.minibatch(0, CONFIG.batch_size, CONFIG.resolution, 10)
    kernel = torch.zeros(CONFIG.batch_size, CONFIG.batch_size, dtype=torch.float64)

    def compare(module, received, output):
        code = (received[0].flatten(1) > 0).double()
        kernel.add_(code @ code.T + (1 - code) @ (1 - code).T)

    for module in network.modules():
        if isinstance(module, torch.nn.ReLU):
            module.register_forward_hook(compare)
    with torch.no_grad():
        network(images)
    assert _variants.naswot_eval(cell, CONFIG, None) == pytest.approx(float(torch.logdet(kernel)), rel=1e-3)


def test_thin_regions_are_counted():
    def regions(encoding):
        return _variants.thin_regions(parse(encoding), EvaluationConfig(batch_size=50), None)

    # one ReLU of nine entries, after a BatchNorm: a region is the signs of nine numbers
    linear = regions("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    codes = []
    for number in range(3):
        images = np.random.Generator(np.random.PCG64([0, 1_000_000 + number])).standard_normal((50, 9))
        codes.append(images > images.mean())
    assert linear == len(np.unique(np.concatenate(codes), axis=0))
    assert linear < regions("|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|") <= 150
