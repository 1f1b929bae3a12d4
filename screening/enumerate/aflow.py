"""The AFLOW prototypes that pymatgen ships, by their AFLOW label such as AB3C_cP5_221_a_c_b.

Read from pymatgen's file as it lies on disk: its own loader takes six seconds. Sites are A, B, C, ... in the
alphabetical order of the elements of the crystal that the prototype was taken from, as in the label. Of prototypes that
share a label, the second is label-2, and so on.
"""

import gzip
import json
import math
from collections import Counter
from functools import lru_cache
from importlib import resources
from string import ascii_uppercase
from typing import Any

import numpy as np

from screening.crystals.elements import NUMBER_OF
from screening.enumerate.prototype import Prototype
from screening.errors import ResourceError

# In pymatgen's folder; releases before 2025.10 have it in the second place.
PLACES = ("analysis/prototypes/aflow_prototypes.json.gz", "analysis/aflow_prototypes.json")


def aflow_prototypes() -> dict[str, Prototype]:
    """All of them by name, in the order of the file."""
    return dict(_all())


@lru_cache(maxsize=1)
def _all() -> dict[str, Prototype]:
    found: dict[str, Prototype] = {}
    seen: Counter[str] = Counter()
    for entry in _entries():
        label = str(entry["tags"]["aflow"])
        seen[label] += 1
        name = label if seen[label] == 1 else f"{label}-{seen[label]}"
        found[name] = _prototype(name, entry)
    return found


def _entries() -> list[dict[str, Any]]:
    folder = resources.files("pymatgen")
    for place in PLACES:
        file = folder / place
        if file.is_file():
            content = file.read_bytes()
            entries: list[dict[str, Any]] = json.loads(gzip.decompress(content) if place.endswith(".gz") else content)
            return entries
    raise ResourceError(
        f"{folder}: this release of pymatgen has no AFLOW prototypes where they were, {' or '.join(PLACES)}; install "
        "the release that constraints.txt names, or give the prototype as a file"
    )


def _prototype(name: str, entry: dict[str, Any]) -> Prototype:
    held, tags = entry["snl"], entry["tags"]
    symbols = [site["species"][0]["element"] for site in held["sites"]]
    elements = sorted(set(symbols))
    counts = Counter(symbols)
    divisor = math.gcd(*counts.values())
    units = [counts[symbol] // divisor for symbol in elements]
    known = [tags["mineral"], f"Strukturbericht {tags['strukturbericht']}"]
    fractional = np.array([site["abc"] for site in held["sites"]], np.float64)
    return Prototype(
        name=name,
        title=", ".join(text for text in known if text and not text.endswith(" None")),
        formula="".join(f"{symbol}{'' if n == 1 else n}" for symbol, n in zip(elements, units, strict=True)),
        group=int(tags["aflow"].split("_")[2]),
        sites=tuple(ascii_uppercase[: len(elements)]),
        # The file has 1e-16 where there is nothing.
        lattice=np.asarray(np.round(held["lattice"]["matrix"], 10) + 0.0, np.float64),
        fractional=fractional - np.floor(fractional),
        site_of=np.array([elements.index(symbol) for symbol in symbols]),
        original=tuple(NUMBER_OF[symbol] for symbol in elements),
    )
