"""The command line: settings, errors at start, and a real server with real workers that is started and stopped."""

import contextlib
import dataclasses
import functools
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from archscore_server import cli
from archscore_server.config import Limits, Settings
from support.certificates import Authority
from support.process import descendants
from support.serving import many, one

COMMAND = [sys.executable, "-m", "archscore_server"]
ANNOUNCEMENT = re.compile(
    r"archscore-server listening on ((?:127\.0\.0\.1|localhost):\d+) metrics on (127\.0\.0\.1:\d+)"
    r"(?: health on (localhost:\d+))?\n"
)


@pytest.fixture
def settings_of(monkeypatch):
    """Runs the command line and returns the settings that it would serve with."""

    def run(*arguments, **environment):
        seen = []

        async def serve(settings, announce):
            seen.append(settings)

        monkeypatch.setattr(cli, "serve", serve)
        monkeypatch.setattr(cli.logs, "configure", lambda level, style: None)
        result = CliRunner().invoke(cli.main, arguments, env=environment, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        [settings] = seen
        return settings

    return run


def test_defaults(settings_of):
    assert settings_of() == Settings()


def test_options_and_environment(settings_of, tmp_path):
    settings = settings_of(
        "--port", "0", "--workers", "3", ARCHSCORE_METRICS_PORT="1", ARCHSCORE_DATA_DIR=str(tmp_path)
    )
    assert settings == Settings(port=0, workers=3, metrics_port=1, data_dir=tmp_path)


def test_every_option_has_its_variable(settings_of):
    """Options beat variables; each field of Settings and Limits can be set both ways."""
    fields = len(dataclasses.fields(Settings)) - 1 + len(dataclasses.fields(Limits))
    assert len({option.name for option in cli.main.params} - {"version", "log_level", "log_format"}) == fields
    settings = settings_of(
        "--limit-repeats", "7", ARCHSCORE_LIMIT_REPEATS="8", ARCHSCORE_LIMIT_CHANNELS="9", ARCHSCORE_MAX_BATCH="5"
    )
    assert settings == Settings(limits=Limits(max_repeats=7, max_channels=9), max_batch=5)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "70000"],
        ["--workers", "0"],
        ["--device", "tpu"],
        ["--data-dir", "/no/such"],
        ["--health-port", "70000"],
        ["--write-timeout", "0"],
        ["--tokens", "/"],
        ["--nothing"],
        ["nothing"],
    ],
)
def test_wrong_options(arguments):
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert "Error" in result.output


def test_without_the_extra_it_says_what_to_install():
    code = (
        "import sys\n"
        "for name in ('click', 'torch'):\n"
        "    sys.modules[name] = None\n"
        "from archscore_server.__main__ import main\n"
        "main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        "archscore-server needs what its extra brings (missing: click, torch): pip install 'archscore[server]'\n"
    )


def refused(*arguments):
    """What a server says that cannot start."""
    result = subprocess.run(
        [*COMMAND, "--port", "0", "--metrics-port", "0", *arguments],
        stdin=subprocess.DEVNULL,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.parametrize("option", ["--port", "--metrics-port", "--health-port"])
def test_a_port_in_use_is_a_readable_error(option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}" in refused(option, port)


def test_elsewhere_than_on_loopback_it_says_what_is_missing():
    said = refused("--host", "0.0.0.0")
    assert "0.0.0.0 is not loopback" in said
    for option in ("--tls-certificate", "--tokens", "--insecure"):
        assert option in said


def test_what_cannot_be_used_is_named(tmp_path):
    missing, nonsense = tmp_path / "missing", tmp_path / "nonsense"
    nonsense.write_text("nonsense\n")
    assert f"{missing} cannot be read" in refused("--tokens", missing)
    assert f"{nonsense} is no token file: line 1" in refused("--tokens", nonsense)
    assert f"{nonsense} has no certificate" in refused("--tls-certificate", nonsense, "--tls-key", nonsense)
    assert "both --tls-certificate and --tls-key" in refused("--tls-key", nonsense)


@contextlib.contextmanager
def started(*options):
    """Starts a real server on free ports, with a small worker, and kills it in the end."""
    arguments = ["--port", "0", "--metrics-port", "0", "--device", "cpu", "--workers", "1", "--threads", "1", *options]
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            yield server
        finally:
            server.kill()
            server.communicate()


@pytest.fixture
def process():
    """A real server without further options."""
    with started() as server:
        yield server


def announced(server):
    """Where a server says that it listens: gRPC, metrics and health, which is None if it does not say."""
    line = server.stdout.readline()
    match = ANNOUNCEMENT.fullmatch(line)
    assert match, (line, server.stderr.read() if not line else "")
    return match.groups()


def ended(server, timeout):
    """What else the server said, once it has ended well."""
    server.wait(timeout=timeout)
    # `communicate` would lose what `readline` has read ahead.
    stdout, stderr = server.stdout.read(), server.stderr.read()
    assert server.returncode == 0, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert "ERROR" not in stderr
    return stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_a_signal_and_finishes_its_work(process, number):
    address, metrics, _ = announced(process)
    config = scoring_pb2.EvaluationConfig(
        batch_size=16, nasbench201=scoring_pb2.NasBench201Config(channels=4, cells_per_stage=1)
    )
    with grpc.insecure_channel(address) as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        response = stub.ScoreArchitecture(one("index:6111", ["tcet", "snip"], config=config), timeout=60)
        assert all(score.HasField("value") for score in response.evaluation.scores)
        encodings = [nasbench201.from_index(index).format() for index in range(100)]
        call = stub.ScoreArchitectures(many(encodings, config=config), timeout=60)
        first = next(call)
        process.send_signal(number)
        results = [*first.results, *(result for response in call for result in response.results)]
    assert sorted(result.index for result in results) == list(range(100))
    assert all(result.HasField("evaluation") for result in results)
    ended(process, timeout=30)
    with pytest.raises(OSError, match=r"refused|reset"):
        urllib.request.urlopen(f"http://{metrics}/metrics", timeout=5)


@pytest.mark.slow
@pytest.mark.parametrize("redirection", ["<&- >&- 2>&-", ">&- 2>&-", ">/dev/full", "2>/dev/full", "| :"])
def test_it_serves_wherever_its_output_goes(redirection, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = f"--port {port} --metrics-port 0 --device cpu --workers 1 --threads 1 --lame-duck 0"
    pid = tmp_path / "pid"
    script = f"{{ echo $BASHPID > {pid}; exec {shlex.join(COMMAND)} {options}; }} {redirection}"
    with subprocess.Popen(
        ["bash", "-o", "pipefail", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as shell:
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                health = health_pb2_grpc.HealthStub(channel)
                for answer in health.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60):
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        break
                stub = scoring_pb2_grpc.ScoringServiceStub(channel)
                assert stub.ScoreArchitecture(one("index:6111", ["l2_norm"]), timeout=60).evaluation.scores
        finally:
            os.kill(int(pid.read_text()), signal.SIGTERM)
            stdout, stderr = shell.communicate(timeout=30)
        assert shell.returncode == 0, stderr
        assert "Traceback" not in stderr
        unheard = redirection in (">/dev/full", "| :")
        assert ("stdout cannot be written to" in stderr) == unheard
        assert ANNOUNCEMENT.fullmatch(stdout) if redirection == "2>/dev/full" else stdout == ""


@pytest.mark.slow
def test_a_second_signal_does_not_wait(process):
    address, *_ = announced(process)
    with grpc.insecure_channel(address) as channel:
        stub = scoring_pb2_grpc.ScoringServiceStub(channel)
        call = stub.ScoreArchitectures(many([f"index:{index}" for index in range(1_000)]), timeout=60)
        next(call)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        codes = {result.error.code for response in call for result in response.results}
    assert grpc.StatusCode.UNAVAILABLE.value[0] in codes
    ended(process, timeout=10)
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_a_signal_before_it_is_ready(process):
    # A worker has been started, and takes far longer to load torch than this takes to see it.
    deadline = time.monotonic() + 20
    while not descendants(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    ended(process, timeout=20)


@pytest.mark.slow
def test_tokens_tls_and_health(tmp_path):
    tokens = tmp_path / "tokens"
    added = subprocess.run(
        [*COMMAND, "token", "add", "alice", "--tokens", tokens], check=True, capture_output=True, text=True, timeout=60
    )
    token = added.stdout.strip()
    authority = Authority(tmp_path)
    files = authority.server_files(tmp_path)
    options = ["--tokens", tokens, "--tls-certificate", files["tls_certificate"], "--tls-key", files["tls_key"]]
    with started("--host", "localhost", "--health-port", "0", *options) as server:
        address, _, health = announced(server)
        with grpc.secure_channel(address, authority.channel_credentials()) as channel:
            stub = scoring_pb2_grpc.ScoringServiceStub(channel)
            call = functools.partial(stub.GetServerInfo, scoring_pb2.GetServerInfoRequest(), timeout=60)
            assert call(metadata=[("authorization", f"Bearer {token}")]).devices
            with pytest.raises(grpc.RpcError) as caught:
                call()
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with grpc.insecure_channel(health) as channel:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        for _ in range(20):
            with socket.create_connection(address.split(":"), timeout=60) as plain:
                plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                plain.recv(1)
        server.send_signal(signal.SIGTERM)
        said = ended(server, timeout=30)
    assert "refused a call" in said
    assert token not in said
    assert "andshake" not in said
