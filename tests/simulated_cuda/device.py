"""A GPU as far as its programmer can tell, computed by the CPU: what lies where, who waits, what it has room for.

Tensors that say they lie on CUDA wrap tensors of the CPU. Each operation on them is run by the CPU, so that scores come
out; but an operation on tensors of both raises, as CUDA does, and so does what CUDA cannot do. Whatever makes the host
wait for the device is noted. A transfer to the host that nobody waits for arrives when an event after it is waited for;
until then there is garbage in its place. What is computed aside may not read what is not known to have been computed.
There are two devices, and everything lies on the one that is not the current one by itself.

What it does not show: how long anything takes, how rounding differs, and bugs of CUDA's own.
"""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from _tensors import TensorBytes

#: The second of two. The first is the current one unless somebody says otherwise.
CUDA = torch.device("cuda", 1)

_aten = torch.ops.aten

#: What hands a value to the host, or gives a tensor whose size depends on values: CUDA computes everything before.
_WAITING = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.equal.default,
    _aten.is_nonzero.default,
    _aten._unique2.default,
    _aten.repeat_interleave.Tensor,
    _aten.linalg_eigh.default,  # looks whether it converged
    _aten._linalg_eigh.default,
}

#: Of integers there are no products on CUDA.
_PRODUCTS = {_aten.mm.default, _aten.bmm.default, _aten.addmm.default, _aten.baddbmm.default, _aten.baddbmm_.default}


class OnDevice(torch.Tensor):
    """A tensor that says it lies on the device.

    Attributes:
        held: what it holds, on the CPU.
    """

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnDevice:
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=CUDA,
            layout=held.layout,
        )
        return made

    def __init__(self, held: torch.Tensor) -> None:
        super().__init__()
        self.held = held

    @property
    def memory(self) -> int:
        """Tells memory apart; views share it."""
        return int(self.held.untyped_storage()._cdata)

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnDevice({self.held!r})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        operation: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        raise AssertionError(f"{operation} while no simulated device is on")


@dataclass(frozen=True, slots=True)
class Wait:
    """The host waited for the device.

    Attributes:
        what: for which operation, or "event".
        aside: whether it was for another stream than the first.
        where: the line of the engine that made it.
    """

    what: str
    aside: bool
    where: str


class Device(TorchDispatchMode):
    """The device, as long as it is entered.

    Attributes:
        waits: when the host waited, in order.
        launches: operations so far.
        computed: how many of them the host knows to have been computed.
        sent: transfers to the host that were not waited for at once.
        memory: what tensors take.
        capacity: bytes that they may take.
    """

    def __init__(self, capacity: int = 2**34) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.waits: list[Wait] = []
        self.launches = 0
        self.computed = 0
        self.memory = TensorBytes()
        self.capacity = capacity
        self._streams = threading.local()
        self._in_flight: list[tuple[torch.Tensor, torch.Tensor]] = []  # to where, what
        self.sent = 0
        self._pinned: dict[int, StorageWeakRef] = {}
        self._written: dict[int, tuple[int, bool]] = {}  # by memory: the operation that last wrote it, and if aside

    def __torch_dispatch__(
        self,
        operation: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, options)) if isinstance(leaf, torch.Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
        named = options.get("device")
        to_device = named is not None and torch.device(named).type == "cuda"
        if not here and not to_device:
            return self._on_host(operation, args, options)
        if to_device and torch.device(str(named)).index not in ({CUDA.index, None} if self.current else {CUDA.index}):
            raise AssertionError(f"{operation} on {named}: that is another device")
        self.launches += 1
        for tensor in here:
            launch, aside = self._written.get(tensor.memory, (0, False))
            if self.aside and not aside and launch > self.computed:
                raise AssertionError(f"{operation} aside reads what may not have been computed")
        result = self._on_device(operation, args, options, here, tensors)
        read = {tensor.memory for tensor in here}
        for leaf in tree_leaves(result):
            if isinstance(leaf, OnDevice) and (operation._schema.is_mutable or leaf.memory not in read):
                self._written[leaf.memory] = (self.launches, self.aside)
        return result

    def _on_device(
        self,
        operation: Any,
        args: Sequence[Any],
        options: dict[str, Any],
        here: Sequence[OnDevice],
        tensors: Sequence[torch.Tensor],
    ) -> Any:
        original, named = dict(options), options.get("device")
        if operation is _aten._to_copy.default:
            return self._converted(args[0], options)
        if operation is _aten.copy_.default:
            return self._copied(args[0], args[1], non_blocking=len(args) > 2 and bool(args[2]))
        strangers = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim()]
        if here and strangers:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {operation} has some on the CPU")
        if operation in _PRODUCTS and not all(tensor.is_floating_point() for tensor in here):
            raise NotImplementedError(f"{operation} not implemented for integers")
        if operation in _WAITING or _indexes_by_mask(operation, args):
            self.wait(str(operation))
        if named is not None:
            options["device"] = "cpu"
        result = operation(*tree_map(_unwrapped, args), **tree_map(_unwrapped, options))
        if operation is _aten._local_scalar_dense.default:
            return result
        self._note(result)
        wrapped = tree_map(lambda leaf: OnDevice(leaf) if isinstance(leaf, torch.Tensor) else leaf, result)
        return return_and_correct_aliasing(operation, args, original, wrapped) if here else wrapped

    def _on_host(self, operation: Any, args: Sequence[Any], options: dict[str, Any]) -> Any:
        pinned = options.pop("pin_memory", False)
        result = operation(*args, **options)
        if pinned:
            self._pin(result)
        return result

    def _converted(self, source: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
        """`to`: there, here, or between types."""
        device = torch.device(options["device"]) if options.get("device") is not None else source.device
        settings = {**options, "device": "cpu"}
        settings.pop("pin_memory", None)
        if device.type == "cuda":
            if not isinstance(source, OnDevice):
                self._wait_for_upload(source, non_blocking=bool(options.get("non_blocking")))
            converted = _aten._to_copy.default(_unwrapped(source), **settings)
            self._note(converted)
            return OnDevice(converted)
        self.wait("transfer")
        return _aten._to_copy.default(_unwrapped(source), **settings)  # type: ignore[no-any-return]

    def _copied(self, target: torch.Tensor, source: torch.Tensor, *, non_blocking: bool) -> torch.Tensor:
        if isinstance(target, OnDevice):
            if not isinstance(source, OnDevice) and source.dim():
                self._wait_for_upload(source, non_blocking=non_blocking)
            target.held.copy_(_unwrapped(source))
        elif not non_blocking or not self._is_pinned(target):
            self.wait("transfer")
            target.copy_(_unwrapped(source))
        else:
            target.fill_(float("nan"))  # whoever looks before it is there sees garbage
            self._in_flight.append((target, _unwrapped(source).clone()))
            self.sent += 1
        return target

    def _wait_for_upload(self, source: torch.Tensor, *, non_blocking: bool) -> None:
        """A transfer from the host is waited for, unless it need not be; of pageable memory CUDA may wait, too."""
        if not (non_blocking and self._is_pinned(source)):
            self.wait("upload")

    def pin(self, tensor: torch.Tensor, *_: Any) -> torch.Tensor:
        """In place of `Tensor.pin_memory`."""
        if isinstance(tensor, OnDevice):
            raise RuntimeError("cannot pin memory of the device")  # noqa: TRY004 -- as torch does
        copy = tensor.clone()
        self._pin(copy)
        return copy

    def _pin(self, tensor: torch.Tensor) -> None:
        reference = StorageWeakRef(tensor.untyped_storage())
        self._pinned[reference.cdata] = reference

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        reference = self._pinned.get(StorageWeakRef(tensor.untyped_storage()).cdata)
        return reference is not None and not reference.expired()

    def wait(self, what: str, sent: int | None = None, launches: int | None = None) -> None:
        """The host waits until so many of all transfers have arrived, and so many operations have been computed."""
        if not self.aside:  # of the first stream one aside tells nothing
            self.computed = max(self.computed, self.launches if launches is None else launches)
            arriving = len(self._in_flight) - (self.sent - (self.sent if sent is None else sent))
            for target, numbers in self._in_flight[: max(0, arriving)]:
                target.copy_(numbers)
            del self._in_flight[: max(0, arriving)]
        stack = [frame for frame in traceback.extract_stack() if "/archscore_server/" in frame.filename]
        where = f"{Path(stack[-1].filename).name}:{stack[-1].lineno}" if stack else "outside of the engine"
        self.waits.append(Wait(what, self.aside, where))

    def _note(self, result: Any) -> None:
        self.memory.note(result)
        if self.memory.known > self.capacity and self.memory.alive() > self.capacity:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")

    @property
    def aside(self) -> bool:
        """Whether another stream than the first is chosen."""
        return bool(getattr(self._streams, "chosen", 0))

    @contextlib.contextmanager
    def stream(self, stream: object) -> Iterator[None]:
        """In place of `torch.cuda.stream`."""
        before, self._streams.chosen = getattr(self._streams, "chosen", 0), 1
        try:
            yield
        finally:
            self._streams.chosen = before

    def event(self, *, enable_timing: bool = False) -> Event:
        """In place of `torch.cuda.Event`."""
        return Event(self, timed=enable_timing)

    @property
    def current(self) -> int:
        """The number of the current device."""
        return int(getattr(self._streams, "device", 0))

    @contextlib.contextmanager
    def switched(self, device: torch.device) -> Iterator[None]:
        """In place of `torch.cuda.device`."""
        before, self._streams.device = self.current, device.index
        try:
            yield
        finally:
            self._streams.device = before


class Event:
    """In place of torch's event: it has happened when everything launched before has been computed."""

    def __init__(self, device: Device, *, timed: bool) -> None:
        self._device = device
        self._timed = timed
        self.launches: int | None = None
        self._sent = 0

    def record(self) -> None:
        if self._device.current != CUDA.index:
            raise AssertionError("an event of another device")
        self.launches, self._sent = self._device.launches, self._device.sent

    def synchronize(self) -> None:
        assert self.launches is not None, "never recorded"
        self._device.wait("event", self._sent, self.launches)

    def elapsed_time(self, end: Event) -> float:
        """A millisecond an operation."""
        assert self._timed
        assert end._timed
        assert self.launches is not None
        assert end.launches is not None
        assert end.launches <= self._device.computed, "the device is not there yet"
        return float(end.launches - self.launches)


def _unwrapped(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _indexes_by_mask(operation: Any, args: Sequence[Any]) -> bool:
    if operation not in (_aten.index.Tensor, _aten.index_put_.default, _aten.index_put.default):
        return False
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


@contextlib.contextmanager
def simulated(capacity: int = 2**34) -> Iterator[Device]:
    """A device of so many bytes, for everything that this thread does, and what it differentiates."""
    device = Device(capacity)
    properties = SimpleNamespace(name="Simulated", total_memory=capacity, uuid="simulated", multi_processor_count=1)
    replaced: dict[str, Callable[..., Any]] = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "device": device.switched,
        "current_device": lambda: device.current,
        "synchronize": lambda *_: device.wait("synchronize"),
        "empty_cache": lambda: None,
        "mem_get_info": lambda *_: (capacity - device.memory.alive(), capacity),
        "memory_reserved": lambda *_: device.memory.alive(),
        "memory_allocated": lambda *_: device.memory.alive(),
        "max_memory_allocated": lambda *_: device.memory.peak,
        "reset_peak_memory_stats": lambda *_: device.memory.forget_peak(),
        "get_device_properties": lambda *_: properties,
        "get_device_name": lambda *_: "Simulated",
        "get_device_capability": lambda *_: (9, 0),
        "Event": device.event,
        "Stream": lambda *_: object(),
        "stream": device.stream,
    }
    with contextlib.ExitStack() as stack:
        for name, function in replaced.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda own, *_: device.pin(own)))
        stack.enter_context(mock.patch.object(torch.version, "cuda", "simulated"))
        stack.enter_context(device)
        yield device
