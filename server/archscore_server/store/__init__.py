"""The score store: what was computed once is not computed again, also not after a restart.

    store = Store(Path("scores.db"), max_scores=10_000_000)
    await store.open()
    store.put(context, architecture, evaluation.scores)
    [scores] = await store.get(context, [architecture], ["tcet", "ssnr"])
    await store.close()

SQLite holds the scores, in a file or in memory, and only ever runs in a thread of the store's own. In front of it is
a memory layer that the event loop reads itself. Whatever happens to the file, requests go on without it.
"""

from archscore_server.store._context import Context
from archscore_server.store._file import NotAStoreError
from archscore_server.store._observer import NullStoreObserver, StoreObserver
from archscore_server.store._store import Store

__all__ = ["Context", "NotAStoreError", "NullStoreObserver", "Store", "StoreObserver"]
