"""A certificate for a run: private, its own authority, and told apart from every other."""

import contextlib
import socket
import ssl
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from screening.errors import ResourceError
from screening.runs.certificates import Certificate, own_security


def test_key_and_folder_are_the_owners_alone(tmp_path: Path) -> None:
    made = Certificate.made(tmp_path / "a")
    assert made.folder.stat().st_mode & 0o777 == 0o700
    assert made.key.stat().st_mode & 0o777 == 0o600
    assert made.certificate.stat().st_mode & 0o077 == 0
    again = made.key.read_text()
    assert Certificate.made(tmp_path / "a").key.read_text() != again


def test_its_settings_demand_encryption() -> None:
    made = Certificate(Path("/place"))
    assert made.settings()["distributed.comm.require-encryption"] is True
    security = made.security()
    assert security.require_encryption
    assert security.get_tls_config_for_role("worker")["ca_file"] == "/place/certificate.pem"


def test_a_key_is_in_a_new_file_whatever_was_there(tmp_path: Path) -> None:
    tmp_path.joinpath("key.pem").write_text("open to all")
    tmp_path.joinpath("key.pem").chmod(0o644)
    assert Certificate.made(tmp_path).key.stat().st_mode & 0o777 == 0o600


def test_where_none_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(ResourceError, match=r"a/b: no certificate can be made there \(Not a directory\)"):
        Certificate.made(tmp_path / "a/b")


def test_it_vouches_for_itself_and_for_no_other(tmp_path: Path) -> None:
    ours, other = Certificate.made(tmp_path / "a"), Certificate.made(tmp_path / "b")
    for their, agree in ((ours, True), (other, False)):
        server, client = (one.security() for one in (ours, their))
        left, right = socket.socketpair()
        with left, right, contextlib.ExitStack() as stack:
            thread = stack.enter_context(ThreadPoolExecutor(1))
            accepted = thread.submit(_greeted, left, server.get_listen_args("scheduler")["ssl_context"], True)
            met = _greeted(right, client.get_connection_args("client")["ssl_context"], False)
            right.close()
            assert (met, accepted.result(30)) == (agree, agree)


def _greeted(end: socket.socket, context: ssl.SSLContext, first: bool) -> bool:
    end.settimeout(30)
    try:
        with context.wrap_socket(end, server_side=first) as secure:
            secure.sendall(b"a")
            return secure.recv(1) == b"a"
    except OSError:
        return False


def test_what_a_process_has_for_itself_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    security = own_security()
    assert security.tls_worker_key.startswith("-----BEGIN")
    assert own_security().tls_worker_key != security.tls_worker_key
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(ResourceError, match=r"none: no certificate can be made there .*set TMPDIR"):
        own_security()
