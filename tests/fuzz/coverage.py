"""The parsers under atheris, which changes inputs so that they reach new branches. Needs the extra `fuzz`.

Atheris ends the process that it runs in: this module runs itself in another.
"""

from __future__ import annotations

import importlib.util
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

TARGET: Final = "coverage"

_DONE: Final = re.compile(r"Done (\d+) (?:in|runs)")
_COVERED: Final = re.compile(r"cov: (\d+)")
_DICTIONARY: Final = (
    "index:",
    "|",
    "~0|",
    "+|",
    "none",
    "skip_connect",
    "nor_conv_3x3",
    "Super",
    "ResK3K3(",
    "IDWE6K7(",
    ",1",
    ")",
)


def run(seed: int, inputs: int, *, last: float) -> object:
    """Gives the parsers inputs that atheris makes; none where it is not installed."""
    from fuzz.tally import Tally

    tally, started = Tally(TARGET), time.monotonic()
    if importlib.util.find_spec("atheris") is None:
        tally.notes["atheris"] = "not installed"
        return tally
    with tempfile.TemporaryDirectory(prefix="archscore-fuzz-") as directory:
        corpus = Path(directory) / "corpus"
        corpus.mkdir()
        _write_seeds(corpus, seed)
        words = Path(directory) / "words"
        words.write_text("".join(f'"{word}"\n' for word in _DICTIONARY))
        seconds = max(1, min(600, round(last - time.monotonic())))
        command = [
            *(sys.executable, "-m", "fuzz.coverage", str(corpus), f"-runs={inputs}", f"-seed={seed}", "-max_len=2000"),
            *(f"-dict={words}", f"-max_total_time={seconds}", "-timeout=60", f"-artifact_prefix={directory}/"),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        done = _DONE.search(ended.stderr)
        tally.inputs = int(done[1]) if done else 0
        covered = _COVERED.findall(ended.stderr)
        tally.notes["branches"] = int(covered[-1]) if covered else 0
        tally.notes["corpus"] = sum(1 for _ in corpus.iterdir())
        if ended.returncode or not done:
            artifacts = [path.read_bytes()[:2_000] for path in Path(directory).glob("*-*")]
            tally.violation(f"exit code {ended.returncode}: {ended.stderr[-1_500:]}: {artifacts}")
    tally.seconds = time.monotonic() - started
    return tally


def _write_seeds(corpus: Path, seed: int) -> None:
    from fuzz.encodings import SPACE_NAMES, valid

    rng = random.Random(seed)
    for number in range(100):
        place = number % len(SPACE_NAMES)
        (corpus / str(number)).write_bytes(bytes([place]) + valid(SPACE_NAMES[place], rng).encode()[:1_999])


def _main() -> None:
    import atheris

    with atheris.instrument_imports(include=["archscore.spaces"]):
        import archscore.spaces  # noqa: F401

    from fuzz.encodings import SPACE_NAMES
    from fuzz.properties import check

    def one(data: bytes) -> None:
        if data:
            check(SPACE_NAMES[data[0] % len(SPACE_NAMES)], data[1:].decode(errors="surrogateescape"), len(data))

    atheris.Setup(sys.argv, one)
    atheris.Fuzz()


if __name__ == "__main__":
    _main()
