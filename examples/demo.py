"""Starts a server here, scores 24 NAS-Bench-201 cells through the command line, ranks them by T-CET, stops the server.

python examples/demo.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import archscore.testing

PROXIES = ["tcet", "ssnr", "naswot", "snip", "parameters"]

#: Cells by their index in the benchmark. Best and worst go by its test accuracy on CIFAR-10 after 200 epochs; in the
#: disconnected ones no path leads from input to output.
CELLS = {
    "best": [6111, 13714, 9930, 3731, 5111, 81],
    "worst": [5759, 6921, 11892, 6477, 3426, 3448],
    "disconnected": [10, 12, 74],
    "random": [3011, 14253, 875, 9404, 12220, 6738, 1590, 10067, 4826],
}

SCRIPTS = Path(sysconfig.get_path("scripts"))


def main() -> int:
    """Runs the demonstration; returns an exit code."""
    groups = {f"index:{index}": group for group, indices in CELLS.items() for index in indices}
    print(f"Starting archscore-server for {len(groups)} cells and {len(PROXIES)} proxies ...", flush=True)
    with archscore.testing.server(workers=None) as server:
        options = ["--server", server.address, "--space", "nasbench201", "--proxies", ",".join(PROXIES)]
        command: list[str | Path] = [SCRIPTS / "archscore", "score", *options, "--json", *groups]
        print(f"$ archscore score {' '.join(options)} --json index:...\n", flush=True)
        scored = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not scored.returncode:
        print_ranking(list(groups.items()), [json.loads(line) for line in scored.stdout.splitlines()])
    return scored.returncode


def print_ranking(cells: list[tuple[str, str]], results: list[dict[str, Any]]) -> None:
    """Prints a line an architecture, the highest T-CET first and those without one last."""
    rows = []
    for (encoding, group), result in zip(cells, results, strict=True):
        scores = {score["proxy"]: score for score in result["evaluation"]["scores"]}
        rows.append((encoding, group, scores))
    rows.sort(key=lambda row: row[2]["tcet"].get("value", float("-inf")), reverse=True)
    print("rank  cell         group         " + "".join(f"{name:>13}" for name in PROXIES))
    for rank, (encoding, group, scores) in enumerate(rows, 1):
        cells_of_row = "".join(f"{shown(scores[name]):>13}" for name in PROXIES)
        print(f"{rank:4}  {encoding:<12} {group:<13} {cells_of_row}")


def shown(score: dict[str, Any]) -> str:
    """A score for people: its value, or its outcome where it has none."""
    if "value" not in score:
        return str(score["outcome"]).removeprefix("OUTCOME_").lower()
    return f"{score['value']:.6g}" if score["proxy"] != "parameters" else f"{score['value']:,.0f}"


if __name__ == "__main__":
    sys.exit(main())
