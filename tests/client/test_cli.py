"""The command line: what it prints where, and how it exits."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from unittest.mock import ANY

import grpc
import pytest
from google.protobuf import json_format

import archscore
from archscore import _progress, _retry, cli
from archscore.v1 import scoring_pb2
from puppet_server import PROXIES, QUEUE_FULL, Fault, score_of, status


@pytest.fixture
def archscore_cli(target, capsys, monkeypatch):
    """Runs a command against the puppet; returns its exit code, stdout and stderr."""
    monkeypatch.setenv("ARCHSCORE_SERVER", target)

    def run(*arguments):
        code = cli.main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


#: Whoever runs the tests in the background may have it ignored, which is inherited.
HEED_SIGINT = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"


@pytest.fixture
def start_process():
    """Runs a command in a process of its own, which does not outlive the test."""
    started = []

    def start(*arguments, close=None, **kwargs):
        # Not in a preexec_fn: gRPC's threads do not survive the fork that one takes, and may abort the child.
        command = [sys.executable, "-c", f"{HEED_SIGINT}; from archscore.cli import main; sys.exit(main())", *arguments]
        if close is not None:
            command = ["sh", "-c", f'exec "$@" {close}>&-', "sh", *command]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **kwargs,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


def rest(process):
    """The lines that are still to come, and stderr. `communicate` would lose what `readline` has read ahead."""
    with process.stdout, process.stderr:
        return process.stdout.read().splitlines(), process.stderr.read()


# Scoring


def test_table(archscore_cli):
    code, out, err = archscore_cli("score", "--proxies", "tcet,ssnr", "cell1", "none", "bad\x00\n" + "x" * 1000)
    assert code == cli.EXIT_FAILED
    assert not err
    header, scored, degenerate, malformed = out.splitlines()
    assert header.split() == ["tcet", "ssnr", "architecture"]
    assert scored.split() == [f"{score_of('cell1', 'tcet'):.6g}", f"{score_of('cell1', 'ssnr'):.6g}", "cell1"]
    assert degenerate.split() == ["degenerate", "degenerate", "none"]
    assert malformed.split()[:3] == ["-", "-", "bad\\x00\\n" + "x" * 152 + "..."]
    assert malformed.endswith("...  error: at position 3: expected '|'")
    assert header.index("architecture") == scored.index("cell1") == degenerate.index("none")


def test_json_is_the_contract_in_request_order(archscore_cli, puppet):
    puppet.reverse = True
    code, out, err = archscore_cli("score", "--proxies", "tcet", "--json", "--chunk-size", "2", "cell1", "bad", "none")
    assert (code, err) == (cli.EXIT_FAILED, "")
    lines = out.splitlines()
    results = [json_format.Parse(line, scoring_pb2.ArchitectureResult()) for line in lines]
    assert [result.index for result in results] == [0, 1, 2]
    assert results[0].evaluation.scores[0].value == score_of("cell1", "tcet")
    assert results[1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert results[2].evaluation.scores[0].outcome == scoring_pb2.OUTCOME_DEGENERATE
    # Fields without presence are printed too, fields with presence only when they are set.
    assert json.loads(lines[0])["index"] == 0
    (score,) = json.loads(lines[2])["evaluation"]["scores"]
    assert score == {"proxy": "tcet", "outcome": "OUTCOME_DEGENERATE", "stored": False}
    assert json.loads(lines[1])["error"]["details"][0]["fieldViolations"][0]["description"].startswith("at position 3")


def test_json_of_an_error_with_an_unknown_detail(archscore_cli, puppet):
    error = status(grpc.StatusCode.INTERNAL, "boom")
    error.details.add(type_url="type.googleapis.com/of.the.Future", value=b"\x08\x01")
    puppet.item_script["x"] = [error]
    code, out, _ = archscore_cli("score", "--proxies", "tcet", "--json", "x")
    assert code == cli.EXIT_FAILED
    assert json.loads(out)["error"]["message"] == "boom"


def test_all_scored(archscore_cli, puppet):
    code, _, _ = archscore_cli(
        "score", "--proxies", " tcet, ssnr,", "--space", "zennas", "--config", '{"batchSize": 16, "repeats": 3}',
        "--priority", "bulk", "--timeout", "50", "cell", "none",
    )  # fmt: skip
    assert code == cli.EXIT_OK
    (request,) = puppet.requests
    assert list(request.proxies) == ["tcet", "ssnr"]
    assert {architecture.space for architecture in request.architectures} == {"zennas"}
    assert request.config.batch_size == 16
    assert request.priority == scoring_pb2.PRIORITY_BULK
    assert puppet.timeouts[0] == pytest.approx(50, abs=5)


@pytest.mark.parametrize("stdin", [True, False])
def test_file(archscore_cli, puppet, tmp_path, monkeypatch, stdin):
    content = b"\xef\xbb\xbfcell1\r\n\n  \t\ncell2 \n\xff\xfe\r\ncell3"
    if stdin:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        file = "-"
    else:
        file = tmp_path / "cells.txt"
        file.write_bytes(content)
    code, out, err = archscore_cli("score", "--proxies", "tcet", "--file", str(file))
    assert (code, err) == (cli.EXIT_FAILED, "")
    assert puppet.chunks() == [["cell1", "cell2 ", "cell3"]]
    assert out.splitlines()[3].endswith("\\udcff\\udcfe  error: at position 0: expected Unicode text")


def test_an_empty_file(archscore_cli, tmp_path):
    (tmp_path / "empty").touch()
    assert archscore_cli("score", "--proxies", "tcet", "--json", "--file", str(tmp_path / "empty")) == (0, "", "")


def test_output_appears_as_it_is_ready(start_process, target):
    process = start_process(
        "score", "--server", target, "--proxies", "tcet", "--json", "--chunk-size", "1", "--file", "-",
        stdin=subprocess.PIPE,
    )  # fmt: skip
    # Nothing more than the window is read ahead, and what is answered is printed before stdin ends.
    process.stdin.write("cell1\n" * 50)
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["index"] == 0
    process.stdin.close()
    assert rest(process) == (49 * [ANY], "")
    assert process.wait() == 0


def test_client_id(archscore_cli, puppet, monkeypatch):
    monkeypatch.setenv("ARCHSCORE_CLIENT_ID", "other")
    archscore_cli("info")
    archscore_cli("info", "--client-id", "me")
    assert archscore_cli("score", "--client-id", "me", "--proxies", "tcet", "x")[0] == cli.EXIT_OK
    assert puppet.client_ids == ["other", "me", "me"]


# Look-ups


def test_describe(archscore_cli):
    code, out, _ = archscore_cli("describe", " x ")
    assert code == 0
    assert "1,234,567" in out
    assert "stem" in out
    code, out, _ = archscore_cli("describe", "--json", "x", "--config", '{"batchSize": 2}')
    description = json_format.Parse(out, scoring_pb2.DescribeArchitectureResponse())
    assert description.config.batch_size == 2
    code, out, err = archscore_cli("describe", "bad")
    assert (code, out) == (cli.EXIT_FAILED, "")
    assert "position 3" in err


def test_lists(archscore_cli):
    code, out, _ = archscore_cli("proxies")
    assert code == 0
    assert out.splitlines()[1].split() == ["flops", "1", "higher", "What", "flops", "is."]
    code, out, _ = archscore_cli("proxies", "--json")
    listed = [json.loads(line) for line in out.splitlines()]
    assert [proxy["name"] for proxy in listed] == list(PROXIES)
    assert {"formula", "paper", "direction"} <= set(listed[0])
    code, out, _ = archscore_cli("spaces")
    assert [line.split()[0] for line in out.splitlines()] == ["space", "nasbench201", "other", "zennas"]
    code, out, _ = archscore_cli("spaces", "--json")
    assert json.loads(out.splitlines()[0])["example"] == "|x|"


def test_info(archscore_cli, puppet):
    code, out, _ = archscore_cli("info", "--timeout", "7")
    assert code == 0
    assert "puppet" in out
    assert "1,000" in out
    assert puppet.timeouts[0] == pytest.approx(7, abs=3)
    code, out, _ = archscore_cli("info", "--json")
    assert json.loads(out)["limits"]["maxArchitecturesPerRequest"] == 1000


# TLS and tokens


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text("  as_Secret \nsomething else\n")
    return str(file)


def test_token_file(archscore_cli, puppet, monkeypatch, token_file):
    monkeypatch.setenv("ARCHSCORE_TOKEN", "another")
    assert archscore_cli("spaces", "--token-file", token_file)[0] == cli.EXIT_OK
    assert archscore_cli("score", "--token-file", token_file, "--proxies", "tcet", "x")[0] == cli.EXIT_OK
    assert archscore_cli("info")[0] == cli.EXIT_OK
    *given, by_environment = puppet.authorizations
    assert by_environment == ["Bearer another"]
    assert given == [["Bearer as_Secret"]] * len(given)


def test_files_for_tls(archscore_cli, puppet, serve, certificates, monkeypatch, token_file):
    certificate, key = map(str, certificates.client)
    server = f"localhost:{serve(certificates.credentials(mutual=True))}"
    files = ("--ca", str(certificates.ca), "--cert", certificate, "--key", key)
    assert archscore_cli("info", "--server", server, *files, "--token-file", token_file)[0] == cli.EXIT_OK
    monkeypatch.setenv("ARCHSCORE_CA", "/nowhere")
    monkeypatch.setenv("ARCHSCORE_CERT", certificate)
    monkeypatch.setenv("ARCHSCORE_KEY", key)
    assert archscore_cli("info", "--server", server, "--ca", str(certificates.ca))[0] == cli.EXIT_OK
    assert puppet.authorizations == [["Bearer as_Secret"], []]


def test_proxies_are_asked_with_files_as_with_the_environment(
    archscore_cli, certificates, network, token_file, monkeypatch
):
    monkeypatch.setattr(cli, "_CONNECT_TIMEOUT", 0.2)
    monkeypatch.setenv("http_proxy", f"http://{network.address}")
    arguments = ("info", "--server", "localhost:1", "--ca", str(certificates.ca), "--token-file", token_file)
    assert archscore_cli(*arguments)[0] == cli.EXIT_UNREACHABLE
    assert network.sent.startswith(b"CONNECT localhost:1 ")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
@pytest.mark.parametrize("command", [("info",), ("score", "--proxies", "tcet", "x")])
def test_a_token_that_is_refused(archscore_cli, puppet, token_file, command, code):
    puppet.script.append(Fault(status(code, "the token is not valid", reason="TOKEN_INVALID")))
    answer = archscore_cli(*command, "--token-file", token_file)
    assert answer == (cli.EXIT_REFUSED, "", "archscore: the token is not valid\n")


@pytest.mark.parametrize(
    ("arguments", "content", "complaint"),
    [
        (("--token-file", "{}/nothing"), None, "token file {}/nothing: No such file or directory"),
        (("--token-file", "{}"), None, "token file {}: Is a directory"),
        (("--token-file", "{}/file"), b"", "token file {}/file: expected printable ASCII characters without spaces"),
        (("--token-file", "{}/file"), b"\nas_Secret", "token file {}/file: expected printable ASCII"),
        (("--token-file", "{}/file"), b"as Secret", "token file {}/file: expected printable ASCII"),
        (("--token-file", "{}/file"), b"as_Secret\xff", "token file {}/file: expected printable ASCII"),
        (("--token-file", "{}/file", "--server", "far.example:1"), b"as_Secret", "only over TLS"),
        (("--ca", "{}/nothing"), None, "CA file {}/nothing: No such file or directory"),
        (("--cert", "{}/nothing"), None, "a client certificate and its key go together"),
    ],
)
def test_files_that_are_not_fit(archscore_cli, puppet, tmp_path, arguments, content, complaint):
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    code, out, err = archscore_cli("info", *(argument.format(tmp_path) for argument in arguments))
    assert (code, out) == (cli.EXIT_REFUSED, "")
    assert complaint.format(tmp_path) in err
    assert "Secret" not in err
    assert len(err.splitlines()) == 1
    assert not puppet.requests


# Mistakes and accidents


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["score", "--proxies", "tcet"], "needs either encodings or --file"),
        (["score", "--proxies", "tcet", "x", "--file", "-"], "needs either encodings or --file"),
        (["score", "--proxies", "tcet", "--file", "/no/such/file"], "cannot read /no/such/file: No such file"),
        (["score", "--proxies", "tcet", "--file", "/"], "cannot read /: Is a directory"),
        (["score", "--proxies", "tcet", "--file", "a\0b"], "cannot read"),
        (["score", "--proxies", "\udcff", "x"], "proxies: not Unicode text"),
        (["score", "--proxies", "tcet", "--space", "\udcff", "x"], "space: not Unicode text"),
        (["info", "--client-id", ""], "client_id: expected 1 to 64 printable ASCII characters"),
        (["info", "--server", "\udcff"], "target: not Unicode text: '\\udcff'"),
        (["score", "--proxies", "tcet", "--config", "{", "x"], "--config is not JSON"),
        (["score", "--proxies", "tcet", "--config", "[" * 100_000, "x"], "--config is not JSON"),
        (["score", "--proxies", "tcet", "--config", "3", "x"], "--config is not a JSON object"),
        (["score", "--proxies", "tcet", "--config", '{"nope": 1}', "x"], '"nope"'),
        (["score", "--proxies", "tcet", "--config", '{"batchSize": "x"}', "x"], "batchSize"),
        (["score", "--proxies", "tcet", "--config", '{"\\udcff": 1}', "x"], "config: "),
        (["describe", "--config", '{"nope": 1}', "x"], '"nope"'),
    ],
)
def test_mistakes(archscore_cli, puppet, arguments, complaint):
    code, out, err = archscore_cli(*arguments)
    assert code == cli.EXIT_REFUSED
    assert err.startswith("archscore: ")
    assert complaint in err
    assert not out
    assert len(err.splitlines()) == 1
    assert not puppet.requests


@pytest.mark.parametrize(
    ("closed", "code", "complaint"),
    [
        (0, cli.EXIT_REFUSED, "archscore: cannot read -: stdin is closed\n"),
        (1, cli.EXIT_REFUSED, "archscore: cannot write: stdout is closed\n"),
        (2, cli.EXIT_FAILED, ""),
    ],
)
def test_closed_streams(start_process, target, tmp_path, closed, code, complaint):
    file = tmp_path / "cells"
    file.write_text("bad\n")
    process = start_process(
        "score", "--server", target, "--proxies", "tcet", "--file", str(file) if closed else "-",
        close=closed,
    )  # fmt: skip
    lines, err = rest(process)
    assert (process.wait(), err) == (code, complaint)
    assert len(lines) == (2 if closed == 2 else 0)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "COMMAND"),
        (["nope"], "'nope'"),
        (["score", "x"], "--proxies"),
        (["info", "--timeout", "0"], "--timeout: must be positive: '0'"),
        (["info", "--timeout", "nan"], "--timeout: must be positive: 'nan'"),
        (["info", "--timeout", "x"], "--timeout: must be a number: 'x'"),
        (["info", "--timeout", "inf"], "--timeout: must be at most 31536000, which is a year: 'inf'"),
        (["info", "--timeout", "1e300"], "--timeout: must be at most 31536000, which is a year: '1e300'"),
        (["score", "--proxies", "tcet", "--chunk-size", "0", "x"], "--chunk-size: must be at least 1: '0'"),
        (["score", "--proxies", "tcet", "--chunk-size", "x", "x"], "--chunk-size: must be an integer: 'x'"),
        (["score", "--proxies", "tcet", "--priority", "urgent", "x"], "'urgent'"),
        (["score", "--prox", "tcet", "x"], "--proxies"),
    ],
)
def test_usage(archscore_cli, capsys, arguments, complaint):
    with pytest.raises(SystemExit) as caught:
        archscore_cli(*arguments)
    assert caught.value.code == cli.EXIT_REFUSED
    err = capsys.readouterr().err
    assert "usage: archscore" in err
    assert complaint in err.splitlines()[-1]


@pytest.mark.parametrize("command", ["info", "score"])
def test_the_longest_timeout(archscore_cli, command):
    arguments = ["--proxies", "tcet", "x"] if command == "score" else []
    code, _, err = archscore_cli(command, *arguments, "--timeout", "31536000")
    assert (code, err) == (cli.EXIT_OK, "")


def test_version(archscore_cli, capsys):
    with pytest.raises(SystemExit) as caught:
        archscore_cli("--version")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"archscore {archscore.__version__}\n"


@pytest.mark.parametrize("command", [["info"], ["score", "--proxies", "tcet", "x"], ["proxies", "--json"]])
def test_unreachable(archscore_cli, monkeypatch, command):
    monkeypatch.setattr(cli, "_CONNECT_TIMEOUT", 0.2)
    code, out, err = archscore_cli(*command, "--server", "localhost:1")
    assert (code, out) == (cli.EXIT_UNREACHABLE, "")
    assert err.startswith("archscore: no answer from localhost:1: ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("output", [["--json"], []])
def test_refused(archscore_cli, puppet, output):
    error = status(grpc.StatusCode.INVALID_ARGUMENT, "no such proxy", violations=[("proxies", "unknown: nope")])
    puppet.script.append(Fault(error))
    code, out, err = archscore_cli("score", *output, "--proxies", "nope", "x")
    assert (code, out) == (cli.EXIT_REFUSED, "")
    assert err == "archscore: no such proxy; proxies: unknown: nope\n"


def test_the_reader_goes_away(start_process, target, tmp_path):
    file = tmp_path / "cells"
    file.write_text("cell\n" * 20_000)
    process = start_process("score", "--server", target, "--proxies", "tcet", "--json", "--file", str(file))
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == cli.EXIT_BROKEN_PIPE


def test_interrupt(start_process, target, puppet):
    puppet.script.append(Fault(None, after=1, hangs=True))
    process = start_process("score", "--server", target, "--proxies", "tcet", "--json", "x", "y")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert rest(process) == ([], "")
    assert process.wait() == cli.EXIT_INTERRUPTED
    assert puppet.abandoned.wait(10)


def test_interrupt_while_the_queue_is_full(start_process, target, puppet):
    puppet.item_script["y"] = [QUEUE_FULL] * 100
    process = start_process(
        "score", "--server", target, "--proxies", "tcet", "--json", "--chunk-size", "1", "--file", "-",
        stdin=subprocess.PIPE,
    )  # fmt: skip
    process.stdin.write("x\ny\n")
    process.stdin.close()
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == cli.EXIT_INTERRUPTED
    assert rest(process) == ([], "")


# The terminal


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_bar_only_on_a_terminal(archscore_cli, monkeypatch, tmp_path, terminal):
    monkeypatch.setattr(_progress, "_FIRST_SHOWN_AFTER", 0)
    monkeypatch.setattr(_progress, "_INTERVAL", 0)
    stderr = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    (tmp_path / "cells").write_text("cell\n\n" * 300)
    code, out, _ = archscore_cli("score", "--proxies", "tcet", "--file", str(tmp_path / "cells"))
    assert (code, len(out.splitlines())) == (0, 301)
    if terminal:
        assert "300/300" in stderr.getvalue()
        assert stderr.getvalue().endswith("\r\x1b[K")
    else:
        assert not stderr.getvalue()


@pytest.mark.parametrize("command", ["score", "describe", "proxies", "spaces", "info"])
def test_a_server_that_stays_away_is_mentioned(archscore_cli, puppet, monkeypatch, command):
    monkeypatch.setattr(_retry, "_FIRST_DELAY", 1e-3)
    gone = status(grpc.StatusCode.UNAVAILABLE, "gone")
    # Of a server that was reached: otherwise it would be given up soon.
    puppet.script.extend([Fault(gone, after=1), Fault(gone), Fault(gone), Fault(gone)])
    code, _, err = archscore_cli(
        command, *{"score": ["--proxies", "tcet", "x", "y"], "describe": ["x"]}.get(command, [])
    )
    assert code == 0
    assert len(err.splitlines()) == 1
    assert err.startswith("archscore: trying again")
    assert "gone" in err


def test_an_outage_is_mentioned_once(archscore_cli, puppet, monkeypatch):
    """However many chunks are in flight."""
    monkeypatch.setattr(_retry, "_FIRST_DELAY", 1e-3)
    puppet.script.extend([Fault(status(grpc.StatusCode.UNAVAILABLE, "gone"))] * 32)
    code, _, err = archscore_cli("score", "--proxies", "tcet", "--chunk-size", "1", "a", "b", "c", "d")
    assert code == 0
    assert len(err.splitlines()) == 1
