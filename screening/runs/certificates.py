"""A certificate for one run, so that nobody else on a cluster or a shared machine can reach its scheduler and workers.

It vouches for itself: whoever has the key is of the run, and whoever has not is refused by all who are. Both lie in a
folder that the owner alone may enter.
"""

import contextlib
import datetime
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screening.errors import ResourceError

if TYPE_CHECKING:
    from distributed.security import Security

LIFE = datetime.timedelta(days=400)
# Clocks of nodes differ.
EARLIER = datetime.timedelta(days=1)
CERTIFICATE, KEY = "certificate.pem", "key.pem"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, two files."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> "Certificate":
        """Make a new one in a folder, which is made private; one that is there is replaced."""
        made = cls(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
            for path, content in zip((made.certificate, made.key), _pair(), strict=True):
                _write_private(path, content)
        except OSError as error:
            raise ResourceError(
                f"{folder}: no certificate can be made there ({error.strerror or error}); check the folder"
            ) from error
        return made

    @property
    def certificate(self) -> Path:
        """What everyone of the run shows and expects."""
        return self.folder / CERTIFICATE

    @property
    def key(self) -> Path:
        """What proves that it is theirs."""
        return self.folder / KEY

    def settings(self) -> dict[str, Any]:
        """Settings of Dask with which a process talks to this run, and to nobody else."""
        pair = {"cert": str(self.certificate), "key": str(self.key)}
        roles = {f"distributed.comm.tls.{role}": pair for role in ("scheduler", "worker", "client")}
        return {
            "distributed.comm.require-encryption": True,
            "distributed.comm.tls.ca-file": str(self.certificate),
            **roles,
        }

    def security(self) -> "Security":
        """The same as an object of Dask."""
        return _security(str(self.certificate), str(self.key))


def own_security() -> "Security":
    """What this process, and those that it gives it to, talk with among themselves; it is kept in no file."""
    security = _security(*_pair())
    try:
        # OpenSSL takes a key from a file alone, so Dask makes one for a moment.
        security.get_listen_args("scheduler")
    except OSError as error:
        raise ResourceError(
            f"{tempfile.gettempdir()}: no certificate can be made there ({error.strerror or error}); set TMPDIR to a "
            "folder with room"
        ) from error
    return security


def _pair() -> tuple[str, str]:
    """A certificate that vouches for itself, and its key, as PEM.

    On a curve: RSA, which Dask's own certificates use, takes 300 times as long.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "screening")])
    now = datetime.datetime.now(datetime.UTC)
    unsigned = (
        x509.CertificateBuilder()
        .issuer_name(name)
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    certificate = unsigned.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    kind, bare = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret = key.private_bytes(serialization.Encoding.PEM, kind, bare)
    return certificate.decode("ascii"), secret.decode("ascii")


def _write_private(path: Path, content: str) -> None:
    """Write a new file that its owner alone may read; who has an earlier one of this name open never sees the new."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(content)


def _security(certificate: str, key: str) -> "Security":
    """Of files, or of what is in them."""
    from distributed.security import Security

    pair = {"cert": certificate, "key": key}
    roles = {f"tls_{role}_{what}": given for role in ("scheduler", "worker", "client") for what, given in pair.items()}
    return Security(require_encryption=True, tls_ca_file=certificate, **roles)
