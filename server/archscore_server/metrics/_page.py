"""The page that Prometheus reads. Whatever happens to it, scoring goes on.

It has threads of its own, few of them; a connection ends after a while whatever it does, and the oldest when there are
too many. To make a page takes the interpreter from the event loop, so pages are made one at a time, with pauses.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

#: How often the page's thread looks whether it is to end; prometheus_client's own server takes half a second to.
_POLL_SECONDS = 0.05
#: Connections at a time. One more ends the oldest: a scrape takes moments, and those that stay do not read or write.
_MAX_CONNECTIONS = 16
#: Threads at a time. Those of connections that have ended may stay for a while, or for ever if what they ask hangs.
_MAX_THREADS = 32
#: Seconds that a connection may take.
_MAX_SECONDS = 10.0
#: How much longer than it took to make a page nothing is done for the next one.
_PAUSE_FACTOR = 3.0
#: Seconds of such a pause, at most.
_MAX_PAUSE = 5.0

_logger = logging.getLogger(__name__)


class MetricsPage:
    """The page, served by threads."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        """Opens the page.

        Raises:
            OSError: the address cannot be listened on.
        """
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]

        class Server(_Server):
            address_family = family

        app = _Unhurried(make_wsgi_app(registry))
        self._server = make_server(host, port, app, server_class=Server, handler_class=_QuietHandler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": _POLL_SECONDS}, name="metrics", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    def close(self) -> None:
        """Closes the page and its connections; blocks until its thread has noticed."""
        self._server.shutdown()
        self._server.server_close()
        self._server.end_connections()
        self._thread.join()


class _Unhurried:
    """Makes pages one at a time, and rests in between."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._making = threading.Lock()
        self._rested = 0.0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._making:
            started = time.monotonic()
            if started < self._rested:
                time.sleep(self._rested - started)
                started = time.monotonic()
            try:
                return self._app(environ, start_response)
            except Exception:
                _logger.exception("the page of metrics cannot be made")
                start_response("500 Internal Server Error", [("Content-Type", "text/plain")])
                return [b"the page cannot be made: see the server's log\n"]
            finally:
                ended = time.monotonic()
                self._rested = ended + min(_PAUSE_FACTOR * (ended - started), _MAX_PAUSE)


class _Server(ThreadingWSGIServer):
    """A thread for each connection, within bounds."""

    request_queue_size = 64

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._connections: dict[socket.socket, float] = {}  # when each ends, the oldest first
        self._threads_left = threading.BoundedSemaphore(_MAX_THREADS)
        self._lock = threading.Lock()
        super().__init__(*args, **kwargs)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:  # no descriptor is left: it would be tried again at once, and for ever
            time.sleep(_POLL_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._connections) >= _MAX_CONNECTIONS:
                self._end(next(iter(self._connections)))
            admitted = self._threads_left.acquire(blocking=False)
            if admitted:
                self._connections[request] = time.monotonic() + _MAX_SECONDS
        if not admitted:
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread can be started
            self._threads_left.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._threads_left.release()

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        now = time.monotonic()
        with self._lock:
            for request in [request for request, end in self._connections.items() if end <= now]:
                self._end(request)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 -- the base class's
        _logger.debug("a connection to the page of metrics failed", exc_info=True)

    def end_connections(self) -> None:
        """Ends what is open."""
        with self._lock:
            for request in list(self._connections):
                self._end(request)

    def _end(self, request: socket.socket) -> None:
        """Has a thread read no more and write no more; it closes the connection then."""
        self._connections.pop(request, None)
        try:
            request.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has ended
            return


class _QuietHandler(WSGIRequestHandler):
    """Does not log every scrape."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class's name
        """Does nothing."""
