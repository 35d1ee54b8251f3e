"""A real server for tests of programs that ask one.

    import archscore.testing

    with archscore.testing.server() as server, server.client() as client:
        print(client.score("index:6111", ["tcet"])["tcet"])

The server is a process of its own, with all that a server has; what it needs is in the extra `server`
(`pip install 'archscore[server]'`). docs/testing.md has fixtures for pytest.
"""

from archscore.testing._server import Server, ServerError, server

__all__ = ["Server", "ServerError", "server"]
