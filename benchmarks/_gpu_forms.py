"""A section of gpu.py: single layers of many networks, in the form that the engine has and in those that it has not."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
import torch.nn.functional as F

from _gpu_run import Row, Run, Work, skipped
from archscore_server.engine import Precision
from archscore_server.engine._numerics import arithmetic


def forms(run: Run) -> Iterator[Row]:
    """One layer of many networks, forward and backward, in the form that the engine has and in others."""
    units, samples = run.setting.units, run.setting.batch_sizes[0]
    took = 0.0
    for stage, kernel in itertools.product(range(3), (3, 1)):
        channels, side = run.setting.channels * 2**stage, run.setting.resolution // 2**stage
        operations = 3 * 2 * units * samples * side**2 * (channels * kernel) ** 2
        for form, prepare in FORMS.items():
            what = f"{kernel}x{kernel}, {channels} channels, {form}"
            if not run.budget.allows((run.setting.rounds + 1) * took):
                yield skipped("forms", what, "no time")
                continue
            started = time.monotonic()
            try:
                features = torch.randn(units, samples, channels, side, side, device=run.device)
                weights = torch.randn(units, channels, channels, kernel, kernel, device=run.device)
                with arithmetic(Precision.FLOAT32, run.device):
                    rate = operations / run.median(prepare(features, weights))
            except torch.OutOfMemoryError:
                yield skipped("forms", what, "memory ran out")
                continue
            took = time.monotonic() - started
            yield Row("forms", what, rate / 1e12, "TFLOP/s", f"{units} networks, batch {samples}")


def _grouped(features: torch.Tensor, weights: torch.Tensor, *, layout: torch.memory_format) -> Work:
    """One convolution with a group for each network."""
    units, samples, channels, side, _ = features.shape
    x = features.transpose(0, 1).reshape(samples, units * channels, side, side)
    x = x.contiguous(memory_format=layout).requires_grad_()
    w = weights.flatten(0, 1).contiguous(memory_format=layout).requires_grad_()

    def work() -> object:
        out = F.conv2d(x, w, padding=w.shape[-1] // 2, groups=units)
        return torch.autograd.grad(out, [x, w], out.detach())

    return work


def _looped(features: torch.Tensor, weights: torch.Tensor) -> Work:
    """A convolution for each network."""
    layout = torch.channels_last
    xs = [own.contiguous(memory_format=layout).requires_grad_() for own in features]
    ws = [own.contiguous(memory_format=layout).requires_grad_() for own in weights]

    def work() -> object:
        outs = [F.conv2d(x, w, padding=w.shape[-1] // 2) for x, w in zip(xs, ws, strict=True)]
        return [torch.autograd.grad(out, [x, w], out.detach()) for out, x, w in zip(outs, xs, ws, strict=True)]

    return work


def _batched(features: torch.Tensor, weights: torch.Tensor) -> Work:
    """One product of matrices for each network, all in one call, over patches that are copied."""
    units, samples = features.shape[:2]
    kernel = weights.shape[-1]
    x, w = features.flatten(0, 1).requires_grad_(), weights.flatten(2).requires_grad_()

    def work() -> object:
        patches = F.unfold(x, kernel, padding=kernel // 2) if kernel > 1 else x.flatten(2)  # [U*N, C*k*k, positions]
        columns = patches.unflatten(0, (units, samples)).transpose(1, 2).flatten(2)
        out = w @ columns
        return torch.autograd.grad(out, [x, w], out.detach())

    return work


FORMS: Mapping[str, Callable[[torch.Tensor, torch.Tensor], Work]] = {
    "grouped, channels_last (ours)": partial(_grouped, layout=torch.channels_last),
    "grouped, contiguous": partial(_grouped, layout=torch.contiguous_format),
    "one by one": _looped,
    "batched products": _batched,
}
