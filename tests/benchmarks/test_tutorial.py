"""What times the tutorial runs all of it, in a clone, and adds up."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import tutorial

ROOT = Path(__file__).parents[2]
SERVER = """#!/bin/bash
echo "archscore-server listening on here:1 metrics on here:2"
trap 'echo stopped >> log; exit 0' TERM
while true; do sleep 0.01; done
"""
PAGE = f"""# A tutorial

## Install

```sh
mkdir -p .venv/bin
cat > .venv/bin/serve <<'END'
{SERVER}END
chmod +x .venv/bin/serve
```

## Serve

```sh
serve
```

## Ask

```text
not run
```

```sh
echo "asks $ARCHSCORE_SERVER" >> log
```

```python
with open("log", "a") as file: file.write("computes\\n")
```
"""


def test_all_of_the_tutorial_is_found():
    found = tutorial.blocks((ROOT / "docs" / "tutorial.md").read_text())
    assert found[0].section == "Install"
    assert "pip install" in found[0].text
    assert found[1].text.startswith("archscore-server")
    assert [block.kind for block in found].count("python") == 1
    assert len({block.section for block in found}) >= 6


def test_it_is_run_in_its_order_and_timed(tmp_path):
    seconds = tutorial.measure(PAGE, tmp_path)
    assert (tmp_path / "log").read_text().splitlines() == ["asks here:1", "computes", "stopped"]
    assert list(seconds) == ["Install", "Serve", "Ask"]
    assert min(seconds.values()) > 0
    assert "| all of it | 3 |" in tutorial.table({"a": 1.0, "b": 2.0}, 5.0)


def test_what_fails_is_named(tmp_path):
    with pytest.raises(RuntimeError, match=r"false\nended with 1"):
        tutorial.measure(PAGE.replace('echo "asks $ARCHSCORE_SERVER" >> log', "false"), tmp_path)
    assert (tmp_path / "log").read_text() == "stopped\n"
    with pytest.raises(RuntimeError, match="the server did not start"):
        tutorial.measure(PAGE.replace("listening", "failing"), tmp_path)


def test_it_clones_and_reports(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "tutorial.md").write_text(PAGE)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "a"]):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.setattr(tutorial, "_ROOT", tmp_path)
    file = tmp_path / "report.json"
    assert tutorial.main(["--json", str(file), "--check"]) == 0
    report = json.loads(file.read_text())
    assert report["total"] == sum(report["seconds"].values())
    assert report["core_seconds"] > 0
    assert "| all of it |" in capsys.readouterr().out
    assert not (tmp_path / "log").exists(), "it ran in the clone"
    monkeypatch.setattr(tutorial, "_AT_MOST", 0.0)
    assert tutorial.main(["--check"]) == 1
