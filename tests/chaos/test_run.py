"""A short run of chaos."""

from pathlib import Path

import pytest

from chaos.run import Options, run


@pytest.mark.slow
def test_every_request_gets_its_one_right_answer(tmp_path: Path) -> None:
    log = tmp_path / "log"
    report = run(Options(requests=400, clients=50, seed=2, minutes=5), log)
    assert not report.problems, "\n".join([*report.lines, *report.problems, log.read_text()[-5000:]])
