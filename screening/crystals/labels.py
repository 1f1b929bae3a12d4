"""The names and units of labels: one canonical name per target, and the aliases people use for it.

Values are never converted, only named: a file that stores log10(GPa) under `K_VRH` stays wrong, one that
calls its formation energy `e_form` is understood. Readers pass every raw label through `marked_labels`.

Names are compared after folding: lower case, and every run of characters other than a-z and 0-9 is one `_`,
dropped at both ends. So `K_VRH`, `k_vrh` and `k-vrh`, `gap pbe` and `gap_pbe`, `log10(K_VRH)` and `log10_k_vrh`,
`spacegroup.number` and `spacegroup_number` are each the same name. A name that folds to no entry of `TARGETS` is
kept letter by letter, with the unit "" (unknown). Names of one letter are never aliases: `n` can be a refractive
index or a count.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np

# Neither the unit nor the sign of a pymatgen "stress" is agreed on, so the name ours is kept under says both.
STRESS_KEY = "stress_tension_positive_eV_per_angstrom3"


class Kind(StrEnum):
    """How a target grows when the cell is repeated."""

    PER_ATOM = "per atom"
    PER_CELL = "per cell"
    INTENSIVE = "intensive"


@dataclass(frozen=True, slots=True)
class Target:
    """One quantity: its canonical name, unit ("1" when it has none), kind, and the names that mean the same.

    `lowest` is what it cannot be below by definition.
    """

    name: str
    unit: str
    kind: Kind
    aliases: tuple[str, ...] = ()
    lowest: float = -math.inf


def _per_atom(name: str, unit: str, *aliases: str) -> Target:
    return Target(name, unit, Kind.PER_ATOM, aliases)


def _per_cell(name: str, unit: str, *aliases: str) -> Target:
    return Target(name, unit, Kind.PER_CELL, aliases)


def _intensive(name: str, unit: str, *aliases: str) -> Target:
    return Target(name, unit, Kind.INTENSIVE, aliases)


def _gap(name: str, *aliases: str) -> Target:
    return Target(name, "eV", Kind.INTENSIVE, aliases, lowest=0.0)


# Two names are aliases only if they mean the same quantity by the same method: another functional, average
# (Voigt, Reuss, Hill) or normalisation is another target. `formation_energy` alone is absent on purpose: files
# disagree whether it is per atom or per cell.
TARGETS = (
    _per_atom(
        "formation_energy_per_atom",
        "eV/atom",
        "e_form",
        "eform",
        "e_form_per_atom",
        "eform_per_atom",
        "formation_energy_peratom",
        "formation_energy_atom",
        "form_energy_per_atom",
        "e_formation_per_atom",
        "matbench_mp_e_form",
        "e_form_per_atom_mp2020_corrected",
        "_oqmd_delta_e",
    ),
    _per_atom("formation_energy_per_atom_uncorrected", "eV/atom", "e_form_per_atom_uncorrected"),
    _per_cell("formation_energy_per_cell", "eV/cell", "e_form_per_cell", "matbench_perovskites"),
    _per_atom(
        "energy_above_hull",
        "eV/atom",
        "e_above_hull",
        "ehull",
        "e_hull",
        "energy_above_hull_per_atom",
        "e_above_hull_per_atom",
        "hull_distance",
        "e_above_hull_mp2020_corrected_ppd_mp",
    ),
    _per_atom("decomposition_energy_per_atom", "eV/atom", "e_decomp", "decomposition_energy_peratom"),
    _per_cell("energy", "eV/cell", "ref_energy", "dft_energy", "total_energy", "energy_total"),
    _per_atom("energy_per_atom", "eV/atom", "energy_peratom", "e_per_atom", "total_energy_per_atom"),
    _per_atom("referenced_energy_per_atom", "eV/atom"),
    _per_cell("free_energy", "eV/cell"),
    _per_cell("uncorrected_energy", "eV/cell", "energy_uncorrected"),
    _per_atom("uncorrected_energy_per_atom", "eV/atom"),
    _per_cell("energy_corrected", "eV/cell", "corrected_energy"),
    _per_cell("correction", "eV/cell", "energy_correction"),
    _per_atom("optb88vdw_total_energy", "eV/atom"),
    _per_atom("cohesive_energy_per_atom", "eV/atom", "cohesive_energy_peratom"),
    _per_atom("exfoliation_energy", "meV/atom", "exfoliation_en", "exfoliation_energy_per_atom", "matbench_jdft2d"),
    _gap(
        "band_gap",
        "bandgap",
        "gap",
        "egap",
        "e_gap",
        "gap_pbe",
        "pbe_gap",
        "band_gap_pbe",
        "bandgap_pbe",
        "pbe_bandgap",
        "pbe_band_gap",
        "matbench_mp_gap",
    ),
    _gap("band_gap_direct", "dir_gap", "direct_gap", "direct_band_gap", "direct_bandgap"),
    _gap("band_gap_hse", "gap_hse", "hse_gap", "hse_bandgap", "hse_band_gap", "bandgap_hse", "hse06_gap"),
    _gap("band_gap_mbj", "mbj_bandgap", "mbj_gap", "mbj_band_gap", "gap_mbj", "gap_tbmbj", "bandgap_mbj"),
    _gap("band_gap_optb88vdw", "optb88vdw_bandgap", "gap_opt", "optb88vdw_gap", "optb88vdw_band_gap"),
    _gap("band_gap_experimental", "gap_expt", "expt_gap", "matbench_expt_gap", "experimental_band_gap"),
    _intensive("efermi", "eV", "e_fermi", "fermi_energy", "fermi_level"),
    _intensive("is_metal", "1", "matbench_mp_is_metal"),
    _intensive("is_gap_direct", "1"),
    _intensive("is_stable", "1"),
    _intensive("bulk_modulus", "GPa", "k_vrh", "kvrh", "bulk_modulus_vrh"),
    _intensive("bulk_modulus_voigt", "GPa", "bulk_modulus_kv", "k_voigt"),
    _intensive("bulk_modulus_reuss", "GPa", "bulk_modulus_kr", "k_reuss"),
    _intensive("shear_modulus", "GPa", "g_vrh", "gvrh", "shear_modulus_vrh"),
    _intensive("shear_modulus_voigt", "GPa", "shear_modulus_gv", "g_voigt"),
    _intensive("shear_modulus_reuss", "GPa", "shear_modulus_gr", "g_reuss"),
    _intensive(
        "log10_bulk_modulus", "log10(GPa)", "log10_k_vrh", "log_k_vrh", "log10_kvrh", "log_kvrh", "matbench_log_kvrh"
    ),
    _intensive(
        "log10_shear_modulus", "log10(GPa)", "log10_g_vrh", "log_g_vrh", "log10_gvrh", "log_gvrh", "matbench_log_gvrh"
    ),
    _intensive("young_modulus", "GPa", "youngs_modulus"),
    _intensive("poisson_ratio", "1", "homogeneous_poisson", "poissons_ratio"),
    _intensive("elastic_anisotropy", "1", "universal_anisotropy"),
    _per_cell(
        "total_magnetization",
        "muB/cell",
        "total_magnetic_moment",
        "total_mag",
        "magmom",
        "magmom_oszicar",
        "total_magmom",
    ),
    _intensive("last_phdos_peak", "cm^-1", "matbench_phonons", "phdos_peak", "last_phonon_dos_peak"),
    _intensive("refractive_index", "1", "dielectric_n", "matbench_dielectric"),
    _intensive("dielectric_total", "1", "poly_total", "dielectric_constant_total"),
    _intensive("dielectric_electronic", "1", "poly_electronic", "dielectric_constant_electronic"),
    _intensive("slme", "%"),
    _intensive("spillage", "1"),
    _intensive("work_function", "eV", "workfunction"),
    _intensive("density", "g/cm^3"),
    _per_cell("volume", "angstrom^3/cell", "cell_volume"),
    _per_atom("volume_per_atom", "angstrom^3/atom", "vpa"),
    _intensive(
        "spacegroup_number",
        "1",
        "space_group_number",
        "space_group_it_number",
        "spacegroup",
        "space_group",
        "sg_number",
        "spg_number",
        "sgnum",
    ),
    _per_cell("nsites", "1", "natoms", "n_sites", "n_atoms", "num_sites", "num_atoms"),
    _intensive("nelements", "1", "n_elements", "num_elements", "nelem"),
)


# What tables and programs write where there is no value.
MISSING_WORDS = frozenset(
    {"", "nan", "-nan", "none", "null", "nil", "na", "n/a", "<na>", "missing", "-", "--", "?", "."}
)
# Targets that go by the name of what is often a symbol, such as Fm-3m.
_SYMBOLS_TOO = frozenset({"spacegroup_number"})
# Several numbers: of each atom, say, which are no label.
_ARRAY = re.compile(r"\[?[-+.\de]+(?:[\s,]+[-+.\de]+)+\]?")


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


_BY_NAME = {target.name: target for target in TARGETS}
_BY_FOLDED = {_folded(alias): target for target in TARGETS for alias in (target.name, *target.aliases)}


@lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """The canonical name of a label, or the name itself when no target is known by it."""
    if name in _BY_NAME:
        return name
    target = _BY_FOLDED.get(_folded(name))
    return target.name if target else name


def unit_of(name: str) -> str:
    """The unit of a target by canonical name or alias: "1" has no unit, "" is unknown."""
    target = _BY_NAME.get(canonical(name))
    return target.unit if target else ""


def lowest_of(name: str) -> float:
    """What a target cannot be below by definition; minus infinity where nothing is, or where it is unknown."""
    target = _BY_NAME.get(canonical(name))
    return target.lowest if target else -math.inf


def canonical_labels(raw: Mapping[str, object]) -> dict[str, float]:
    """Keep the finite numbers of a row under canonical names, in the row's order; bools become 0 and 1.

    None, NaN and infinities count as missing. A value that is no number (text, lists, arrays of more than one
    value) is no label. Where several present names mean one target, the canonical name wins, else the first;
    the others keep their own names.
    """
    present = {str(name): number for name, value in raw.items() if (number := _number(value)) is not None}
    labels: dict[str, float] = {}
    for name, number in present.items():
        meant = canonical(name)
        free = meant == name or (meant not in present and meant not in labels)
        labels[meant if free else name] = number
    return labels


def marked_labels(raw: Mapping[str, object]) -> dict[str, float]:
    """Give the same, and infinity for each target that has no number, but a value that was meant to be one.

    `validate` makes such a label missing, and tells it. Text that says that a value is missing means none.
    """
    labels = canonical_labels(raw)
    meant = (canonical(str(name)) for name, value in raw.items() if is_unusable(str(name), value))
    return labels | {name: math.inf for name in meant if name not in labels}


def is_unusable(name: str, value: object) -> bool:
    """Whether a value, which is no label, is of a known target: infinite, or text that is none and not missing."""
    if not isinstance(value, str):
        return isinstance(value, float | np.floating) and math.isinf(value) and expects_number(name)
    text = value.strip().lower()
    return expects_number(name) and text not in MISSING_WORDS and not _ARRAY.fullmatch(text)


def expects_number(name: str) -> bool:
    """Whether a name is of a target, under which text is a mistake."""
    return (target := canonical(name)) in _BY_NAME and target not in _SYMBOLS_TOO


def _number(value: object) -> float | None:
    """The finite float in a numeric scalar, or None."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if not isinstance(value, float | int | np.floating | np.integer | np.bool_):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def targets_table() -> str:
    """Render the known targets as the Markdown table of docs/conventions.md."""
    rows = ["| target | unit | kind | also read as |", "|---|---|---|---|"]
    for target in TARGETS:
        names = ", ".join(f"`{alias}`" for alias in target.aliases)
        rows.append(f"| `{target.name}` | {target.unit} | {target.kind} | {names} |")
    return "\n".join(rows) + "\n"
