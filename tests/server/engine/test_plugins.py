"""Proxies of installed packages, as far as the registry goes; tests/test_extending.py installs one."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from archscore_server.engine.proxies import _registry, get, names
from archscore_server.engine.proxies._registry import Registry

PROXY = '''
from archscore_server.engine.proxies import proxy


@proxy(formula="n", paper="p", uses_labels=False)
def {name}(size):
    """Counts."""
    return size.layers
'''


class Packages:
    """A directory on the path with installed packages."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def add(self, name: str, source: str) -> None:
        """A package of one module."""
        (self._directory / f"{name}.py").write_text(source)
        metadata = self._directory / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[archscore.proxies]\nown = {name}\n")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Packages]:
    """No package yet, and a registry with what archscore has, not read yet."""
    fresh = Registry()
    for name in names():
        fresh.add(get(name))
    monkeypatch.setattr(_registry, "_REGISTRY", fresh)
    monkeypatch.syspath_prepend(tmp_path)
    yield Packages(tmp_path)
    for module in [name for name in sys.modules if name.startswith("plugin_")]:
        del sys.modules[module]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_package_adds_a_proxy(packages: Packages, caplog: pytest.LogCaptureFixture) -> None:
    builtin = set(_registry._REGISTRY._proxies)
    packages.add("plugin_a", PROXY.format(name="counted"))
    assert set(names()) == builtin | {"counted"}
    assert get("counted").static
    assert not warnings(caplog)


def test_packages_are_loaded_once(packages: Packages) -> None:
    names()
    packages.add("plugin_late", PROXY.format(name="late"))
    with pytest.raises(KeyError, match="unknown proxy 'late'"):
        get("late")


def test_a_module_may_read_the_registry(packages: Packages) -> None:
    packages.add("plugin_reader", "from archscore_server.engine.proxies import names\nassert 'snip' in names()\n")
    assert "snip" in names()


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        pytest.param("raise RuntimeError('out of order')", "RuntimeError: out of order", id="import"),
        pytest.param("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'", id="dependency"),
        pytest.param(PROXY.format(name="fine") + "1 / 0", "ZeroDivisionError: division by zero", id="half-way"),
        pytest.param(
            PROXY.format(name="snip"),
            "ValueError: there is a proxy 'snip' already, in archscore_server.engine.proxies.saliency",
            id="clash",
        ),
    ],
)
def test_a_broken_package_is_named_and_left_out(
    packages: Packages, caplog: pytest.LogCaptureFixture, source: str, reason: str
) -> None:
    builtin = set(_registry._REGISTRY._proxies)
    packages.add("plugin_broken", source)
    packages.add("plugin_whole", PROXY.format(name="counted"))
    assert set(names()) == builtin | {"counted"}
    assert get("snip").compute.__module__ == "archscore_server.engine.proxies.saliency"
    assert warnings(caplog) == [f"no proxies from plugin_broken 1.0 (own = plugin_broken): {reason}"]


def test_of_two_packages_with_one_name_the_first_by_name_wins(
    packages: Packages, caplog: pytest.LogCaptureFixture
) -> None:
    packages.add("plugin_second", PROXY.format(name="shared"))
    packages.add("plugin_first", PROXY.format(name="shared"))
    assert get("shared").compute.__module__ == "plugin_first"
    [warning] = warnings(caplog)
    assert "there is a proxy 'shared' already, in plugin_first" in warning
