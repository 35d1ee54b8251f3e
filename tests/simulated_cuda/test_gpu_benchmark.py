"""benchmarks/gpu.py where there is a GPU: what only that path has runs, and no reference score is missed."""

import json
from pathlib import Path

import gpu
from simulated_cuda.device import CUDA, Device


def test_it_measures_what_a_cpu_has_not(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    only = "ceilings,golden,stacks,pipeline,forms,zen,tf32"
    with device.switched(CUDA):
        assert gpu.main(["--device", "cuda", "--quick", "--only", only, "--json", str(path)]) == 0
    rows = {(row["section"], row["what"]): row for row in json.loads(path.read_text())["rows"]}
    missing = {what: row["note"] for what, row in rows.items() if row["value"] is None}
    assert missing == {}
    assert rows["ceilings", "launches"]["value"] > 0
    assert rows["pipeline", "tcet, stacks read behind the next"]["value"] > 0
    assert "GiB of tensors at most" in rows["stacks", "tcet, batch 4, stack 4"]["note"]
