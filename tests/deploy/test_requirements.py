"""deploy/requirements*.txt: what the image installs by hash is what constraints.txt pins, and all of it."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest

from support.containers import ROOT


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("requirements", ROOT / "scripts" / "generate_requirements.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_they_are_complete_and_agree_with_the_constraints(generator: ModuleType) -> None:
    pins = generator.pins()
    for file, roots, left_out in generator.FILES:
        lines = [line for line in (ROOT / "deploy" / file).read_text().splitlines() if not line.startswith("#")]
        pinned = dict(re.fullmatch(r"(\S+)==(\S+) --hash=sha256:[0-9a-f]{64}", line).groups() for line in lines)
        assert pinned == {name: pins[name] for name in generator.closure(roots) - left_out}, file


def test_torch_is_pinned_to_the_files_of_two_indexes(generator: ModuleType) -> None:
    """With CUDA from the default index, and without from that for CPUs."""
    [line] = [line for line in (ROOT / "deploy" / generator.TORCH_FILE).read_text().splitlines() if line[0] != "#"]
    pinned, *hashes = line.split()
    assert pinned == f"torch=={generator.pins()['torch']}"
    assert len(set(hashes)) == 2
    assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes)


def test_the_image_installs_each_by_hash(generator: ModuleType) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    for file in (generator.TORCH_FILE, *(name for name, *_ in generator.FILES)):
        [command] = [part for part in re.split(r"\n|&&", dockerfile) if f"-r {file}" in part]
        assert "--require-hashes" in command, file
        assert "--no-deps" in command, file
