"""Minibatches on devices: those that are drawn, kept, and never changed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from archscore.spaces import Architecture, nasbench201, zennas
from archscore_server.engine import ConfigError, Datasets, EvaluationConfig, Precision, evaluate, minibatches
from archscore_server.engine import proxies as registry
from archscore_server.engine.config import NetworkConfig
from archscore_server.engine.data import dataset_of, minibatch
from archscore_server.engine.minibatches import DeviceMinibatch, RecentMinibatches
from archscore_server.engine.networks import build
from archscore_server.engine.passes._context import Context
from support.images import rng, write_npz

CPU, META, CUDA = torch.device("cpu"), torch.device("meta"), torch.device("cuda")
CONFIG = EvaluationConfig(batch_size=4, resolution=8, num_classes=5)
CELLS = nasbench201.NetworkConfig(channels=4, cells_per_stage=1)

#: Of a minibatch of CONFIG.
BYTES = 4 * 3 * 8 * 8 * 4 + 4 * 8


def assert_drawn(found: DeviceMinibatch, config: EvaluationConfig, seed: int, index: int) -> None:
    expected = minibatch(config, seed, index)
    np.testing.assert_array_equal(found.images.cpu().numpy(), expected.images)
    np.testing.assert_array_equal(found.labels.cpu().numpy(), expected.labels)
    assert (found.images.dtype, found.labels.dtype) == (torch.float32, torch.int64)
    assert found.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("max_bytes", [0, 3 * BYTES, 2**20])
def test_minibatches_are_those_that_are_drawn(max_bytes: int) -> None:
    kept = RecentMinibatches(max_bytes)
    configs = [
        CONFIG,
        replace(CONFIG, num_classes=2),
        replace(CONFIG, batch_size=3),
        replace(CONFIG, resolution=5),
    ]
    for _ in range(2):
        for config in configs:
            for seed, index in ((0, 0), (0, 1), (1, 0)):
                assert_drawn(kept.get(config, seed, index, None, CPU), config, seed, index)
                assert kept.nbytes(CPU) <= max_bytes


def test_recent_minibatches_are_shared() -> None:
    kept = RecentMinibatches(3 * BYTES)
    first = kept.get(CONFIG, 0, 0, None, CPU)
    same = replace(CONFIG, precision=Precision.FLOAT64, seed=9, network=CELLS)
    assert kept.get(same, 0, 0, None, CPU) is first
    for seed in (1, 2, 3):
        kept.get(CONFIG, seed, 0, None, CPU)
    assert kept.nbytes(CPU) == 3 * BYTES
    assert kept.get(CONFIG, 0, 0, None, CPU) is not first


def test_devices_have_minibatches_and_bounds_of_their_own() -> None:
    kept = RecentMinibatches(BYTES)
    for device in (META, CPU):
        found = kept.get(CONFIG, 0, 0, None, device)
        assert found.images.device == found.labels.device == device
        assert found.images.shape == (4, 3, 8, 8)
    assert kept.get(CONFIG, 0, 0, None, META).images.device == META
    kept.clear(META)
    assert (kept.nbytes(META), kept.nbytes(CPU)) == (0, BYTES)


def test_datasets_of_one_name_and_other_content_differ(tmp_path: Path) -> None:
    images, labels = rng(3, 4).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8), np.arange(20) % 5
    kept, found = RecentMinibatches(), []
    for own in (images, images[::-1]):
        write_npz(tmp_path, "x", images=own, labels=labels)
        data = Datasets(tmp_path)
        config = EvaluationConfig(**{**data.open("npz:x").info.config_fields, "batch_size": 16, "dataset_sha256": None})
        dataset = dataset_of(config, data)
        found.append(kept.get(config, 0, 0, dataset, CPU).images)
        np.testing.assert_array_equal(found[-1].numpy(), minibatch(config, 0, 0, dataset).images)
        with pytest.raises(ConfigError, match="too few images"):
            kept.get(config, 0, 1, dataset, CPU)
    assert not torch.equal(*found)
    kept.get(CONFIG, 0, 0, None, CPU)
    with pytest.raises(ValueError, match="asks for dataset 'gaussian'"):
        kept.get(CONFIG, 0, 0, dataset, CPU)


def test_minibatches_that_were_drawn_in_inference_mode_can_have_gradients_pass() -> None:
    kept = RecentMinibatches()
    with torch.inference_mode():
        kept.get(CONFIG, 0, 0, None, CPU)
    images = kept.get(CONFIG, 0, 0, None, CPU).images
    weight = torch.ones(2, 3, 1, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(torch.nn.functional.conv2d(images, weight).sum(), weight)
    assert torch.allclose(gradient[0, :, 0, 0], images.sum(dim=(0, 2, 3)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.FLOAT64])
@pytest.mark.parametrize(
    ("architecture", "network"),
    [(nasbench201.from_index(6111), CELLS), (zennas.START, zennas.NetworkConfig(residual_links=True))],
    ids=["cell", "genome"],
)
def test_no_pass_changes_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, architecture: Architecture, network: NetworkConfig, precision: Precision
) -> None:
    kept = RecentMinibatches()
    monkeypatch.setattr(minibatches, "RECENT", kept)
    config = replace(CONFIG, network=network, precision=precision, repeats=2)
    for stack_size in (1, 2):
        evaluate([architecture], registry.names(), config, stack_size=stack_size)
    for seed in config.seeds:
        for index in (0, 1):
            found = kept.get(config, seed, index, None, CPU)
            for tensor in (found.images, found.labels):
                assert not tensor.requires_grad
                assert tensor._version == 0, "nothing has written to it since it was made"
            assert_drawn(found, config, seed, index)
    assert kept.nbytes(CPU) == 4 * BYTES


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("seeds", "own"), [([0], False), ([0, 0], False), ([0], True), ([0, 0], True), ([0, 1], False)]
)
def test_a_stack_has_the_images_of_its_networks(dtype: torch.dtype, seeds: list[int], own: bool) -> None:
    config = replace(CONFIG, network=CELLS)
    context = Context(build([nasbench201.from_index(6111)] * len(seeds), seeds, config, CPU), config, None)
    for gaussian in (False, True):
        images = context.images(1, gaussian=gaussian, own=own, dtype=dtype)
        copies = seeds if own or len(set(seeds)) > 1 else seeds[:1]
        expected = np.concatenate([minibatch(config, seed, 1).images for seed in copies], axis=1)
        assert images.dtype == dtype
        assert images.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_array_equal(images.numpy(), expected)
    labels = np.stack([minibatch(config, seed, 1).labels for seed in seeds])
    np.testing.assert_array_equal(context.labels(1).numpy(), labels)


def test_images_of_one_s_own_are_nobody_else_s() -> None:
    config = replace(CONFIG, network=CELLS)
    context = Context(build([nasbench201.from_index(6111)], [0], config, CPU), config, None)
    own = context.images(own=True).requires_grad_()
    with torch.no_grad():
        own.zero_()
    shared = context.images()
    assert not shared.requires_grad
    np.testing.assert_array_equal(shared.numpy(), minibatch(config, 0).images)


@pytest.mark.gpu
def test_a_gpu_has_the_same_minibatches_and_nobody_waits_for_it() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    config = replace(CONFIG, network=CELLS)
    context = Context(build([nasbench201.from_index(6111)] * 2, [0, 1], config, CUDA), config, None)
    kept = RecentMinibatches()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [kept.get(CONFIG, seed, 0, None, CUDA) for seed in range(20)]
        images, labels = context.images(), context.labels()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for seed, one in enumerate(found):
        assert_drawn(one, CONFIG, seed, 0)
    assert (images.shape, labels.shape) == ((4, 6, 8, 8), (2, 4))
