"""Writes the dashboards into deploy/grafana/dashboards.

PYTHONPATH=scripts python -m dashboards            writes them
PYTHONPATH=scripts python -m dashboards --check    fails when what is committed differs
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from dashboards import operators, users

_DIRECTORY = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"


def documents() -> Mapping[str, str]:
    """The files by name."""
    encoder = JSONEncoder(sort_keys=True, indent=2)
    pages = {"users.json": users.dashboard(), "operators.json": operators.dashboard()}
    return {name: encoder.encode(dashboard) + "\n" for name, dashboard in pages.items()}


def main(arguments: Sequence[str]) -> None:
    """Writes the files, or compares them with what is there."""
    generated = documents()
    there = {path.name: path.read_text(encoding="utf-8") for path in _DIRECTORY.glob("*")}
    if list(arguments) == ["--check"]:
        differ = sorted(name for name in {*generated, *there} if generated.get(name) != there.get(name))
        if differ:
            sys.exit(f"deploy/grafana/dashboards: {', '.join(differ)} not as generated: run 'make dashboards'")
        return
    for name in there.keys() - generated.keys():
        (_DIRECTORY / name).unlink()
    for name, text in generated.items():
        (_DIRECTORY / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
