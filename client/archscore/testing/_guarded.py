"""`archscore-server` in a process that ends when its stdin does: `python -m archscore.testing._guarded OPTIONS`.

Whoever starts it holds the other end of that pipe, and cannot leave it running, however they end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Final

_STDIN: Final = 0
_PATIENCE: Final = 10.0
"""Seconds that the server has to stop in order once nobody holds it any longer."""


def _watch() -> None:
    # Not through sys.stdin, whose lock would be held for ever.
    while os.read(_STDIN, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=_watch, name="archscore-guard", daemon=True).start()
    try:
        from archscore_server.__main__ import main
    except ImportError as error:
        sys.exit(f"there is no archscore-server here ({error}): pip install 'archscore[server]'")
    main()
