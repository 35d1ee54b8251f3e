"""What is answered without a worker, what is left for one, and who else has the event loop meanwhile."""

import asyncio
from dataclasses import replace
from itertools import count

import pytest
from google.rpc import code_pb2

from archscore.spaces import nasbench201
from archscore_server.config import Limits
from archscore_server.datasets import Catalogue
from archscore_server.engine import Datasets, Evaluation, EvaluationConfig, Outcome, Score, predicted_bytes
from archscore_server.errors import RequestError
from archscore_server.library import Library
from archscore_server.metrics import ArchitectureOutcome
from archscore_server.pool import DeviceInfo, PoolInfo
from archscore_server.preparation import Preparation
from archscore_server.progress import Progress
from archscore_server.recent import ByEncoding
from archscore_server.requests import Encodings, ScoringRequest
from archscore_server.results import Result
from archscore_server.scheduler import Item, Priority
from archscore_server.slices import Slices
from archscore_server.store import Store
from puppets import cell
from support.serving import architecture, reason, violations
from support.stores import Counts, ok

CONFIG = EvaluationConfig()
#: One whose dataset is not here.
GONE = replace(CONFIG, dataset="cifar10")
DISCONNECTED = nasbench201.Cell(("none",) * 6).format()
#: Connected cells.
INDICES = [index for index in range(15_625) if cell(index).connected][:300]


def encodings_of(*indices):
    return [f"index:{index}" for index in indices]


class Workers:
    """A pool whose memory nobody knows, so that it bounds nothing."""

    info = PoolInfo("2.0", "1.0", (DeviceInfo("cpu", "puppet", 1, 1, 0),))


class Preparing:
    """A preparation over a store in memory."""

    def __init__(self, limits=None, clock=None):
        pool = Workers()
        self.counts = Counts()
        self.slices = Slices(clock) if clock else Slices()
        self.library = Library(Store(None), Catalogue(Datasets()), pool)
        self.preparation = Preparation(self.library, self.counts, limits or Limits(), pool, self.slices)

    async def store(self, index, **scores):
        self.library.put(await self.library.context(CONFIG), cell(index), Evaluation(scores))

    async def prepare(
        self, progress, encodings, *, proxies=("tcet",), config=CONFIG, part=None, answers=None, client="a"
    ):
        """What is left of a request for cells, whose turn it is."""
        await self.slices.turn(client)
        return await self.preparation.prepare(
            progress,
            ScoringRequest(nasbench201.SPACE, proxies, config, Priority.DEFAULT),
            range(len(encodings)) if part is None else part,
            Encodings([architecture(encoding) for encoding in encodings]),
            lambda index: f"architectures[{index}].encoding",
            client,
            ByEncoding() if answers is None else answers,
        )

    async def results(self, encodings, **request):
        """What is answered of a request, by position, and the positions that are left."""
        progress = Progress(unanswered=len(encodings))
        pending = await self.prepare(progress, encodings, **request)
        return given_out(progress), [one.index for one in pending]


def given_out(progress):
    """The results that can be given out, by position, each once."""
    results = {}
    while chunk := progress.next_chunk():
        for index, result in chunk:
            assert index not in results
            results[index] = result
    return results


async def steps(task):
    """Iterations of the event loop until a task is done."""
    number = 0
    while not task.done():
        await asyncio.sleep(0)
        number += 1
    return number


# What is left for workers


async def test_of_nothing_nothing_is_left():
    assert await Preparing().results([]) == ({}, [])
    assert await Preparing().results(encodings_of(1, 2), part=range(1, 1)) == ({}, [])


async def test_what_nobody_knows_is_left_in_order():
    pending = await Preparing().prepare(Progress(3), encodings_of(*INDICES[:3]), proxies=("tcet", "snip"))
    assert [one.index for one in pending] == [0, 1, 2]
    assert [one.item for one in pending] == [Item(cell(index), ("snip", "tcet"), CONFIG) for index in INDICES[:3]]
    assert all((one.known, one.stored) == ({}, set()) for one in pending)


async def test_the_order_of_proxies_makes_no_other_work():
    preparing = Preparing()
    orders = [("tcet", "snip"), ("snip", "tcet")]
    [one], [other] = [await preparing.prepare(Progress(1), ["index:6111"], proxies=proxies) for proxies in orders]
    assert one.item == other.item


async def test_a_part_keeps_its_positions_in_the_request():
    encodings = encodings_of(*INDICES[:3], "garbage", *INDICES[3:6])
    results, left = await Preparing().results(encodings, part=range(2, 5))
    assert left == [2, 4]
    assert list(violations(results[3].answer)) == ["architectures[3].encoding"]


async def test_equal_architectures_are_each_left_or_answered():
    preparing = Preparing()
    await preparing.store(6111, tcet=ok(1.0))
    results, left = await preparing.results(["index:6111", "index:81", "index:6111", "index:81"])
    assert list(results) == [0, 2]
    assert left == [1, 3]


async def test_sizes_are_no_work():
    preparing = Preparing()
    proxies = ("parameters", "tcet", "flops")
    [one] = await preparing.prepare(Progress(1), ["index:6111"], proxies=proxies)
    assert one.item.proxies == ("tcet",)
    size = cell(6111).size(CONFIG.network, resolution=CONFIG.resolution, num_classes=CONFIG.num_classes)
    assert {name: score.value for name, score in one.known.items()} == {
        "parameters": size.parameters,
        "flops": size.flops,
    }
    assert one.stored == set()


# What is not let in


async def test_what_cannot_be_read_is_answered_alone():
    results, left = await Preparing().results(["index:6111", "garbage", "", "index:81"])
    assert left == [0, 3]
    for index in (1, 2):
        assert results[index].outcome is ArchitectureOutcome.INVALID
        assert results[index].answer.code == code_pb2.INVALID_ARGUMENT
        assert list(violations(results[index].answer)) == [f"architectures[{index}].encoding"]


async def test_what_is_too_large_is_answered_alone():
    sizes = {index: cell(index).size(CONFIG.network, resolution=32, num_classes=10).parameters for index in INDICES}
    most = sorted(sizes.values())[len(sizes) // 2]
    results, left = await Preparing(Limits(max_parameters=most)).results(encodings_of(*INDICES))
    assert left == [position for position, index in enumerate(INDICES) if sizes[index] <= most]
    assert len(results) == len(INDICES) - len(left) > 0
    assert {result.outcome for result in results.values()} == {ArchitectureOutcome.TOO_LARGE}
    assert {reason(result.answer) for result in results.values()} == {"ARCHITECTURE_TOO_LARGE"}


@pytest.mark.parametrize(
    "larger",
    [
        {"network": nasbench201.NetworkConfig(channels=32)},
        {"num_classes": 10_000},
        {"resolution": 64},
    ],
    ids=str,
)
async def test_what_was_let_in_under_one_config_may_not_be_under_another(larger):
    size = cell(6111).size(CONFIG.network, resolution=32, num_classes=10)
    preparing = Preparing(Limits(max_parameters=size.parameters, max_flops=size.flops))
    for config, left in ((CONFIG, [0]), (replace(CONFIG, **larger), []), (replace(CONFIG, seed=1), [0])):
        assert (await preparing.results(["index:6111"], config=config))[1] == left


async def test_what_takes_more_than_it_may_is_answered_alone():
    bytes_of = {index: predicted_bytes(cell(index), ("tcet",), CONFIG) for index in INDICES[:20]}
    most = sorted(bytes_of.values())[10]
    results, left = await Preparing(Limits(max_bytes=most)).results(encodings_of(*bytes_of))
    assert left == [position for position, needed in enumerate(bytes_of.values()) if needed <= most]
    assert len(results) == len(bytes_of) - len(left) > 0
    assert {result.outcome for result in results.values()} == {ArchitectureOutcome.TOO_LARGE}


async def test_what_is_stored_takes_nothing():
    """Of what is over the limit together, only what is missing is judged."""
    needed = {name: predicted_bytes(cell(6111), (name,), CONFIG) for name in ("snip", "grasp")}
    assert needed["snip"] < needed["grasp"]
    preparing = Preparing(Limits(max_bytes=needed["snip"]))
    proxies = ("snip", "grasp")
    assert (await preparing.results(["index:6111"], proxies=proxies))[1] == []
    await preparing.store(6111, grasp=ok(1.0))
    assert (await preparing.results(["index:6111"], proxies=proxies))[1] == [0]
    await preparing.store(6111, snip=ok(2.0))
    results, left = await preparing.results(["index:6111"], proxies=proxies)
    assert left == []
    assert results[0].answer == {"snip": ok(2.0), "grasp": ok(1.0)}


# What needs no device


@pytest.mark.parametrize(
    ("encoding", "proxies", "outcomes"),
    [
        ("index:6111", ("flops",), {"flops": Outcome.OK}),
        (DISCONNECTED, ("tcet",), {"tcet": Outcome.DEGENERATE}),
        (DISCONNECTED, ("tcet", "parameters"), {"tcet": Outcome.DEGENERATE, "parameters": Outcome.OK}),
    ],
)
async def test_what_needs_no_device_asks_nothing_of_the_store(encoding, proxies, outcomes):
    """A store that were asked would look for the dataset."""
    results, left = await Preparing().results([encoding], proxies=proxies, config=GONE)
    assert left == []
    assert {name: score.outcome for name, score in results[0].answer.items()} == outcomes
    assert (results[0].stored, results[0].lasting) == (set(), False)


async def test_what_was_left_for_a_worker_has_its_sizes_all_the_same():
    preparing = Preparing()
    assert (await preparing.results(["index:6111"]))[1] == [0]
    answers = []
    for one in (preparing, Preparing()):
        results, left = await one.results(["index:6111"], proxies=("parameters", "flops"))
        assert left == []
        answers.append(results[0].answer)
    assert answers[0] == answers[1]
    assert answers[0].keys() == {"parameters", "flops"}


# What is stored


async def test_what_is_stored_is_answered_for_good():
    preparing = Preparing()
    await preparing.store(6111, tcet=ok(1.0), snip=Score(Outcome.NON_FINITE), grasp=ok(3.0))
    results, left = await preparing.results(["index:6111"], proxies=("snip", "tcet", "flops"))
    assert left == []
    assert results[0].answer.keys() == {"snip", "tcet", "flops"}
    assert results[0].answer["tcet"] == ok(1.0)
    assert (results[0].stored, results[0].lasting) == ({"snip", "tcet"}, True)
    assert results[0].outcome is ArchitectureOutcome.NON_FINITE


async def test_only_what_is_missing_is_left():
    preparing = Preparing()
    await preparing.store(6111, tcet=ok(1.0))
    progress = Progress(2)
    proxies = ("tcet", "snip", "flops", "grasp")
    part, none = await preparing.prepare(progress, ["index:6111", "index:81"], proxies=proxies)
    assert part.item == Item(cell(6111), ("grasp", "snip"), CONFIG)
    assert none.item == Item(cell(81), ("grasp", "snip", "tcet"), CONFIG)
    assert (part.known["tcet"], part.known.keys(), part.stored) == (ok(1.0), {"flops", "tcet"}, {"tcet"})
    assert not progress.finished


async def test_what_is_stored_of_another_config_is_not_taken():
    preparing = Preparing()
    await preparing.store(6111, tcet=ok(1.0))
    assert (await preparing.results(["index:6111"], config=replace(CONFIG, seed=1)))[1] == [0]


async def test_a_dataset_that_is_gone_ends_the_request_and_not_what_was_answered():
    progress = Progress(3)
    with pytest.raises(RequestError) as caught:
        await Preparing().prepare(progress, ["garbage", "index:6111", DISCONNECTED], config=GONE)
    assert reason(caught.value.status) == "DATASET_NOT_FOUND"
    assert list(given_out(progress)) == [0, 2]


# What was answered before


def answered(*encodings):
    answers = ByEncoding()
    for encoding in encodings:
        answers.add(encoding, Result(encoding.encode(), ArchitectureOutcome.OK))
    return answers


@pytest.mark.parametrize("number", [0, 1, 31, 32, 33, 64, 65, 256])
async def test_known_answers_are_given_again(number):
    encodings = encodings_of(*INDICES[:number])
    results, left = await Preparing().results(encodings, answers=answered(*encodings), config=GONE)
    assert left == []
    assert {index: result.answer for index, result in results.items()} == {
        index: encoding.encode() for index, encoding in enumerate(encodings)
    }


async def test_among_known_answers_the_rest_is_left_where_it_was():
    encodings = encodings_of(*INDICES[:100])
    unknown = [0, 31, 32, 70, 99]
    known = answered(*(encoding for position, encoding in enumerate(encodings) if position not in unknown))
    results, left = await Preparing().results(encodings, answers=known, part=range(10, 100))
    assert left == [31, 32, 70, 99]
    assert sorted([*results, *left]) == list(range(10, 100))
    assert all(result.answer == encodings[position].encode() for position, result in results.items())


@pytest.mark.parametrize(("proxies", "hits"), [(("tcet",), 3), (("tcet", "flops", "snip"), 6), (("flops",), 0)])
async def test_known_answers_count_as_scores_out_of_the_store(proxies, hits):
    preparing = Preparing()
    await preparing.results(
        ["index:1", "index:2", "index:1", "garbage"], answers=answered("index:1", "index:2"), proxies=proxies
    )
    assert preparing.counts.hits == hits


# Turns


@pytest.mark.parametrize("encoding", ["garbage", DISCONNECTED])
async def test_others_have_the_event_loop_between_any_two_that_are_read(encoding):
    preparing = Preparing(clock=count().__next__)
    assert await steps(asyncio.create_task(preparing.prepare(Progress(50), [encoding] * 50))) >= 50


async def test_others_have_the_event_loop_between_any_two_that_are_stored():
    """They are read one by one, and then looked at one by one."""
    preparing = Preparing(clock=count().__next__)
    for index in INDICES[:50]:
        await preparing.store(index, tcet=ok(1.0))
    assert await steps(asyncio.create_task(preparing.prepare(Progress(50), encodings_of(*INDICES[:50])))) >= 100


async def test_others_have_the_event_loop_between_known_answers():
    preparing = Preparing(clock=count().__next__)
    encodings = encodings_of(*INDICES)
    known = answered(*encodings)
    assert await steps(asyncio.create_task(preparing.prepare(Progress(300), encodings, answers=known))) >= 300 // 32


async def test_clients_take_turns():
    preparing = Preparing(clock=count().__next__)
    many, few = Progress(200), Progress(10)
    long = asyncio.create_task(preparing.prepare(many, ["garbage"] * 200, client="many"))
    for _ in range(5):
        await asyncio.sleep(0)
    await preparing.prepare(few, ["garbage"] * 10, client="few")
    assert len(given_out(few)) == 10
    assert len(given_out(many)) < 30
    await long


async def test_a_request_that_is_given_up_half_way_is_in_nobodys_way():
    preparing = Preparing(clock=count().__next__)
    progress, other = Progress(200), Progress(3)
    given_up = asyncio.create_task(preparing.prepare(progress, ["garbage"] * 200))
    while not progress.finished:  # noqa: ASYNC110 -- one iteration at a time
        await asyncio.sleep(0)
    given_up.cancel()
    pending = await preparing.prepare(other, ["garbage", *encodings_of(6111, 81)])
    assert [one.index for one in pending] == [1, 2]
    assert given_up.cancelled()
    assert len(given_out(progress)) < 200
