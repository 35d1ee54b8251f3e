"""What gets into the log, and in which form: nothing that was sent can forge, break or flood a line of it."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from _pytest.logging import LogCaptureHandler
from google.rpc import error_details_pb2

from archscore.spaces import nasbench201
from archscore_server import logs
from archscore_server.service import ScoringService
from support.process import server_process
from support.serving import TIMEOUT, details, many, one, results_of, serving, status_of

CELL = nasbench201.from_index(6111).format()
FORGED = "2026-01-01T00:00:00.000+00:00 [critical ] the server is lost [archscore_server.run]"
HOSTILE = f"x\r\n{FORGED}\n\x1b[31m\x1b]0;title\x07 \x00 \x7f \x85 \x9b \u2028 \u2029 \u202e \u2066 \u200f \ufeff"
#: What metadata may consist of.
HOSTILE_NAME = f'x" level=critical {FORGED}'
TOKEN = "vErYsEcReT.ToKeN"
METADATA = (("archscore-client-id", HOSTILE_NAME), ("authorization", f"Bearer {TOKEN}"))
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 \[")

Output = Callable[[], str]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=["console", "json"])
def style(request: pytest.FixtureRequest) -> logs.Style:
    return request.param


@pytest.fixture
def output(style: logs.Style) -> Iterator[Output]:
    """What all loggers wrote so far at level debug."""
    stream = io.StringIO()
    root, handler = logging.getLogger(), logs.handler(stream, style)
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream.getvalue
    root.setLevel(level)
    root.removeHandler(handler)


def written(record: Callable[[logging.Logger], object], style: logs.Style, stream: io.StringIO | None = None) -> str:
    """What a logger of its own writes."""
    stream = stream or io.StringIO()
    logger = logging.Logger("some.module")
    logger.addHandler(logs.handler(stream, style))
    record(logger)
    return stream.getvalue()


def assert_well_formed(output: str, style: logs.Style) -> list[str]:
    """Each line is one that the log has begun itself; returns the lines."""
    assert output.endswith("\n")
    lines = output[:-1].split("\n")
    for line in lines:
        assert line.isprintable(), ascii(line)
        if style == "json":
            fields = json.loads(line)
            assert list(fields)[:4] == ["time", "level", "logger", "event"]
            assert all(part.isprintable() for value in fields.values() for part in str(value).split("\n"))
            assert not any("\n" in str(fields[name]) for name in set(fields) - {"exception"})
        else:
            assert STAMP.match(line) or line.startswith("    "), line
    return lines


async def ask_for_it(monkeypatch: pytest.MonkeyPatch, encoding: str, proxy: str) -> str:
    """A call whose failure is logged with all that was sent; returns its request id."""

    async def fail(self: object, request: object, context: object) -> None:
        sent = f"{request.architecture.encoding} {request.proxies[0]} {context.invocation_metadata()}"
        raise RuntimeError(sent) from ValueError(sent)

    monkeypatch.setattr(ScoringService, "ScoreArchitecture", fail)
    # pytest would keep the records, which lead to a call that gRPC cannot free once its server is gone.
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [each for each in root.handlers if not isinstance(each, LogCaptureHandler)])
    async with serving() as served:
        call = served.stub.ScoreArchitecture(one(encoding, [proxy]), timeout=TIMEOUT, metadata=METADATA)
        info = details(await status_of(call))[error_details_pb2.ErrorInfo]
        return info.metadata["request_id"]


async def test_nothing_sent_can_forge_a_line(monkeypatch, output, style):
    request_id = await ask_for_it(monkeypatch, HOSTILE, f"proxy {HOSTILE}")
    lines = assert_well_formed(output(), style)
    assert not [line for line in lines if line.startswith(FORGED[:40])]
    about = [line for line in lines if request_id in line]
    assert len(about) == 2  # that it failed, and at debug level that it ended
    assert all("id:x" in line for line in about)
    if style == "json":
        [failed] = [json.loads(line) for line in about if "exception" in line]
        assert failed["client"] == f"id:{HOSTILE_NAME}"[: len(failed["client"])]
        assert failed["request_id"] == request_id
        assert failed["level"] == "error"
        assert "RuntimeError: x\\r\\n2026" in failed["exception"]
        assert failed["exception"].count("\n") < 20


async def test_a_token_is_in_no_line(monkeypatch, output, style):
    async with serving() as served:
        assert await results_of(served.stub.ScoreArchitectures(many([CELL]), timeout=TIMEOUT, metadata=METADATA))
    await ask_for_it(monkeypatch, CELL, f"bearer {TOKEN}")
    assert "ScoreArchitectures OK" in output()
    assert "RuntimeError" in output()
    assert TOKEN not in output()


async def test_a_megabyte_is_never_whole(monkeypatch, output, style):
    await ask_for_it(monkeypatch, "genome " * 2**17, "tcet")
    lines = assert_well_formed(output(), style)
    assert "more characters" in output()
    assert max(map(len, lines)) < 20_000


@pytest.mark.parametrize(
    "text",
    [
        f"authorization: {TOKEN}",
        f"Authorization: Basic {TOKEN}",
        f"(('authorization', 'Bearer {TOKEN}'),)",
        f"{{'authorization': '{TOKEN}'}}",
        f"_Metadatum(key='authorization', value='Bearer {TOKEN}')",
        f"BEARER  {TOKEN}",
        f"a line\nbearer\t{TOKEN}",
        "x" * 1_480 + f" bearer {TOKEN} " + "x" * 5_000,
    ],
)
def test_tokens_are_masked_wherever_they_are(text, style):
    def record(logger: logging.Logger) -> None:
        logger.info("%s", text)
        logger.error("failed", exc_info=RuntimeError(text))

    lines = written(record, style)
    assert "***" in lines
    assert TOKEN[:6] not in lines


def test_long_values_keep_their_ends(style):
    line = written(lambda logger: logger.info("%s", "start" + "-" * 10_000 + "end"), style)
    assert "event" in line or "start" in line
    assert "start" in line
    assert "... (8008 more characters) ..." in line
    assert "end" in line
    assert len(line) < 2_500


def test_long_tracebacks_keep_their_ends(style):
    def fall(depth: int) -> None:
        if depth:
            try:
                fall(depth - 1)
            except ValueError as error:
                raise ValueError(f"depth {depth}") from error
        raise ValueError("the first cause")

    def record(logger: logging.Logger) -> None:
        try:
            fall(50)
        except ValueError:
            logger.exception("failed")

    output = written(record, style)
    assert_well_formed(output, style)
    assert re.search(r"\.\.\. \(\d{3,} more lines\) \.\.\.", output)
    assert "the first cause" in output
    assert "depth 50" in output
    assert len(output) < 20_000


def test_groups_of_exceptions(style):
    group = ExceptionGroup("several", [ValueError("one\nof them"), OSError("another")])
    output = written(lambda logger: logger.error("failed", exc_info=group), style)
    assert_well_formed(output, style)
    assert "OSError: another" in output
    assert "one\\" in output


@pytest.mark.parametrize(
    ("stream", "variables", "wanted"),
    [
        (Terminal, {}, "coloured"),
        (Terminal, {"NO_COLOR": "1"}, "console"),
        (Terminal, {"NO_COLOR": ""}, "coloured"),
        (io.StringIO, {}, "json"),
    ],
)
def test_form_and_colours_suit_the_stream(monkeypatch, stream, variables, wanted):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    line = written(lambda logger: logger.info("as \x1b[31m asked"), "auto", stream())
    assert {"coloured": "\x1b[", "console": " [info", "json": '"level": "info"'}[wanted] in line
    assert ("\x1b" in line) == (wanted == "coloured")
    assert "\x1b[31m asked" not in line


def test_what_nobody_caught_is_a_line_too():
    source = """
        import asyncio, threading, warnings
        from archscore_server import logs

        async def main():
            asyncio.get_running_loop().call_soon(int, "not\\na number")
            await asyncio.sleep(0)

        class Trap:
            def __del__(self):
                raise OSError("trapped")

        logs.configure("WARNING")
        warnings.warn("be\\ncareful")
        thread = threading.Thread(target=int, args=["of a\\nthread"])
        thread.start()
        thread.join()
        asyncio.run(main())
        Trap()
        raise LookupError("the\\nend")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    lines = [json.loads(line) for line in assert_well_formed(done.stderr, "json")]
    assert [line["level"] for line in lines] == ["warning", "critical", "error", "critical", "critical"]
    assert "be\\ncareful" in lines[0]["event"]
    for line, end in zip(lines[1:], ["of a\\nthread'", "not\\na number'", "trapped", "the\\nend"], strict=True):
        assert line["exception"].endswith(end)


@pytest.mark.slow
def test_workers_log_alike(tmp_path: Path):
    """A package with a proxy cannot be imported, which the front end and each worker find out."""
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[archscore.proxies]\nown = no_such_module\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    log = tmp_path / "log"
    with (
        log.open("w") as stream,
        server_process(
            "--device", "cpu", "--workers", "1", "--threads", "1", environment={"PYTHONPATH": path}, log=stream
        ) as server,
    ):
        [worker] = server.workers()
        assert server.stop() == 0
    lines = [json.loads(line) for line in assert_well_formed(log.read_text(), "json")]
    broken = [line for line in lines if line["event"].startswith("no proxies from broken 1.0")]
    assert sorted(line.get("worker", 0) for line in broken) == [0, worker]
    assert all("ModuleNotFoundError" in line["exception"] for line in broken)
