"""The dashboards: what is committed is what is generated, and nothing on them is unexplained."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards import __main__ as generator
from dashboards._panels import DATASOURCE, GRAFANA_VERSION
from monitoring.expressions import DASHBOARDS, ROOT, panels

PAGES = {path.stem: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}
PANELS = [(f"{name}: {panel['title']}", panel) for name, page in PAGES.items() for panel in panels(page)]
PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"


def test_there_is_one_for_users_and_one_for_operators() -> None:
    assert set(PAGES) == {"users", "operators"}
    assert len({page["uid"] for page in PAGES.values()}) == len(PAGES)


def test_those_committed_are_as_generated() -> None:
    generator.main(["--check"])


def test_one_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "_DIRECTORY", tmp_path)
    (tmp_path / "old.json").write_text("{}")
    generator.main([])
    assert {path.stem for path in tmp_path.iterdir()} == set(PAGES)
    generator.main(["--check"])
    (tmp_path / "users.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"users\.json not as generated: run 'make dashboards'"):
        generator.main(["--check"])
    generator.main([])
    (tmp_path / "old.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"old\.json not as generated"):
        generator.main(["--check"])


@pytest.mark.parametrize(("place", "panel"), PANELS, ids=[place for place, _ in PANELS])
def test_a_panel_has_a_unit_and_says_what_to_do(place: str, panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert len(panel["description"]) > 60
    assert panel["datasource"]["uid"] == DATASOURCE.uid
    for target in panel["targets"]:
        assert target["datasource"]["uid"] == DATASOURCE.uid
        assert target["legendFormat"]
        for window in re.findall(r"\[([^]]+)\]", target["expr"]):
            assert window == "$__rate_interval" or "increase(" in target["expr"]


@pytest.mark.parametrize("name", PAGES)
def test_panels_do_not_overlap_and_fill_their_rows(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in PAGES[name]["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    rows = {y for _, y in taken}
    assert rows == set(range(max(rows) + 1))
    assert len(taken) == 24 * len(rows)


@pytest.mark.parametrize("name", PAGES)
def test_titles_are_unique(name: str) -> None:
    titles = [panel["title"] for panel in PAGES[name]["panels"]]
    assert len(titles) == len(set(titles))


def test_the_datasource_that_the_panels_ask_is_provisioned() -> None:
    [datasource] = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert datasource["uid"] == DATASOURCE.uid
    assert datasource["type"] == DATASOURCE.type_val
    assert datasource["url"] == "http://prometheus:9090"


@pytest.mark.skipif(not (ROOT / "deploy" / "base.yml").exists(), reason="no compose files")
def test_compose_runs_the_grafana_that_they_are_for() -> None:
    service = yaml.safe_load((ROOT / "deploy" / "base.yml").read_text())["services"]["grafana"]
    assert service["image"] == f"grafana/grafana:{GRAFANA_VERSION}"
    [provider] = yaml.safe_load((PROVISIONING / "dashboards" / "archscore.yml").read_text())["providers"]
    assert any(f":{provider['options']['path']}" in str(volume) for volume in service["volumes"])
