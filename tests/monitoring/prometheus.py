"""A Prometheus to ask, and one to start."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

BINARY: Final = shutil.which("prometheus")
WHY_NOT: Final = "no prometheus on this machine"

_TIMEOUT: Final = 30.0


class Series(NamedTuple):
    """A time series.

    Attributes:
        labels: its name included.
        points: Unix seconds and values; values may be NaN.
    """

    labels: Mapping[str, str]
    points: list[tuple[float, float]]


class Prometheus:
    """A running Prometheus.

    Attributes:
        url: where its API is.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def range(self, query: str, start: float, end: float, step: float) -> list[Series]:
        """What a panel shows between two times."""
        found = self._get("query_range", query=query, start=start, end=end, step=step)
        return [_series(result["metric"], result["values"]) for result in found["result"]]

    def instant(self, query: str) -> list[Series]:
        """What it says now."""
        found = self._get("query", query=query)
        if found["resultType"] == "scalar":
            return [_series({}, [found["result"]])]
        return [_series(result["metric"], [result["value"]]) for result in found["result"]]

    def exemplars(self, query: str, start: float, end: float) -> list[dict[str, Any]]:
        """The exemplars of the series in a query."""
        found: list[dict[str, Any]] = self._get("query_exemplars", query=query, start=start, end=end)
        return found

    def _get(self, path: str, **parameters: Any) -> Any:
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{parameters.get('query')}: {json.load(error)['error']}") from None


def request_ids(prometheus: Prometheus, start: float, end: float) -> set[str]:
    """Those that it has as exemplars of RPCs between two times."""
    found = prometheus.exemplars("archscore_rpc_seconds_bucket", start, end)
    ids = {exemplar["labels"]["request_id"] for series in found for exemplar in series["exemplars"]}
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in ids), ids
    return ids


@contextlib.contextmanager
def scraping(address: str, directory: Path, *, interval: str = "1s", rules: Path | None = None) -> Iterator[Prometheus]:
    """Starts a Prometheus that scrapes one server, and waits until it has.

    Args:
        address: HOST:PORT of the server's metrics page.
        directory: where it keeps its data.
        interval: of scrapes and rules.
        rules: its alerts.
    """
    assert BINARY, WHY_NOT
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        here = f"127.0.0.1:{probe.getsockname()[1]}"
    config = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [{"job_name": "archscore", "static_configs": [{"targets": [address]}]}],
    }
    file = directory / "prometheus.yml"
    file.write_text(json.dumps(config))  # JSON is YAML
    command = [
        *(BINARY, f"--config.file={file}", f"--storage.tsdb.path={directory / 'tsdb'}"),
        *(f"--web.listen-address={here}", "--enable-feature=exemplar-storage", "--log.level=warn"),
    ]
    with (directory / "prometheus.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            prometheus = Prometheus(f"http://{here}")
            _wait(prometheus, process, directory / "prometheus.log")
            yield prometheus
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            finally:
                process.kill()


def _wait(prometheus: Prometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until the server has been scraped."""
    for _ in range(300):
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError, ValueError):
            if any(value == 1 for series in prometheus.instant("up") for _, value in series.points):
                return
        time.sleep(0.1)
    raise AssertionError(f"nothing was scraped: {log.read_text()}")


def _series(labels: Mapping[str, str], points: list[tuple[float, str]]) -> Series:
    return Series(labels, [(seconds, float(value)) for seconds, value in points])
