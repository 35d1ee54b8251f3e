"""The simulated device itself: it must see what it is there for."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from archscore_server.engine._device import Timer, aside, current, indices, to_device
from simulated_cuda.device import CUDA, Device, simulated


def test_it_computes_and_differentiates(device: Device) -> None:
    torch.manual_seed(0)
    images, weights = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    on_device = weights.to(CUDA).requires_grad_()
    [gradient] = torch.autograd.grad(torch.conv2d(images.to(CUDA), on_device).square().sum(), [on_device])
    assert gradient.device == CUDA
    on_host = weights.clone().requires_grad_()
    [expected] = torch.autograd.grad(torch.conv2d(images, on_host).square().sum(), [on_host])
    assert torch.equal(gradient.cpu(), expected)


def test_views_and_what_is_written_through_them(device: Device) -> None:
    matrix = torch.zeros(3, 4, device=CUDA)
    matrix[1].fill_(2)
    matrix.diagonal().copy_(torch.ones(3, device=CUDA))
    matrix.view(2, 6)[1, 3:].add_(5)
    assert matrix.cpu().tolist() == [[1, 0, 0, 0], [2, 1, 2, 2], [0, 5, 6, 5]]


def test_tensors_of_both_do_not_mix(device: Device) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.ones(2, device=CUDA) + torch.ones(2)
    assert (torch.ones(2, device=CUDA) + torch.tensor(1.0)).cpu().tolist() == [2, 2]


def test_products_of_integers_are_not_there(device: Device) -> None:
    ones = torch.ones(2, 2, dtype=torch.int32, device=CUDA)
    with pytest.raises(NotImplementedError):
        ones @ ones


@pytest.mark.parametrize(
    "look",
    [
        lambda own: own.sum().item(),
        lambda own: own.cpu(),
        lambda own: own.nonzero(),
        lambda own: own[own > 0],
        lambda own: bool((own > 0).all()),
        lambda own: torch.equal(own, own),
        torch.linalg.eigvalsh,
        lambda own: torch.cuda.synchronize(),
        lambda own: torch.empty(2, 2).copy_(own),
        lambda own: torch.empty(2, 2).copy_(own, non_blocking=True),  # its memory is not pinned
    ],
)
def test_whoever_looks_waits(device: Device, look: Callable[[torch.Tensor], object]) -> None:
    own = torch.eye(2, device=CUDA)
    assert device.waits == []
    look(own)
    assert len(device.waits) == 1


def test_what_nobody_waits_for(device: Device) -> None:
    own = to_device(np.arange(6.0), CUDA)
    own = own.view(2, 3).index_select(0, indices([1, 0], CUDA))
    factor, _ = torch.linalg.cholesky_ex(torch.eye(3, device=CUDA, dtype=torch.float64))
    torch.linalg.solve_triangular(factor, own.mT, upper=False).sum().sqrt_()
    assert device.waits == []


def test_a_transfer_is_there_when_an_event_after_it_was_waited_for(device: Device) -> None:
    early, late = torch.cuda.Event(), torch.cuda.Event()
    target = torch.empty(3, pin_memory=True)
    with current(CUDA):
        early.record()
        target.copy_(torch.ones(3, device=CUDA), non_blocking=True)
        late.record()
    early.synchronize()
    assert target.isnan().all()
    late.synchronize()
    assert target.tolist() == [1, 1, 1]


def test_waits_beside_the_first_stream_are_told_apart(device: Device) -> None:
    with aside(CUDA):
        torch.ones(1, device=CUDA).cpu()
    torch.ones(1, device=CUDA).cpu()
    assert [wait.aside for wait in device.waits] == [True, False]


def test_aside_nothing_is_read_that_may_not_have_been_computed(device: Device) -> None:
    own = torch.ones(2, device=CUDA)
    with aside(CUDA), pytest.raises(AssertionError):
        own + 1
    done, rewritten, through_a_view = torch.cuda.Event(), torch.ones(2, device=CUDA), torch.ones(2, device=CUDA)
    with current(CUDA):
        done.record()
    later = torch.ones(2, device=CUDA)
    rewritten.add_(1)
    through_a_view[0].add_(1)
    others = [later, later[:1], rewritten, through_a_view]
    done.synchronize()
    with aside(CUDA):
        assert (own[:1] + own).cpu().tolist() == [2, 2]
        for other in others:
            with pytest.raises(AssertionError):
                other + 1


def test_uploads_are_waited_for_unless_they_need_not_be(device: Device) -> None:
    for upload, waits in (
        (lambda own: own.to(CUDA), 1),
        (lambda own: own.to(CUDA, non_blocking=True), 1),  # its memory is not pinned
        (lambda own: own.pin_memory().to(CUDA), 1),
        (lambda own: own.pin_memory().to(CUDA, non_blocking=True), 0),
        (lambda own: torch.empty(2, device=CUDA).copy_(own), 1),
        (lambda own: to_device(own.numpy(), CUDA), 0),
    ):
        device.waits.clear()
        upload(torch.ones(2))
        assert len(device.waits) == waits


def test_events_are_of_the_current_device(device: Device) -> None:
    with pytest.raises(AssertionError):
        torch.cuda.Event().record()


def test_a_timer_makes_nobody_wait_and_is_asked_when_all_has_been_computed(device: Device) -> None:
    with current(CUDA), Timer(CUDA) as timer:
        torch.ones(3, device=CUDA).add_(1)
    assert device.waits == []
    with pytest.raises(AssertionError):
        timer.seconds()
    torch.cuda.synchronize(CUDA)
    assert timer.seconds() > 0


def test_memory_runs_out() -> None:
    with simulated(capacity=1000) as device:
        first = torch.zeros(100, device=CUDA)
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(200, device=CUDA)
        del first
        torch.zeros(200, device=CUDA)
        assert device.memory.alive() == 0
