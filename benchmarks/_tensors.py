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
        known: bytes of all that was known to be alive; some of it may be gone.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._known: dict[int, tuple[StorageWeakRef, int]] = {}
        self.known = 0

    def __torch_dispatch__(
        self,
        operation: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        self.note((result, args))
        return result

    def note(self, values: Any) -> None:
        """Takes account of all tensors in a tree of values."""
        for value in tree_leaves(values):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                reference = StorageWeakRef(storage)
                _, before = self._known.get(reference.cdata, (None, 0))
                self._known[reference.cdata] = (reference, storage.nbytes())
                self.known += storage.nbytes() - before
        if self.known > self.peak:  # which those alive are not if all that were known are not
            self.peak = max(self.peak, self.alive())

    def alive(self) -> int:
        """Bytes that are alive now."""
        self._known = {key: entry for key, entry in self._known.items() if not entry[0].expired()}
        self.known = sum(nbytes for _, nbytes in self._known.values())
        return self.known

    def forget_peak(self) -> None:
        """Begins anew with what is alive."""
        self.peak = self.alive()


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
