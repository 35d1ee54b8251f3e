"""docs/clients.md: its programs and commands run, and what it says of errors is so."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

import archscore.testing
import puppet_server
from archscore import __version__, _many, _status, errors
from archscore.client import Client
from archscore_server import _priority
from archscore_server.access import token_file
from support import grpcurl
from support.certificates import Authority

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "clients.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [block for kind, block in BLOCKS if kind == "python"]
SHELL = [block for kind, block in BLOCKS if kind == "sh"]
GRPCURL = [
    shlex.split(command.replace("\\\n", ""))[1:]
    for block in SHELL
    for command in re.findall(r"^grpcurl .*?(?=^grpcurl |\Z)", block, re.MULTILINE | re.DOTALL)
]
ROWS = [
    [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
    for line in TEXT.splitlines()
    if re.match(r"\| [A-Z_]{4,} \|", line)
]
SOURCES = list((ROOT / "server" / "archscore_server").rglob("*.py"))
REAL_GRPCURL = shutil.which("grpcurl")
GENERATED = ROOT / ".venv-proto" / "bin" / "python"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with archscore.testing.server(threads=1) as server:
        yield server.address


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A directory with ca.pem and token, and the address of a server with the certificate of that CA."""
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(directory)
    files = authority.server_files(directory)
    (directory / "token").write_text("archscore.search.secret\n")
    key, certificate = files["tls_key"].read_bytes(), files["tls_certificate"].read_bytes()
    server, port = puppet_server.start(
        puppet_server.Puppet(), credentials=grpc.ssl_server_credentials([(key, certificate)])
    )
    yield directory, f"localhost:{port}"
    server.stop(0).wait()


def is_secure(block: str) -> bool:
    return "ca.pem" in block


def run(block: str, address: str) -> None:
    assert "localhost:50051" in block
    exec(compile(block.replace("localhost:50051", address), "docs/clients.md", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", [block for block in PYTHON if not is_secure(block)])
def test_a_program_runs(block: str, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(block, address)
    assert capsys.readouterr().out


@pytest.mark.parametrize("block", [block for block in PYTHON if is_secure(block)])
def test_a_program_runs_over_tls(
    block: str, tls: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tls[0])
    run(block, tls[1])
    assert capsys.readouterr().out == "1.2.3\n"


@pytest.mark.parametrize("command", [c for c in GRPCURL if "-plaintext" in c], ids=" ".join)
def test_a_grpcurl_command_is_answered(command: list[str], address: str) -> None:
    answer = grpcurl.run(command, address)
    assert answer
    if command[-1] == "list":
        assert {"archscore.v1.ScoringService", "grpc.health.v1.Health"} <= set(answer)
    if command[-1].endswith("/ScoreArchitectures"):
        results = [result for message in answer for result in message.results]
        assert {result.index: result.WhichOneof("result") for result in results} == {0: "evaluation", 1: "error"}


@pytest.mark.skipif(REAL_GRPCURL is None, reason="no grpcurl on this machine; the test above does what it would")
@pytest.mark.parametrize("command", [c for c in GRPCURL if "-plaintext" in c], ids=" ".join)
def test_a_command_runs_in_grpcurl_itself(command: list[str], address: str) -> None:
    arguments = [word.replace("localhost:50051", address) for word in command]
    ran = subprocess.run([str(REAL_GRPCURL), *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()


@pytest.mark.skipif(REAL_GRPCURL is None, reason="no grpcurl on this machine")
def test_the_command_for_tls_runs_in_grpcurl_itself(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.server_files(tmp_path)
    token = token_file.add(tmp_path / "tokens", "search")
    options = ["--tls-certificate", str(files["tls_certificate"]), "--tls-key", str(files["tls_key"])]
    [command] = [c for c in GRPCURL if "-cacert" in c]
    options += ["--tokens", str(tmp_path / "tokens")]
    with archscore.testing.server(options=options) as server:
        words = {"localhost:50051": server.address, "ca.pem": str(authority.certificate)}
        arguments = [words.get(word, word).replace("$ARCHSCORE_TOKEN", token) for word in command]
        ran = subprocess.run([str(REAL_GRPCURL), *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert f'"{__version__}"' in ran.stdout


def test_all_commands_are_tried() -> None:
    assert TEXT.count("\ngrpcurl ") == len(GRPCURL)
    [secure] = [command for command in GRPCURL if "-plaintext" not in command]
    assert secure[:4] == ["-cacert", "ca.pem", "-H", "authorization: Bearer $ARCHSCORE_TOKEN"]


def test_a_plugin_of_buf_gets_the_package(tmp_path: Path) -> None:
    [template] = [block for kind, block in BLOCKS if kind == "yaml"]
    [command] = [shlex.split(block) for block in SHELL if block.startswith("buf ")]
    packages = run_plugins(tmp_path, [str(Path(sys.executable).with_name("buf")), *command[1:]], template)
    assert packages == {
        "protoc-gen-go": "example.com/you/archscorev1",
        "protoc-gen-go-grpc": "example.com/you/archscorev1",
    }


def run_plugins(directory: Path, command: list[str], template: str) -> dict[str, str]:
    """Runs a command where the plugins for Go are programs that say which package they are asked for."""
    for name in ("protoc-gen-go", "protoc-gen-go-grpc"):
        plugin = directory / name
        plugin.write_text(PLUGIN.format(python=sys.executable, path=[p for p in sys.path if p], name=name))
        plugin.chmod(0o755)
    for part in ("proto", "buf.yaml"):
        source = ROOT / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, directory / part)
    (directory / "buf.gen.yaml").write_text(template)
    environment = {**os.environ, "PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(command, cwd=directory, env=environment, check=True)
    return {path.name: path.read_text() for path in (directory / "generated").rglob("protoc-gen-*")}


PLUGIN = """\
#!{python}
import sys
sys.path[:0] = {path!r}
from google.protobuf.compiler import plugin_pb2
request = plugin_pb2.CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
[package] = [f.options.go_package for f in request.proto_file if f.name == "archscore/v1/scoring.proto"]
response = plugin_pb2.CodeGeneratorResponse(supported_features=1)  # optional fields
response.file.add(name={name!r}, content=package)
sys.stdout.buffer.write(response.SerializeToString())
"""


@pytest.mark.skipif(not GENERATED.exists(), reason="no grpcio-tools: run 'make proto'")
def test_the_commands_of_protoc_run(tmp_path: Path) -> None:
    [block] = [block for block in SHELL if "protoc " in block]
    for name, target in (("protoc", "-m grpc_tools.protoc"), ("python", "")):
        (tmp_path / name).write_text(f'#!/bin/sh\nexec {GENERATED} {target} "$@"\n')
    plugins = ("protoc-gen-go", "protoc-gen-go-grpc", "protoc-gen-cpp", "grpc_cpp_plugin")
    for name in plugins:  # protoc itself makes C++; that of grpcio-tools does not
        (tmp_path / name).write_text(PLUGIN.format(python=GENERATED, path=[], name=name))
    for path in tmp_path.iterdir():
        path.chmod(0o755)
    shutil.copytree(ROOT / "proto", tmp_path / "proto")
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-euc", block], cwd=tmp_path, env=environment, check=True)
    made = {path.name for path in (tmp_path / "generated").rglob("*") if path.is_file()}
    assert made == {*plugins, "scoring_pb2.py", "scoring_pb2_grpc.py"}


def test_every_reason_of_the_server_is_there() -> None:
    source = "".join(path.read_text() for path in SOURCES)
    reasons = set(re.findall(r'(?:_reason|_unavailable|_unauthenticated)\(\s*"([A-Z_]+)"', source))
    reasons |= set(re.findall(r'ErrorInfo\(reason="([A-Z_]+)"', source))
    assert len(reasons) >= 11
    assert reasons == {reason for _, reason, *_ in ROWS if reason}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}".strip())
def test_the_client_makes_of_an_error_what_is_said(row: list[str]) -> None:
    code, reason, meaning, client, advice = row
    assert advice
    status = status_pb2.Status(code=getattr(code_pb2, code), message="words")
    if reason:
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain="archscore"))
    if "encoding" in meaning:
        fault = error_details_pb2.BadRequest.FieldViolation(field="architecture.encoding")
        status.details.add().Pack(error_details_pb2.BadRequest(field_violations=[fault]))
    error = _status.from_status(status)
    named = re.findall(r"\w+Error", client)
    if named:
        assert [type(error).__name__] == named
    else:
        assert isinstance(error, errors.UnavailableError)


def test_numbers_are_those_of_the_code() -> None:
    assert f"({_many.DEFAULT_CHUNK_SIZE} x {_many.DEFAULT_MAX_IN_FLIGHT})" in TEXT
    defaults = Client.__init__.__kwdefaults__
    assert f"`timeout` ({defaults['timeout']:.0f} s)" in TEXT
    assert "an eighth of the turns" in TEXT
    assert _priority._MAX_PASSED + 1 == 8
    assert f"`connect_timeout` ({defaults['connect_timeout']:.0f} s)" in TEXT
