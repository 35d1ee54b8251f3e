"""How many bytes of tensors a piece of code has alive at most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from archscore_server.engine import minibatches, tables


class TensorBytes(TorchDispatchMode):
    """Follows every storage that an operation puts out, in backward passes too, until nothing refers to it.

    What an operation takes and gives back within itself (scratch memory of oneDNN or cuDNN) is not seen.

    Attributes:
        peak: the most bytes that were alive at once.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self,
        operation: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        self._alive = {key: entry for key, entry in self._alive.items() if not entry[0].expired()}
        for value in tree_leaves((result, args)):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                reference = StorageWeakRef(storage)
                self._alive[reference.cdata] = (reference, storage.nbytes())
        self.peak = max(self.peak, sum(nbytes for _, nbytes in self._alive.values()))
        return result


def peak_bytes(function: Callable[[], object]) -> int:
    """The most bytes of tensors that are alive at once while a function runs.

    Weights and minibatches are not kept meanwhile, neither found nor left: what is kept is bounded on its own.
    """
    tracked = TensorBytes()
    with (
        patch.object(tables, "TABLES", tables.WeightTables(max_bytes=0)),
        patch.object(minibatches, "RECENT", minibatches.RecentMinibatches(max_bytes=0)),
        tracked,
    ):
        function()
    return tracked.peak
