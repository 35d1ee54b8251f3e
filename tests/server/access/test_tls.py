"""Certificates from files: what is wrong with them is said before anybody connects."""

import logging
import os

import pytest

from archscore_server.access import tls
from archscore_server.access.errors import AccessError
from archscore_server.access.tls import TlsFiles
from support.certificates import LOCAL, encrypted


@pytest.fixture
def paths(authority, tmp_path):
    files = authority.server_files(tmp_path)
    return TlsFiles(files["tls_certificate"], files["tls_key"], authority.certificate)


def test_what_is_right(paths):
    assert tls.server_credentials(paths)
    assert tls.server_credentials(TlsFiles(paths.certificate, paths.key))


@pytest.mark.parametrize("field", ["certificate", "key", "client_ca"])
def test_a_pipe_is_not_waited_for(paths, tmp_path, field):
    path = tmp_path / "broken.pem"
    os.mkfifo(path)
    broken = {"certificate": paths.certificate, "key": paths.key, "client_ca": paths.client_ca, field: path}
    with pytest.raises(AccessError, match=r"broken\.pem cannot be read: it is no file"):
        tls.server_credentials(TlsFiles(**broken))


@pytest.mark.parametrize("field", ["certificate", "key", "client_ca"])
@pytest.mark.parametrize("content", [None, b"", b"\xff\x00 no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_each_file_must_be_there_and_in_pem(paths, tmp_path, field, content):
    path = tmp_path / "broken.pem"
    if content is not None:
        path.write_bytes(content)
    broken = {"certificate": paths.certificate, "key": paths.key, "client_ca": paths.client_ca, field: path}
    with pytest.raises(AccessError, match=r"broken\.pem") as caught:
        tls.server_credentials(TlsFiles(**broken))
    message = str(caught.value)
    if content is None:
        assert "cannot be read: No such file" in message
    else:
        assert ("no private key in PEM" if field == "key" else "no certificate in PEM") in message


def test_the_key_must_be_the_one_of_the_certificate(paths, authority):
    paths.key.write_bytes(authority.issue(*LOCAL).private_key_pem.bytes())
    with pytest.raises(AccessError, match=r"server\.key is not the key of .*server\.pem"):
        tls.server_credentials(paths)


def test_nobody_is_asked_for_the_password_of_a_key(paths, authority):
    certificate = authority.issue(*LOCAL)
    paths.certificate.write_bytes(certificate.cert_chain_pems[0].bytes())
    paths.key.write_bytes(encrypted(certificate))
    with pytest.raises(AccessError, match=r"server\.key is encrypted: give a key that is not"):
        tls.server_credentials(paths)


def test_what_goes_together(paths):
    assert TlsFiles.of(None, None, None) is None
    assert TlsFiles.of(paths.certificate, paths.key, None) == TlsFiles(paths.certificate, paths.key)
    assert TlsFiles.of(paths.certificate, paths.key, paths.client_ca) == paths
    for given in ((paths.certificate, None, None), (None, paths.key, None), (None, None, paths.client_ca)):
        with pytest.raises(AccessError, match="both --tls-certificate and --tls-key"):
            TlsFiles.of(*given)


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True)])
def test_a_key_that_everybody_can_read_is_warned_of(paths, caplog, mode, warned):
    paths.key.chmod(mode)
    tls.server_credentials(paths)
    assert ("server.key can be read by everybody" in caplog.text) == warned


def test_files_that_have_not_changed_are_not_read(paths, authority, caplog):
    renewal = tls._Renewal(paths)
    renewal.start()
    assert renewal.fetch() is None
    authority.server_files(paths.key.parent)
    assert renewal.fetch() is not None
    assert renewal.fetch() is None
    paths.certificate.unlink()
    assert renewal.fetch() is None
    assert renewal.fetch() is None
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
