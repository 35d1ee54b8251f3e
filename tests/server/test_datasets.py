"""Real datasets through gRPC: what is at hand, what goes with it, and what cannot be used."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from google.rpc import code_pb2, error_details_pb2

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2
from archscore_server.config import Limits
from archscore_server.datasets import Catalogue
from archscore_server.engine import Datasets, EvaluationConfig
from archscore_server.engine.data import dataset_of, minibatch
from archscore_server.engine.statistics import MINIBATCHES, Pass
from support.images import draw, write, write_cifar10, write_imagenet16, write_npz
from support.serving import (
    TIMEOUT,
    Serving,
    architecture,
    details,
    many,
    one,
    reason,
    results_of,
    serving,
    status_of,
    violations,
)

# One server for all: it must not be changed by any of this.
pytestmark = pytest.mark.asyncio(loop_scope="module")

CELL = nasbench201.from_index(6111).format()
DISCONNECTED = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"

BROKEN = {
    "cifar100": ("cifar-100-python/train", "it cannot be read: Ran out of input"),
    "npz:cut": ("cut.npz", "it cannot be read: File is not a zip file"),
    "npz:wide": ("wide.npz", "'images' must be uint8 [n, H, H, 3], is uint8 [4, 8, 4, 3]"),
    "npz:negative": ("negative.npz", "label -1 of image 0 is not from 0 to 9999"),
    "npz:link": ("link.npz", "it is a link that leads out of the data directory"),
}


def write_data(root: Path) -> None:
    images, labels = draw(40, 8).transpose(0, 2, 3, 1), np.arange(40) % 7
    write_npz(root.parent, "outside", images=images, labels=labels)
    write_npz(root, "tiny", images=images, labels=labels)
    write_npz(root, "odd", images=draw(40, 6).transpose(0, 2, 3, 1), labels=labels)
    write_npz(root, "wide", images=images[:4, :, :4], labels=labels[:4])
    write_npz(root, "negative", images=images, labels=labels - 1)
    write_npz(root, "not a name", images=images, labels=labels)
    write_cifar10(root)
    write_imagenet16(root)
    write(root, "cifar-100-python/train", b"")
    write(root, "cut.npz", (root / "tiny.npz").read_bytes()[:-30])
    (root / "link.npz").symlink_to("../outside.npz")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("around") / "data"
    directory.mkdir()
    write_data(directory)
    return directory


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(root: Path) -> AsyncIterator[Serving]:
    async with serving(data_dir=root) as running:
        yield running


def config(dataset: str, **fields: int) -> scoring_pb2.EvaluationConfig:
    return scoring_pb2.EvaluationConfig(dataset=dataset, **fields)


def calls(served: Serving, fields: scoring_pb2.EvaluationConfig, proxies: tuple[str, ...] = ("tcet",)) -> list[object]:
    return [
        served.stub.ScoreArchitecture(one(CELL, proxies, config=fields), timeout=TIMEOUT),
        served.stub.ScoreArchitectures(many([CELL], proxies, config=fields), timeout=TIMEOUT),
    ]


async def test_what_is_at_hand_is_listed(served, root):
    info = await served.stub.GetServerInfo(scoring_pb2.GetServerInfoRequest(), timeout=TIMEOUT)
    found = {dataset.name: (dataset.images, dataset.num_classes, dataset.resolution) for dataset in info.datasets}
    assert found == {
        "gaussian": (0, 0, 0),
        "cifar10": (20, 10, 32),
        "imagenet16-120": (9, 120, 16),
        "npz:odd": (40, 7, 6),
        "npz:tiny": (40, 7, 8),
    }
    hashes = {dataset.name: dataset.content_sha256 for dataset in info.datasets}
    labels = (np.arange(40) % 7).astype("<i8")
    assert hashes["npz:tiny"] == hashlib.sha256(draw(40, 8).tobytes() + labels.tobytes()).hexdigest()
    assert hashes["gaussian"] == ""
    assert len(set(hashes.values())) == len(hashes)


async def test_every_dataset_has_a_line_in_the_log(tmp_path, caplog):
    root = tmp_path / "data"
    root.mkdir()
    write_data(root)
    with caplog.at_level(logging.INFO, "archscore_server.datasets"):
        async with serving(data_dir=root) as served:
            await served.stub.ScoreArchitecture(one(CELL), timeout=TIMEOUT)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    expected = [f"dataset '{name}' cannot be used: {file}: {why}" for name, (file, why) in BROKEN.items()]
    other = "dataset 'npz:not a name' cannot be used: no config can have this name: letters, digits, '_', '-', '.'"
    assert sorted(warnings) == sorted([*expected, f"{other}, at most 64"])
    others = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert sum(line.startswith("dataset cifar10: 20 images") for line in others) == 1


async def test_a_directory_that_vanished_serves_the_rest(tmp_path, caplog):
    async with serving(data_dir=tmp_path / "nowhere") as served:
        await served.stub.ScoreArchitecture(one(CELL), timeout=TIMEOUT)
    assert "the data directory cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("name", "resolution", "num_classes"), [("npz:tiny", 8, 7), ("cifar10", 32, 10), ("imagenet16-120", 16, 120)]
)
async def test_defaults_are_the_dataset_s(served, root, name, resolution, num_classes):
    expected = scoring_pb2.EvaluationConfig(
        dataset=name,
        batch_size=5,
        resolution=resolution,
        num_classes=num_classes,
        seed=3,
        repeats=1,
        init=scoring_pb2.INIT_KAIMING_NORMAL,
        precision=scoring_pb2.PRECISION_FLOAT32,
        nasbench201=scoring_pb2.NasBench201Config(channels=16, cells_per_stage=5),
    )
    data = Datasets(root)
    own = EvaluationConfig(**data.open(name).info.config_fields, batch_size=5, seed=3)
    first = minibatch(own, 3, 0, dataset_of(own, data))
    sha256 = hashlib.sha256(first.images.tobytes() + first.labels.tobytes()).hexdigest()
    # As the default, and said in so many words.
    for fields in (config(name, batch_size=5, seed=3), expected):
        response = await served.stub.ScoreArchitecture(one(CELL, config=fields), timeout=TIMEOUT)
        assert response.evaluation.fingerprint.config == expected
        assert response.evaluation.fingerprint.minibatch_sha256 == sha256
        assert served.pool.batches[-1].config == own
        described = await served.stub.DescribeArchitecture(
            scoring_pb2.DescribeArchitectureRequest(architecture=architecture(CELL), config=fields), timeout=TIMEOUT
        )
        assert described.config == expected
        assert described.layers[-1].out_channels == num_classes


async def test_degenerate_ones_have_the_fingerprint_too(served):
    request = many([DISCONNECTED, CELL], config=config("npz:tiny", batch_size=40))
    results = await results_of(served.stub.ScoreArchitectures(request, timeout=TIMEOUT))
    [first, second] = [results[index].evaluation.fingerprint for index in range(2)]
    assert first == second
    assert first.config.num_classes == 7


CONFLICTS = {
    "resolution": (
        config("npz:tiny", batch_size=8, resolution=32),
        {"config.resolution": "must be 8 or unset with npz:tiny, is 32"},
    ),
    "num_classes": (
        config("npz:tiny", batch_size=8, num_classes=10),
        {"config.num_classes": "must be 7 or unset with npz:tiny, is 10"},
    ),
    "more images": (
        config("npz:tiny", batch_size=41),
        {"config.batch_size": "41 images are more than the 40 of npz:tiny"},
    ),
    "more images by default": (
        config("cifar10"),
        {"config.batch_size": "64 images are more than the 20 of cifar10"},
    ),
    "resolution that the space cannot have": (
        config("npz:odd", batch_size=8),
        {"config.resolution": "must be a multiple of 4 in nasbench201, is 6"},
    ),
    "several": (
        config("npz:tiny", batch_size=100, num_classes=3, resolution=4, repeats=0),
        {
            "config.repeats": "must be from 1 to 64, is 0",
            "config.resolution": "must be 8 or unset with npz:tiny, is 4",
            "config.num_classes": "must be 7 or unset with npz:tiny, is 3",
            "config.batch_size": "100 images are more than the 40 of npz:tiny",
        },
    ),
}


@pytest.mark.parametrize(("fields", "expected"), CONFLICTS.values(), ids=CONFLICTS)
async def test_conflicts_fail_the_request(served, fields, expected):
    describe = scoring_pb2.DescribeArchitectureRequest(architecture=architecture(CELL), config=fields)
    for call in [*calls(served, fields), served.stub.DescribeArchitecture(describe, timeout=TIMEOUT)]:
        status = await status_of(call)
        assert status.code == code_pb2.INVALID_ARGUMENT
        assert violations(status) == expected


async def test_proxies_that_read_two_minibatches_need_twice_the_images(served, monkeypatch):
    monkeypatch.setitem(MINIBATCHES, Pass.EVAL, 2)
    fields = config("npz:tiny", batch_size=21)
    await served.stub.ScoreArchitecture(one(CELL, ["snip"], config=fields), timeout=TIMEOUT)
    for call in calls(served, fields, ("snip", "layerwise_naswot")):
        expected = "2 minibatches of 21 images are more than the 40 of npz:tiny"
        assert violations(await status_of(call)) == {"config.batch_size": expected}


@pytest.mark.parametrize(("dataset", "file"), [("npz:nowhere", "nowhere.npz"), ("npz:TINY", "TINY.npz")])
async def test_what_is_not_there_is_named(served, dataset, file):
    for call in calls(served, config(dataset)):
        status = await status_of(call)
        assert status.code == code_pb2.FAILED_PRECONDITION
        assert reason(status) == "DATASET_NOT_FOUND"
        assert details(status)[error_details_pb2.ErrorInfo].metadata == {"dataset": dataset, "file": file}
        assert file in status.message


@pytest.mark.parametrize(("dataset", "file", "why"), [(name, *rest) for name, rest in BROKEN.items()])
async def test_what_is_broken_says_why(served, root, dataset, file, why):
    for call in calls(served, config(dataset, num_classes=3)):
        status = await status_of(call)
        assert status.code == code_pb2.FAILED_PRECONDITION
        assert reason(status) == "DATASET_UNUSABLE"
        metadata = details(status)[error_details_pb2.ErrorInfo].metadata
        assert metadata == {"dataset": dataset, "why": f"{file}: {why}"}
        assert status.message == f"config.dataset: '{dataset}' cannot be used: {file}: {why}"
        assert str(root) not in str(status)


async def test_a_dataset_s_resolution_has_the_server_s_limit(root):
    async with serving(data_dir=root, limits=Limits(max_resolution=16, max_num_classes=100)) as served:
        status = await status_of(served.stub.ScoreArchitecture(one(CELL, config=config("cifar10", batch_size=2))))
        assert violations(status) == {"config.resolution": "must be from 1 to 16, is 32"}
        fields = config("imagenet16-120", batch_size=2)
        status = await status_of(served.stub.ScoreArchitecture(one(CELL, config=fields)))
        assert violations(status) == {"config.num_classes": "must be from 2 to 100, is 120"}


async def test_before_it_has_looked_the_server_is_starting(root, monkeypatch):
    looked = asyncio.Event()

    async def wait_first(catalogue):
        await looked.wait()
        await scan(catalogue)

    scan = Catalogue.scan
    monkeypatch.setattr("archscore_server.datasets.Catalogue.scan", wait_first)
    async with serving(warm=False, data_dir=root) as served:
        served.pool.warm.set()
        request = scoring_pb2.DescribeArchitectureRequest(architecture=architecture(CELL))
        await served.stub.DescribeArchitecture(request, timeout=TIMEOUT)
        request.config.dataset = "npz:tiny"
        request.config.batch_size = 8
        status = await status_of(served.stub.DescribeArchitecture(request, timeout=TIMEOUT))
        assert (status.code, reason(status)) == (code_pb2.UNAVAILABLE, "STARTING")
        looked.set()
        await served.start
        await served.stub.DescribeArchitecture(request, timeout=TIMEOUT)


@pytest.mark.parametrize(
    ("change", "expected"),
    [("remove", "DATASET_NOT_FOUND"), ("break", "DATASET_UNUSABLE"), ("swap", "DATASET_UNUSABLE")],
)
async def test_files_that_change_after_the_start_give_no_fingerprint(tmp_path, change, expected):
    labels = np.arange(40) % 7
    write_npz(tmp_path, "x", images=draw(40, 8).transpose(0, 2, 3, 1), labels=labels)
    async with serving(data_dir=tmp_path) as served:
        if change == "remove":
            (tmp_path / "x.npz").unlink()
        elif change == "break":
            write(tmp_path, "x.npz", b"")
        else:
            write_npz(tmp_path, "x", images=draw(40, 8, seed=1).transpose(0, 2, 3, 1), labels=labels)
        fields = config("npz:x", batch_size=8, seed=["remove", "break", "swap"].index(change) + 100)
        for call in calls(served, fields):
            status = await status_of(call)
            assert (status.code, reason(status)) == (code_pb2.FAILED_PRECONDITION, expected)
