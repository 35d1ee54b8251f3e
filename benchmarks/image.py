"""How long `docker build` of the server takes without its cache, and how large the image is, by what it is made of.

    python benchmarks/image.py > docs/benchmarks/image-cpu.json

Asks the engine of DOCKER_HOST; `--torch-index-url` is the Dockerfile's TORCH_INDEX_URL. The size of the base image is
given apart, and the seconds are those of the builder, whose downloads depend on the network.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import docker

from _report import progress
from archscore._version import __version__
from archscore.study._machine import cpu_model

ROOT = Path(__file__).parents[1]

#: Runs in the image: the versions that matter, and the bytes of each installed package.
_CONTENTS = """
import json, pathlib, sysconfig, numpy, torch
site = pathlib.Path(sysconfig.get_path("purelib"))
sizes = {p.name: sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in site.iterdir() if p.is_dir()}
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "numpy": numpy.__version__, "bytes": sizes}))
"""


def measure(engine: docker.DockerClient, index_url: str) -> dict[str, Any]:
    """Builds the image, looks into it, and removes it."""
    started = time.monotonic()
    image, _ = engine.images.build(path=str(ROOT), nocache=True, rm=True, buildargs={"TORCH_INDEX_URL": index_url})
    seconds = time.monotonic() - started
    try:
        command = ["-c", _CONTENTS]
        contents = json.loads(engine.containers.run(str(image.id), command, entrypoint="python", remove=True))
        [base, *_] = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        total, below = image.attrs["Size"], engine.images.get(base).attrs["Size"]
    finally:
        engine.images.remove(str(image.id), force=True)
    largest = sorted(contents.pop("bytes").items(), key=lambda item: -item[1])[:6]
    sizes = {"image": total, "base_image": below, "ours": total - below, "largest_packages": dict(largest)}
    return {"build_seconds": seconds, "bytes": sizes, **contents, "base_image": base}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--torch-index-url", default="", help="where torch comes from, if not the default index")
    arguments = parser.parse_args()
    engine = docker.from_env(timeout=1800)
    progress("building the image without the cache: minutes")
    found = measure(engine, arguments.torch_index_url)
    load = os.getloadavg()[1]
    machine = {"cpu": cpu_model(), "cores": os.cpu_count(), "load": load, "docker": engine.version()["Version"]}
    json.dump({"archscore": __version__, **machine, **found}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
