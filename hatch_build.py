"""Builds the kernels for CPUs (archscore_server/engine/kernels) with the C compiler of the machine, if it has one.

Without a compiler the package is built all the same, and the engine takes torch's operations.
`ARCHSCORE_KERNELS=require` makes that an error, for images and wheels that must have them; `skip` builds none.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

KERNELS = Path("server/archscore_server/engine/kernels")
#: A product and a sum may be one operation; nothing else about the arithmetic is loosened.
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-Wno-psabi", "-fPIC", "-shared")


class CustomBuildHook(BuildHookInterface[Any]):
    """Adds the library to the wheel, which then is for one kind of machine, or to the tree of an editable one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compiles.

        Raises:
            RuntimeError: it does not compile, and must.
        """
        del version
        wanted = os.environ.get("ARCHSCORE_KERNELS", "")
        if wanted == "skip" or self.target_name != "wheel":
            return
        directory = Path(self.root, KERNELS)
        library = directory / "_kernels.so"
        partial = library.with_suffix(f".{os.getpid()}")  # a process may have the other one loaded
        compiler = shlex.split(os.environ.get("CC", "cc"))
        command = [*compiler, *FLAGS, str(directory / "kernels.c"), "-o", str(partial), "-lm", "-ldl"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
            partial.replace(library)
        except (OSError, subprocess.CalledProcessError) as error:
            partial.unlink(missing_ok=True)
            library.unlink(missing_ok=True)  # of an older source
            reason = getattr(error, "stderr", None) or error
            if wanted == "require":
                raise RuntimeError(f"the kernels for CPUs cannot be built: {reason}") from error
            self.app.display_warning(f"built without kernels for CPUs, which makes CPUs slower: {reason}")
            return
        build_data["artifacts"].append(f"/{KERNELS}/_kernels.so")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
