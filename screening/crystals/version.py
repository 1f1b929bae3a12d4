"""The version of this code, as files record it."""

from functools import cache
from importlib import metadata

DISTRIBUTION = "crystal-screening"


@cache
def code_version() -> str:
    """The version of the installed distribution; a source tree on the path alone has none."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "not installed"
