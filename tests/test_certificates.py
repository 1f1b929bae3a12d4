"""A certificate for a run: private, its own authority, and told apart from every other."""

import tempfile
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


def test_without_openssl_nothing_is_left_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="openssl: no such command; it makes the certificate"):
        Certificate.made(tmp_path / "a")


def test_what_a_process_has_for_itself_is_in_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    security = own_security()
    assert security.tls_worker_key.startswith("-----BEGIN")
    assert own_security().tls_worker_key != security.tls_worker_key
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(ResourceError, match=r"none: no certificate can be made there .*set TMPDIR"):
        own_security()
