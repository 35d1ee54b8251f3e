"""What guard.py makes of its figures."""

import json

import pytest

import guard


def seconds(plain, own):
    return {"plain_loop": [[time] for time in plain], "archscore": [[9.0, time, 0.0] for time in own]}


RECORD = {"seconds": {"tcet": seconds([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])}}


def test_only_the_cells_that_were_measured_are_compared() -> None:
    [verdict] = guard.verdicts({"tcet": seconds([2.0, 3.0], [1.0, 1.0])}, RECORD, [1, 2], 0.15)
    assert (verdict.recorded, verdict.measured, verdict.loss) == (2.5, 2.5, 0.0)
    assert verdict.passed


@pytest.mark.parametrize(("now", "passed"), [(2.2, True), (2.1, False), (9.0, True)])
def test_a_loss_over_what_is_allowed(now, passed) -> None:
    [verdict] = guard.verdicts({"tcet": seconds([now], [1.0])}, RECORD, [1, 2][:1], 0.15)
    assert verdict.recorded == 2.0
    assert verdict.passed
    [verdict] = guard.verdicts({"tcet": seconds([now, now], [1.0, 1.0])}, RECORD, [1, 2], 0.15)
    assert verdict.passed is passed
    assert ("LOST" in str(verdict)) is not passed


def test_it_measures_and_says_so(tmp_path, monkeypatch, capsys) -> None:
    """A record that claims the impossible is not met, and one that claims nothing is."""
    setting = {
        "channels": 4,
        "cells_per_stage": 1,
        "batch_size": 4,
        "resolution": 8,
        "num_classes": 10,
        "seed": 0,
    }
    record = {"environment": {"threads": 1, "cpu": "a test"}, "setting": setting, "cells": ["index:6111", "index:81"]}
    path = tmp_path / "record.json"
    for claimed, code in ((1e-6, 0), (1e6, 1)):
        claims = {"plain_loop": [[claimed], [claimed]], "archscore": [[1.0], [1.0]]}
        path.write_text(json.dumps({**record, "seconds": dict.fromkeys(guard.GUARDED, claims)}))
        assert guard.main(["--record", str(path), "--cells", "1", "--repetitions", "1"]) == code
        captured = capsys.readouterr()
        assert ("LOST" in captured.out) == bool(code)
        assert "another machine: a test" in captured.err
    assert guard.main(["--record", str(path), "--cells", "3"]) == 2
