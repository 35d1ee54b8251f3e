"""Arguments become messages."""

from __future__ import annotations

from types import MappingProxyType

import pytest

import archscore
from archscore import _requests, spaces
from archscore.v1 import scoring_pb2


def test_config():
    message = scoring_pb2.EvaluationConfig(seed=3, init="INIT_NORMAL")
    assert _requests.config_message(None) is None
    assert _requests.config_message(message) is message
    for mapping in (
        {"seed": 3, "init": "INIT_NORMAL"},
        {"seed": "3", "init": 3},
        MappingProxyType({"seed": 3, "init": 3}),
    ):
        assert _requests.config_message(mapping) == message
    assert _requests.config_message({"batch_size": 0}).HasField("batch_size")


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"nope": 1}, "nope"),
        ({"nasbench201": {"nope": 1}}, "nope"),
        ({"nasbench201": 5}, "nasbench201"),
        ({"batchSize": -1}, "batchSize"),
        ({"batchSize": 1.5}, "batchSize"),
        ({"batchSize": 2**32}, "batchSize"),
        ({"init": "INIT_NOPE"}, "init"),
        ({"dataset": object()}, "config"),
        ({"\udcff": 1}, "config"),
        ([], "config"),
        ("{}", "config"),
    ],
)
def test_config_that_is_none(config, field):
    with pytest.raises(archscore.UsageError, match=field) as caught:
        _requests.config_message(config)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_architectures():
    cell = spaces.nasbench201.from_index(0)
    expected = scoring_pb2.Architecture(space="nasbench201", encoding=cell.format())
    assert _requests.architecture_message(cell, None) == expected
    assert _requests.architecture_message(cell, "nasbench201") == expected
    assert _requests.architecture_message(cell.format(), None) == expected
    assert _requests.architecture_message("x", "zennas").space == "zennas"
    assert _requests.architecture_message("x", "").space == ""


@pytest.mark.parametrize("architecture", [None, 7, b"x", object()])
def test_things_that_are_no_architecture(architecture):
    with pytest.raises(archscore.UsageError, match="an architecture is a string"):
        _requests.architecture_message(architecture, None)


def test_an_architecture_of_another_space():
    with pytest.raises(archscore.UsageError, match="zennas"):
        _requests.architecture_message(spaces.nasbench201.from_index(0), "zennas")


def test_an_encoding_that_cannot_be_sent():
    with pytest.raises(archscore.ArchitectureError, match="position 2"):
        _requests.architecture_message("ab\ud800", None)
    with pytest.raises(archscore.ArchitectureError) as caught:
        _requests.architecture_fields("ab\ud800", None, 7)
    assert str(caught.value) == "architectures[7].encoding: at position 2: expected Unicode text"
    assert caught.value.field_violations[0].field == "architectures[7].encoding"


def test_proxies():
    assert _requests.proxy_names("tcet") == ["tcet"]
    assert _requests.proxy_names(name for name in ("tcet", "ssnr")) == ["tcet", "ssnr"]
