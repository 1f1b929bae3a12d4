"""A certificate for one run, so that nobody else on a cluster or a shared machine can reach its scheduler and workers.

It vouches for itself: whoever has the key is of the run, and whoever has not is refused by all who are. Both lie in a
folder that the owner alone may enter.
"""

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from screening.errors import ResourceError

if TYPE_CHECKING:
    from distributed.security import Security

DAYS = 400
LIMIT_S = 60.0
CERTIFICATE, KEY = "certificate.pem", "key.pem"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate and its key, two files."""

    folder: Path

    @classmethod
    def made(cls, folder: Path) -> "Certificate":
        """Make a new one in a folder, which is made private; one that is there is replaced."""
        if shutil.which("openssl") is None:
            raise ResourceError(
                "openssl: no such command; it makes the certificate that keeps other users off this run's scheduler: "
                "install it, or load its module"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
        except OSError as error:
            raise ResourceError(f"{folder}: cannot be made ({error.strerror or error}); check the folder") from error
        made = cls(folder)
        name = ["-subj", "/CN=screening", "-days", str(DAYS)]
        kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command = ["openssl", "req", "-x509", *kind, *name, "-keyout", str(made.key), "-out", str(made.certificate)]
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            umask=0o077,
            # A Ctrl-C is for this process, which finishes what it is at.
            start_new_session=True,
            check=False,
        )
        if ran.returncode != 0 or not made.key.exists():
            said = (ran.stderr.strip().splitlines() or ["no word"])[-1]
            raise ResourceError(f"{folder}: openssl could not make a certificate there ({said})")
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
    """What this process, and those that it gives it to, talk with among themselves; none of it stays on a disk."""
    try:
        with tempfile.TemporaryDirectory(prefix="screening-") as place:
            made = Certificate.made(Path(place))
            return _security(made.certificate.read_text(encoding="ascii"), made.key.read_text(encoding="ascii"))
    except OSError as error:
        raise ResourceError(
            f"{tempfile.gettempdir()}: no certificate can be made there ({error.strerror or error}); set TMPDIR to a "
            "folder with room"
        ) from error


def _security(certificate: str, key: str) -> "Security":
    """Of files, or of what is in them."""
    from distributed.security import Security

    pair = {"cert": certificate, "key": key}
    roles = {f"tls_{role}_{what}": given for role in ("scheduler", "worker", "client") for what, given in pair.items()}
    return Security(require_encryption=True, tls_ca_file=certificate, **roles)
