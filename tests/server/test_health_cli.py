"""`archscore-server health` beside real servers, which it finds by the variables that they were started with."""

from __future__ import annotations

import asyncio
import socket

import pytest
from click.testing import CliRunner

from archscore_server import cli
from support.certificates import LOCAL, Authority, write
from support.serving import serving


async def ask(*arguments, code=0, **environment):
    """Runs the command; what it says."""
    invoke = CliRunner().invoke
    result = await asyncio.to_thread(
        invoke,
        cli.main,
        ["health", *arguments],
        env={f"ARCHSCORE_{name}": value for name, value in environment.items()},
    )
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


async def test_a_server_that_serves():
    async with serving() as running:
        assert await ask("--port", str(running.server.port)) == "SERVING\n"
        assert await ask(PORT=str(running.server.port)) == "SERVING\n"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "localhost"])
async def test_wherever_it_listens(host):
    async with serving(host=host, insecure=True) as running:
        assert await ask(HOST=host, PORT=str(running.server.port)) == "SERVING\n"


async def test_a_server_that_is_not_ready():
    async with serving(warm=False) as running:
        assert await ask(PORT=str(running.server.port), code=1) == "Error: NOT_SERVING\n"


async def test_a_server_that_leaves():
    async with serving() as running:
        await running.server.leave()
        assert await ask(PORT=str(running.server.port), code=1) == "Error: NOT_SERVING\n"


async def test_no_server():
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    assert f"127.0.0.1:{port}: UNAVAILABLE" in await ask(PORT=str(port), code=1)


@pytest.mark.parametrize("tls", [False, True])
async def test_a_server_that_says_nothing(tls, tmp_path):
    Authority(tmp_path).server_files(tmp_path)
    more = {"TLS_CERTIFICATE": str(tmp_path / "server.pem")} if tls else {}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said = await ask(PORT=str(silent.getsockname()[1]), HEALTH_TIMEOUT="0.2", code=1, **more)
    assert said.startswith("Error: 127.0.0.1:")


async def test_the_proxies_of_the_environment_are_not_asked():
    async with serving() as running:
        environment = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
        result = await asyncio.to_thread(
            CliRunner().invoke, cli.main, ["health", "--port", str(running.server.port)], env=environment
        )
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("names", [LOCAL, ("scores.example.com",), ("*.example.com",), ("192.0.2.1",)])
async def test_tls_and_tokens(names, tmp_path):
    """Whatever its certificate is for: the server is asked on this machine."""
    authority = Authority(tmp_path)
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"
    write(authority.issue(*names), certificate, key)
    tokens = tmp_path / "tokens"
    assert CliRunner().invoke(cli.main, ["token", "add", "a", "--tokens", str(tokens)]).exit_code == 0
    async with serving(tls_certificate=certificate, tls_key=key, tokens=tokens) as running:
        said = await ask(PORT=str(running.server.port), TLS_CERTIFICATE=str(certificate), TOKENS=str(tokens))
    assert said == "SERVING\n"


async def test_another_certificate_is_not_trusted(tmp_path):
    authority = Authority(tmp_path)
    files = authority.server_files(tmp_path)
    other = tmp_path / "other.pem"
    write(authority.issue(*LOCAL), other, tmp_path / "other.key")
    async with serving(**files) as running:
        said = await ask(PORT=str(running.server.port), TLS_CERTIFICATE=str(other), code=1)
    assert "CERTIFICATE_VERIFY_FAILED" in said


@pytest.mark.parametrize("content", [None, "nothing"])
async def test_a_certificate_that_cannot_be_read(content, tmp_path):
    path = tmp_path / "server.pem"
    if content:
        path.write_text(content)
    async with serving() as running:
        assert "Error: " in await ask(PORT=str(running.server.port), TLS_CERTIFICATE=str(path), code=1)


async def test_clients_with_certificates_are_not_needed_on_the_health_port(tmp_path):
    authority = Authority(tmp_path)
    settings = {**authority.server_files(tmp_path), "tls_client_ca": authority.certificate}
    variables = {name.upper(): str(path) for name, path in settings.items()}
    async with serving(**settings, health_port=0) as running:
        said = await ask(PORT=str(running.server.port), HEALTH_PORT=str(running.server.health_port), **variables)
        assert said == "SERVING\n"
        assert "--health-port" in await ask(PORT=str(running.server.port), code=2, **variables)
