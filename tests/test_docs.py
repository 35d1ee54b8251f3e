"""docs/proxies.md; that it is up to date, `make check` says."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from archscore_server.engine.proxies import get, names

ROOT = Path(__file__).parents[1]
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
