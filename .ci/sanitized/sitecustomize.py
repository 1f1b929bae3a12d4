"""Make `screening._core` the sanitised build in any Python that has this folder on PYTHONPATH."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType

BUILD = Path(__file__).resolve().parent.parent.parent / "build" / "sanitized"


class SanitisedCore:
    """Finds the one module of the sanitised build, before any other finder is asked."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The sanitised `screening._core`; nothing for other names."""
        if name != "screening._core":
            return None
        built = list(BUILD.glob("_core*.so"))
        if len(built) != 1:
            raise ImportError(f"{BUILD} holds {len(built)} native modules, expected 1; run .ci/sanitize")
        return spec_from_file_location(name, built[0])


sys.meta_path.insert(0, SanitisedCore)
