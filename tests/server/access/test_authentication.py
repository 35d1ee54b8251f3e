"""Which calls pass, and as whose."""

import pytest
from google.rpc import code_pb2

from archscore_server.access import tokens
from archscore_server.access.authentication import Authentication
from archscore_server.clients import Caller
from archscore_server.errors import RequestError
from support.serving import reason

METHOD = "archscore.v1.ScoringService/ScoreArchitecture"
TOKEN, RECORD = tokens.generate("alice")


class Tokens:
    def owner(self, token):
        return tokens.owner(token, {"alice": RECORD})


class Call:
    def __init__(self, *metadata, **properties):
        self._metadata = metadata
        self._properties = properties

    def invocation_metadata(self):
        return self._metadata

    def peer(self):
        return "ipv4:192.0.2.1:5"

    def auth_context(self):
        return self._properties


def refusal(*metadata, method=METHOD):
    with pytest.raises(RequestError) as caught:
        Authentication(Tokens(), certificates=False).admit(method, metadata)
    assert caught.value.status.code == code_pb2.UNAUTHENTICATED
    return reason(caught.value.status)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize("space", [" ", "   "])
def test_a_token_gives_its_name(scheme, space):
    authentication = Authentication(Tokens(), certificates=False)
    metadata = (("user-agent", "x"), ("authorization", f"{scheme}{space}{TOKEN}"), ("archscore-client-id", "bob"))
    owner = authentication.admit(METHOD, metadata)
    assert owner == "alice"
    assert authentication.caller(owner, Call(*metadata)) == Caller("token:alice", authenticated=True)


@pytest.mark.parametrize("metadata", [(), (("user-agent", "x"),), (("x-authorization", f"Bearer {TOKEN}"),)])
def test_none(metadata):
    assert refusal(*metadata) == "TOKEN_MISSING"


@pytest.mark.parametrize(
    "headers",
    [
        [""],
        ["Bearer"],
        ["Bearer "],
        [TOKEN],
        [f"Basic {TOKEN}"],
        [f"Bearer{TOKEN}"],
        [f"Bearer {TOKEN} {TOKEN}"],
        [f"Bearer Bearer {TOKEN}"],
        [f"Bearer {TOKEN[:-1]}"],
        [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
        [f"Bearer {TOKEN}", "Bearer other"],
        ["", f"Bearer {TOKEN}"],
        [f"Bearer {TOKEN}".encode()],
    ],
)
def test_anything_else_in_its_place_is_wrong(headers):
    assert refusal(*(("authorization", header) for header in headers)) == "TOKEN_INVALID"


@pytest.mark.parametrize(
    "method",
    [
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        "grpc.health.v1.Healthy/Check",
        "grpc.health.v1",
        "x",
        "",
    ],
)
def test_all_else_is_closed(method):
    assert refusal(method=method) == "TOKEN_MISSING"


@pytest.mark.parametrize("method", ["grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch"])
@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)])
def test_health_is_open(method, metadata):
    assert Authentication(Tokens(), certificates=False).admit(method, metadata) is None


def test_where_none_is_needed_none_is_looked_at():
    authentication = Authentication(None, certificates=False)
    metadata = (("authorization", f"Bearer {TOKEN}"), ("archscore-client-id", "bob"))
    owner = authentication.admit(METHOD, metadata)
    assert authentication.caller(owner, Call(*metadata)) == Caller("id:bob", authenticated=False)
    assert authentication.caller(owner, Call()) == Caller("host:192.0.2.1", authenticated=False)


def test_the_token_names_where_there_is_a_certificate_too():
    authentication = Authentication(Tokens(), certificates=True)
    call = Call(x509_common_name=[b"search"])
    assert authentication.caller("alice", call) == Caller("token:alice", authenticated=True)
    assert authentication.caller(None, call) == Caller("certificate:search", authenticated=True)


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"x509_common_name": [b"search"], "x509_subject_alternative_name": [b"other"]}, "search"),
        ({"x509_common_name": [b""], "x509_subject_alternative_name": [b"first", b"second"]}, "first"),
        ({"x509_common_name": [b"x" * 100]}, "x" * 64),
        ({"x509_common_name": [b"a\nb\x00c\xff"]}, "a?b?c\ufffd"),
        ({"x509_pem_cert": [b"pem"]}, "f0aeace912cf19dc1c6fffd41de6e395daeb5462f1221945706bd0674c3005eb"),
    ],
)
def test_the_name_in_a_certificate(properties, name):
    caller = Authentication(None, certificates=True).caller(None, Call(("archscore-client-id", "bob"), **properties))
    assert caller == Caller(f"certificate:{name}", authenticated=True)
