"""The formats that can be read, by name, and which of them a document is of."""

import re
import zlib

from screening.crystals.formats.ase_db import AseDb
from screening.crystals.formats.cgcnn_folder import CgcnnFolder
from screening.crystals.formats.cif import Cif
from screening.crystals.formats.extxyz import ExtXyz
from screening.crystals.formats.format import Document, Format
from screening.crystals.formats.packed import Packed
from screening.crystals.formats.poscar import Poscar
from screening.crystals.formats.pymatgen_json import PymatgenJson
from screening.crystals.formats.table import Table

FORMATS: dict[str, Format] = {
    format.name: format
    for format in (Cif(), ExtXyz(), Poscar(), PymatgenJson(), CgcnnFolder(), Table(), AseDb(), Packed())
}
SUPPORTED = (
    "CIF (.cif), POSCAR/CONTCAR (.vasp, .poscar), extended XYZ (.xyz, .extxyz), JSON of pymatgen, ASE, JARVIS and "
    "OPTIMADE (.json, .jsonl), tables with a crystal column (.csv, .tsv, .parquet), CGCNN folders (id_prop.csv), ASE "
    "databases and trajectories (.db, .aselmdb, .traj), packed files (.h5), each alone, gzipped, in a folder or in a "
    ".zip or .tar archive"
)

_NUMBER = rb"[-+]?(\d+\.?\d*|\.\d+)([eEdD][-+]?\d+)?"
_HEAD_BYTES = 1 << 14
# What the first bytes of each format look like. An extended XYZ comment has key=value pairs, a POSCAR has a scale
# and three vectors on its second to fifth lines; plain XYZ and JSON are told last, as they say least.
_SIGNS: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("packed", re.compile(rb"\x89HDF\r\n\x1a\n")),
    ("ase", re.compile(rb"SQLite format 3\0|- of UlmASE-Trajectory")),
    ("cif", re.compile(rb"(\xef\xbb\xbf)?(\s*(#[^\n]*)?\n)*\s*data_", re.IGNORECASE)),
    ("poscar", re.compile(rb"[^\n]*\n[ \t]*(" + _NUMBER + rb"\s+){1,3}?(" + _NUMBER + rb"\s+){9}")),
    ("extxyz", re.compile(rb"\s*\d+[ \t]*\r?\n[^\n]*\n\s*[A-Za-z]{1,2}\d*(\s+" + _NUMBER + rb"){3}")),
    ("extxyz", re.compile(rb"\s*\d+[ \t]*\r?\n[^\n]*=")),
    ("json", re.compile(rb"(\xef\xbb\xbf)?\s*[\[{]")),
)


def format_of(document: Document, *, by_content: bool = False) -> Format | None:
    """The format that claims the document's name, or else, if asked for, that its first bytes look like."""
    name = document.file_name
    claimed = next((format for format in FORMATS.values() if format.claims(name)), None)
    if claimed is not None or not by_content:
        return claimed
    try:
        with document.open() as stream:
            head = stream.read(_HEAD_BYTES)
    except (OSError, EOFError, zlib.error):
        return None
    return next((FORMATS[found] for found, sign in _SIGNS if sign.match(head)), None)
