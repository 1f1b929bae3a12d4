"""The version of this code, as files record it, and those of what it stands on."""

from functools import cache
from importlib import metadata

DISTRIBUTION = "crystal-screening"


@cache
def code_version() -> str:
    """The version of the installed distribution; a source tree on the path alone has none."""
    return version_of(DISTRIBUTION) or "not installed"


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution; None if it is not."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
