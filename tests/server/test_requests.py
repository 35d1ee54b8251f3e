"""Bad input: the exact status, details and field paths of every fault, and that no worker ever sees it."""

import asyncio
import time
from collections.abc import AsyncIterator

import grpc
import pytest
import pytest_asyncio
from google.rpc import code_pb2, error_details_pb2

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2
from archscore_server import requests
from archscore_server.config import Limits
from archscore_server.datasets import Catalogue
from archscore_server.engine import Datasets
from archscore_server.engine import proxies as registry
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
KNOWN_PROXIES = ", ".join(registry.names())
LIMITS = Limits(max_architectures_per_request=30)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served() -> AsyncIterator[Serving]:
    async with serving(limits=LIMITS) as running:
        yield running
        assert running.pool.batches == []


def config(**fields: object) -> scoring_pb2.EvaluationConfig:
    return scoring_pb2.EvaluationConfig(**fields)


def cell_config(**fields: int) -> scoring_pb2.EvaluationConfig:
    return config(nasbench201=scoring_pb2.NasBench201Config(**fields))


CONFIG_FAULTS = {
    "batch_size 0": (config(batch_size=0), {"config.batch_size": "must be from 2 to 512, is 0"}),
    "batch_size 1": (config(batch_size=1), {"config.batch_size": "must be from 2 to 512, is 1"}),
    "batch_size over": (config(batch_size=513), {"config.batch_size": "must be from 2 to 512, is 513"}),
    "num_classes 0": (config(num_classes=0), {"config.num_classes": "must be from 2 to 10000, is 0"}),
    "num_classes 1": (config(num_classes=1), {"config.num_classes": "must be from 2 to 10000, is 1"}),
    "num_classes over": (config(num_classes=10_001), {"config.num_classes": "must be from 2 to 10000, is 10001"}),
    "resolution 0": (config(resolution=0), {"config.resolution": "must be from 1 to 128, is 0"}),
    "resolution 30": (config(resolution=30), {"config.resolution": "must be a multiple of 4 in nasbench201, is 30"}),
    "resolution over": (config(resolution=132), {"config.resolution": "must be from 1 to 128, is 132"}),
    "repeats 0": (config(repeats=0), {"config.repeats": "must be from 1 to 64, is 0"}),
    "repeats over": (config(repeats=65), {"config.repeats": "must be from 1 to 64, is 65"}),
    "seed": (config(seed=2**32), {"config.seed": "must be below 2^32, is 4294967296"}),
    "largest seed": (config(seed=2**64 - 1), {"config.seed": "must be below 2^32, is 18446744073709551615"}),
    "seed + repeats": (
        config(seed=2**32 - 2, repeats=3),
        {"config.repeats": "seed + repeats must be at most 2^32, is 4294967297"},
    ),
    "init": (
        config(init=99),
        {
            "config.init": "unknown value 99: known are INIT_KAIMING_NORMAL, INIT_XAVIER_NORMAL, INIT_NORMAL, "
            "INIT_PYTORCH"
        },
    ),
    "precision": (
        config(precision=-1),
        {"config.precision": "unknown value -1: known are PRECISION_FLOAT32, PRECISION_FLOAT64, PRECISION_TF32"},
    ),
    "channels 0": (cell_config(channels=0), {"config.nasbench201.channels": "must be from 1 to 64, is 0"}),
    "channels over": (cell_config(channels=65), {"config.nasbench201.channels": "must be from 1 to 64, is 65"}),
    "cells 0": (cell_config(cells_per_stage=0), {"config.nasbench201.cells_per_stage": "must be from 1 to 10, is 0"}),
    "cells over": (
        cell_config(cells_per_stage=11),
        {"config.nasbench201.cells_per_stage": "must be from 1 to 10, is 11"},
    ),
    "another space's config": (
        config(zennas=scoring_pb2.ZenNasConfig()),
        {"config.zennas": "does not go with search space nasbench201"},
    ),
    "empty dataset": (
        config(dataset=""),
        {
            "config.dataset": "unknown dataset '': known are gaussian, cifar10, cifar100, imagenet16-120 and npz:NAME "
            "(letters, digits, '_', '-', '.')"
        },
    ),
    "dataset with a path": (
        config(dataset="npz:../../etc/passwd"),
        {
            "config.dataset": "unknown dataset 'npz:../../etc/passwd': known are gaussian, cifar10, cifar100, "
            "imagenet16-120 and npz:NAME (letters, digits, '_', '-', '.')"
        },
    ),
    "several": (
        config(batch_size=1, resolution=7, nasbench201=scoring_pb2.NasBench201Config(channels=1_000)),
        {
            "config.batch_size": "must be from 2 to 512, is 1",
            "config.resolution": "must be a multiple of 4 in nasbench201, is 7",
            "config.nasbench201.channels": "must be from 1 to 64, is 1000",
        },
    ),
}

PROXY_FAULTS = {
    "none": ([], {"proxies": "must name at least one proxy"}),
    "unknown": (["tcet", "tce"], {"proxies[1]": f"unknown proxy 'tce': known are {KNOWN_PROXIES}"}),
    "empty name": ([""], {"proxies[0]": f"unknown proxy '': known are {KNOWN_PROXIES}"}),
    "repeated": (["tcet", "snip", "tcet"], {"proxies[2]": "tcet is asked for more than once"}),
    "unknown and repeated": (
        ["a", "tcet", "tcet", "b"],
        {
            "proxies[0]": f"unknown proxy 'a': known are {KNOWN_PROXIES}",
            "proxies[2]": "tcet is asked for more than once",
            "proxies[3]": "unknown proxy 'b'",
        },
    ),
    "long, not ASCII, on two lines": (
        ["é\n" + "x" * 1_000_000],
        {"proxies[0]": f"unknown proxy '\\xe9\\n{'x' * 58}'...: known are {KNOWN_PROXIES}"},
    ),
}

SPACE_FAULTS = {
    "unset": ("", "must be set: known are nasbench201, zennas"),
    "unknown": ("nasbench301", "unknown search space 'nasbench301': known are nasbench201, zennas"),
}

#: Encodings, where the first surprise is, and what was expected there.
ENCODING_FAULTS = {
    "empty": ("", 0, "'|' or 'index:'"),
    "blank": (" \n", 2, "'|' or 'index:'"),
    "wrong operation": (CELL.replace("nor_conv_1x1", "nor_conv_5x5", 1), None, "one of none, skip_connect"),
    "wrong edge": (CELL.replace("~0", "~1", 1), CELL.index("~0"), "'~0'"),
    "missing bar": (CELL[:-1], len(CELL) - 1, "'|'"),
    "trailing text": (CELL + "|", len(CELL), "end of text"),
    "garbage": ("\x07" * 1_000_000, 0, "'|' or 'index:'"),
    "long tail": (CELL + "x" * 1_000_000, len(CELL), "end of text"),
    "not ASCII": ("|é" + CELL, 1, "one of none, skip_connect"),
    "NUL": (CELL + "\0", len(CELL), "end of text"),
    "index out of range": ("index:15625", 6, "an integer from 0 to 15624"),
    "index negative": ("index:-1", 6, "an integer from 0 to 15624"),
    "index of a million digits": ("index:" + "9" * 1_000_000, 6, "an integer from 0 to 15624"),
}


def assert_invalid(status, expected):
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert set(details(status)) == {error_details_pb2.BadRequest}
    assert violations(status) == expected
    first_field, first_description = next(iter(expected.items()))
    assert f"{first_field}: {first_description}"[:400] in status.message
    assert_short(status)


def assert_short(status):
    assert status.ByteSize() < 5_000
    assert status.message.isascii()
    assert "\n" not in status.message


@pytest.mark.parametrize(("fields", "expected"), CONFIG_FAULTS.values(), ids=CONFIG_FAULTS)
async def test_config_fails_the_request(served, fields, expected):
    assert_invalid(await status_of(served.stub.ScoreArchitecture(one(CELL, config=fields), timeout=TIMEOUT)), expected)
    assert_invalid(
        await status_of(served.stub.ScoreArchitectures(many([CELL], config=fields), timeout=TIMEOUT)), expected
    )
    describe = scoring_pb2.DescribeArchitectureRequest(architecture=architecture(CELL), config=fields)
    assert_invalid(await status_of(served.stub.DescribeArchitecture(describe, timeout=TIMEOUT)), expected)


@pytest.mark.parametrize(("names", "expected"), PROXY_FAULTS.values(), ids=PROXY_FAULTS)
async def test_proxies_fail_the_request(served, names, expected):
    assert_invalid(await status_of(served.stub.ScoreArchitecture(one(CELL, names), timeout=TIMEOUT)), expected)
    assert_invalid(await status_of(served.stub.ScoreArchitectures(many([CELL], names), timeout=TIMEOUT)), expected)


@pytest.mark.parametrize(("space", "description"), SPACE_FAULTS.values(), ids=SPACE_FAULTS)
async def test_space_fails_the_request(served, space, description):
    bad = architecture(CELL, space)
    scored = scoring_pb2.ScoreArchitectureRequest(architecture=bad, proxies=["tcet"])
    described = scoring_pb2.DescribeArchitectureRequest(architecture=bad)
    expected = {"architecture.space": description}
    assert_invalid(await status_of(served.stub.ScoreArchitecture(scored, timeout=TIMEOUT)), expected)
    assert_invalid(await status_of(served.stub.DescribeArchitecture(described, timeout=TIMEOUT)), expected)
    mixed = scoring_pb2.ScoreArchitecturesRequest(architectures=[architecture(CELL), bad, bad], proxies=["tcet"])
    expected = {"architectures[1].space": description, "architectures[2].space": description}
    assert_invalid(await status_of(served.stub.ScoreArchitectures(mixed, timeout=TIMEOUT)), expected)


async def test_mixed_spaces_fail_the_request(served, monkeypatch):
    other = nasbench201.SPACE.__class__("other", "d", CELL, nasbench201.NetworkConfig(), 4, nasbench201.parse, None)
    monkeypatch.setattr("archscore_server.requests.SPACES", {"nasbench201": nasbench201.SPACE, "other": other})
    request = scoring_pb2.ScoreArchitecturesRequest(
        architectures=[architecture(CELL), architecture(CELL, "other"), architecture(CELL)], proxies=["tcet"]
    )
    expected = {"architectures[1].space": "a request is about one search space: this is other, another is nasbench201"}
    assert_invalid(await status_of(served.stub.ScoreArchitectures(request, timeout=TIMEOUT)), expected)


async def test_unset_architecture_fails_the_request(served):
    request = scoring_pb2.ScoreArchitectureRequest(proxies=["tcet"])
    expected = {"architecture.space": "must be set: known are nasbench201, zennas"}
    assert_invalid(await status_of(served.stub.ScoreArchitecture(request, timeout=TIMEOUT)), expected)


@pytest.mark.parametrize("count", [0, 31])
async def test_number_of_architectures_fails_the_request(served, count):
    status = await status_of(served.stub.ScoreArchitectures(many([CELL] * count), timeout=TIMEOUT))
    limit = "max_architectures_per_request"
    assert_invalid(status, {"architectures": f"must be from 1 to 30 architectures ({limit}), are {count}"})


@pytest.mark.parametrize("limit", ["max_queued_architectures", "max_in_flight_per_client"])
async def test_a_request_that_could_never_be_admitted_is_not_to_be_tried_again(limit):
    async with serving(limits=Limits(**{limit: 3})) as served:
        status = await status_of(served.stub.ScoreArchitectures(many([CELL] * 4), timeout=TIMEOUT))
        assert_invalid(status, {"architectures": f"must be from 1 to 3 architectures ({limit}), are 4"})
        assert len(await results_of(served.stub.ScoreArchitectures(many([CELL] * 3), timeout=TIMEOUT))) == 3


@pytest.mark.parametrize("priority", [4, -1, 2**31 - 1])
async def test_priority_fails_the_request(served, priority):
    status = await status_of(served.stub.ScoreArchitecture(one(CELL, priority=priority), timeout=TIMEOUT))
    expected = f"unknown value {priority}: known are PRIORITY_BULK, PRIORITY_DEFAULT, PRIORITY_INTERACTIVE"
    assert_invalid(status, {"priority": expected})


async def test_all_kinds_of_faults_are_reported_at_once(served):
    request = one("garbage", ["nope"], config=config(batch_size=0, seed=2**40), priority=9)
    request.architecture.space = "nowhere"
    status = await status_of(served.stub.ScoreArchitecture(request, timeout=TIMEOUT))
    assert list(violations(status)) == [
        "architecture.space",
        "proxies[0]",
        "priority",
        "config.batch_size",
        "config.seed",
    ]
    assert "(and 2 more)" in status.message


@pytest.mark.parametrize("name", ["x", "é" * 3_000])
async def test_violations_are_bounded(served, name):
    names = [f"{name}{number}" for number in range(500)]
    status = await status_of(served.stub.ScoreArchitectures(many([CELL], names), timeout=TIMEOUT))
    assert status.code == code_pb2.INVALID_ARGUMENT
    assert 5 <= len(violations(status)) <= 20
    assert_short(status)


@pytest.mark.parametrize(
    ("dataset", "file"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_1"),
        ("cifar100", "cifar-100-python/train"),
        ("imagenet16-120", "ImageNet16/train_data_batch_1"),
        ("npz:golden", "golden.npz"),
    ],
)
async def test_dataset_that_is_not_here(served, dataset, file):
    fields = config(dataset=dataset)
    for call in (
        served.stub.ScoreArchitecture(one(CELL, config=fields), timeout=TIMEOUT),
        served.stub.ScoreArchitectures(many([CELL], config=fields), timeout=TIMEOUT),
    ):
        status = await status_of(call)
        assert status.code == code_pb2.FAILED_PRECONDITION
        assert reason(status) == "DATASET_NOT_FOUND"
        assert details(status)[error_details_pb2.ErrorInfo].metadata == {"dataset": dataset, "file": file}
        assert file in status.message


@pytest.mark.parametrize(("encoding", "position", "expected"), ENCODING_FAULTS.values(), ids=ENCODING_FAULTS)
async def test_encoding_fails_its_item_only(served, encoding, position, expected):
    started = time.monotonic()
    disconnected = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    results = await results_of(
        served.stub.ScoreArchitectures(many([disconnected, encoding, disconnected]), timeout=TIMEOUT)
    )
    assert time.monotonic() - started < 1
    assert [results[index].HasField("evaluation") for index in range(3)] == [True, False, True]
    [(field, description)] = violations(results[1].error).items()
    assert field == "architectures[1].encoding"
    where = f"at position {position}: expected {expected}"
    assert where in description if position is not None else f": expected {expected}" in description
    assert_invalid(results[1].error, {field: description})


@pytest.mark.parametrize(("encoding", "position", "expected"), ENCODING_FAULTS.values(), ids=ENCODING_FAULTS)
async def test_encoding_fails_a_call_for_one(served, encoding, position, expected):
    describe = scoring_pb2.DescribeArchitectureRequest(architecture=architecture(encoding))
    for call in (
        served.stub.ScoreArchitecture(one(encoding), timeout=TIMEOUT),
        served.stub.DescribeArchitecture(describe, timeout=TIMEOUT),
    ):
        status = await status_of(call)
        [(field, description)] = violations(status).items()
        assert field == "architecture.encoding"
        assert f": expected {expected}" in description
        assert_invalid(status, {field: description})


@pytest.mark.parametrize("token", ["x", "!", "a" * 10_000, "cHJveGllcy8=x", "c2VhcmNoX3NwYWNlcy94", "cHJveGllcw=="])
async def test_page_token_fails_the_request(served, token):
    status = await status_of(served.stub.ListProxies(scoring_pb2.ListProxiesRequest(page_token=token), timeout=TIMEOUT))
    [field] = violations(status)
    assert field == "page_token"
    assert_short(status)


async def test_many_bad_requests_at_once_leave_nothing(served):
    calls = [served.stub.ScoreArchitectures(many(["garbage"] * 30), timeout=TIMEOUT) for _ in range(50)]
    for results in await asyncio.gather(*map(results_of, calls)):
        assert len(results) == 30
        assert {result.error.code for result in results.values()} == {code_pb2.INVALID_ARGUMENT}
    with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
        await served.stub.ScoreArchitecture(one(CELL, []), timeout=TIMEOUT)


async def test_what_is_remembered_of_requests_is_bounded():
    catalogue = Catalogue(Datasets(None))
    await catalogue.scan()
    checker = requests.ScoringRequests(Limits(), catalogue)
    for seed in range(requests._MAX_RIGHT + 10):
        asked = one(CELL, config=config(seed=seed))
        assert checker.check(asked).config.seed == seed
        assert checker.check(asked) is checker.check(asked)
    assert len(checker._right) == requests._MAX_RIGHT
    # Field 2047, which there is none of, with a megabyte in it.
    padded = config(seed=10**6).SerializeToString() + b"\xfa\x7f\x80\x80\x40" + bytes(2**20)
    asked = one(CELL, config=scoring_pb2.EvaluationConfig.FromString(padded))
    assert checker.check(asked).config.seed == 10**6
    assert checker.check(asked) is not checker.check(asked)
