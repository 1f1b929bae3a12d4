"""Names of labels: each alias means one target, nothing is converted, and nothing that is no number passes."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from screening.cli import app
from screening.crystals.crystal import Crystal
from screening.crystals.labels import (
    TARGETS,
    Kind,
    canonical,
    canonical_labels,
    lowest_of,
    marked_labels,
    targets_table,
    unit_of,
)
from screening.crystals.pack import pack
from screening.crystals.packed import PackedCrystals
from screening.crystals.read import read
from screening.crystals.write import write


@pytest.mark.parametrize(
    ("name", "meant", "unit"),
    [
        ("e_form", "formation_energy_per_atom", "eV/atom"),
        ("formation_energy_peratom", "formation_energy_per_atom", "eV/atom"),
        ("Formation Energy Per Atom", "formation_energy_per_atom", "eV/atom"),
        ("e_form_per_atom_mp2020_corrected", "formation_energy_per_atom", "eV/atom"),
        ("_oqmd_delta_e", "formation_energy_per_atom", "eV/atom"),
        ("e_above_hull", "energy_above_hull", "eV/atom"),
        ("ehull", "energy_above_hull", "eV/atom"),
        ("energy_above_hull", "energy_above_hull", "eV/atom"),
        ("gap pbe", "band_gap", "eV"),
        ("Bandgap", "band_gap", "eV"),
        ("Egap", "band_gap", "eV"),
        ("mbj_bandgap", "band_gap_mbj", "eV"),
        ("optb88vdw_bandgap", "band_gap_optb88vdw", "eV"),
        ("gap expt", "band_gap_experimental", "eV"),
        ("fermi_energy", "efermi", "eV"),
        ("REF_energy", "energy", "eV/cell"),
        ("dft_energy", "energy", "eV/cell"),
        ("energy_per_atom", "energy_per_atom", "eV/atom"),
        ("K_VRH", "bulk_modulus", "GPa"),
        ("log10(K_VRH)", "log10_bulk_modulus", "log10(GPa)"),
        ("log10(G_VRH)", "log10_shear_modulus", "log10(GPa)"),
        ("bulk_modulus_kv", "bulk_modulus_voigt", "GPa"),
        ("last phdos peak", "last_phdos_peak", "cm^-1"),
        ("exfoliation_en", "exfoliation_energy", "meV/atom"),
        ("magmom_oszicar", "total_magnetization", "muB/cell"),
        ("spacegroup.number", "spacegroup_number", "1"),
        ("space_group_it_number", "spacegroup_number", "1"),
        ("is_metal", "is_metal", "1"),
    ],
)
def test_an_alias_means_its_target(name: str, meant: str, unit: str) -> None:
    assert canonical(name) == meant
    assert unit_of(meant) == unit_of(name) == unit


@pytest.mark.parametrize("name", ["formation_energy", "my Label", "n", "K", "target_0", "bandgaps", "", "gap_of_mine"])
def test_an_unknown_name_is_kept_letter_by_letter(name: str) -> None:
    assert canonical(name) == name
    assert unit_of(name) == ""


def test_different_functionals_averages_and_normalisations_stay_apart() -> None:
    for name, other in [
        ("gap pbe", "mbj_bandgap"),
        ("gap pbe", "gap expt"),
        ("energy", "energy_per_atom"),
        ("energy", "free_energy"),
        ("energy", "uncorrected_energy"),
        ("k_vrh", "k_voigt"),
        ("k_vrh", "log10(K_VRH)"),
        ("e_form_per_atom", "e_form_per_cell"),
    ]:
        assert canonical(name) != canonical(other)


def test_no_name_means_two_targets() -> None:
    meant: dict[str, str] = {}
    for target in TARGETS:
        for name in (target.name, *target.aliases):
            assert canonical(name) == target.name
            assert meant.setdefault(name, target.name) == target.name
            assert canonical(name.upper()) == target.name
    assert len(meant) == sum(1 + len(target.aliases) for target in TARGETS)


def test_every_target_has_a_unit_that_says_its_kind() -> None:
    for target in TARGETS:
        assert target.unit
        if target.unit.endswith("/atom"):
            assert target.kind == Kind.PER_ATOM
        if target.unit.endswith("/cell"):
            assert target.kind == Kind.PER_CELL


def test_gaps_alone_have_a_lowest_value() -> None:
    lowest = {target.name: lowest_of(target.name) for target in TARGETS}
    assert {name for name, value in lowest.items() if value == 0.0} == {n for n in lowest if n.startswith("band_gap")}
    assert set(lowest.values()) == {0.0, -math.inf}
    assert lowest_of("Egap") == 0.0
    assert lowest_of("unheard of") == -math.inf


def test_every_scalar_number_is_a_label_and_nothing_else() -> None:
    raw = {
        "a": 1,
        "b": -2.5,
        "c": np.float32(0.5),
        "d": np.int64(7),
        "e": True,
        "f": np.bool_(False),
        "g": np.array(3.0),
        "text": "1.0",
        "none": None,
        "nan": math.nan,
        "inf": math.inf,
        "numpy nan": np.float32("nan"),
        "list": [1.0],
        "array": np.ones(1),
        "complex": 1j,
        "huge": 10**400,
    }
    labels = canonical_labels(raw)
    assert labels == {"a": 1.0, "b": -2.5, "c": 0.5, "d": 7.0, "e": 1.0, "f": 0.0, "g": 3.0}
    assert all(type(value) is float for value in labels.values())


def test_the_canonical_name_wins_over_its_alias() -> None:
    expected = {"e_form": 1.0, "formation_energy_per_atom": 2.0}
    assert canonical_labels({"e_form": 1.0, "formation_energy_per_atom": 2.0}) == expected
    assert canonical_labels({"formation_energy_per_atom": 2.0, "e_form": 1.0}) == expected


def test_a_missing_canonical_value_leaves_its_name_to_the_alias() -> None:
    assert canonical_labels({"formation_energy_per_atom": None, "e_form": 1.0}) == {"formation_energy_per_atom": 1.0}


def test_of_two_aliases_the_first_is_renamed() -> None:
    assert canonical_labels({"gap": 1.0, "bandgap": 2.0}) == {"band_gap": 1.0, "bandgap": 2.0}


@given(st.dictionaries(st.sampled_from([n for t in TARGETS for n in (t.name, *t.aliases)]) | st.text(), st.floats()))
def test_no_finite_value_is_lost_or_changed(raw: dict[str, float]) -> None:
    labels = canonical_labels(raw)
    finite = [value for value in raw.values() if math.isfinite(value)]
    assert sorted(labels.values()) == sorted(finite)
    assert all(canonical(name) in labels for name, value in raw.items() if math.isfinite(value))


@pytest.mark.parametrize("value", ["abc", "1.2 eV", "1.25", "inf", math.inf, -math.inf, np.float32("inf")])
def test_a_target_without_a_number_that_was_meant_is_marked(value: object) -> None:
    assert marked_labels({"e_form": value, "b": 1.0}) == {"b": 1.0, "formation_energy_per_atom": math.inf}
    assert marked_labels({"remark": value}) == {}
    assert marked_labels({"e_form": value, "formation_energy_per_atom": 2.0}) == {"formation_energy_per_atom": 2.0}


@pytest.mark.parametrize("value", [None, math.nan, "", " None", "NaN", "null", "n/a", "-", "0 0 1.5", "[1, 2]", [1.0]])
def test_what_says_that_a_value_is_missing_is_not_marked(value: object) -> None:
    assert marked_labels({"band_gap": value}) == {}


def test_symbols_of_space_groups_are_no_mistakes() -> None:
    assert marked_labels({"spacegroup": "Fm-3m"}) == {}


POSCAR = '"x\n1.0\n4 0 0\n0 4 0\n0 0 4\nCu\n1\nDirect\n0 0 0\n"'
FRAME = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3:forces:R:3 id={} {}\nCu 0 0 0 {} 0 0\n'


@pytest.mark.native
@pytest.mark.parametrize("workers", [1, 2])
def test_labels_that_are_no_finite_numbers_are_told(tmp_path: Path, workers: int) -> None:
    silent = ["band_gap=1.5", "band_gap=None", "band_gap=nan", "remark=abc", "spacegroup=Fm-3m", 'band_gap=""']
    loud = ["e_form=inf", "e_form=abc", 'band_gap="1.2 eV"', "band_gap=-inf", "e_form=abc band_gap=xyz", "e_form=abc"]
    frames = [FRAME.format(f"c{k}", said, 0) for k, said in enumerate([*silent, *loud])]
    frames += [FRAME.format("push", "", "inf"), FRAME.format("pull", "", "nan")]
    (tmp_path / "a.extxyz").write_text("".join(frames))
    (tmp_path / "b.csv").write_text(
        f"id,poscar,band_gap,note\nx,{POSCAR},high,odd\ny,{POSCAR},1.0,odd\nz,{POSCAR},,odd\n"
    )
    tally = pack([tmp_path / "a.extxyz", tmp_path / "b.csv"], tmp_path / "o.h5", workers=workers)
    assert (tally.accepted, tally.rejected.total()) == (17, 0)
    assert tally.missing == (
        "10 labels are no finite numbers and count as missing, the first: formation_energy_per_atom of c6"
    )
    with PackedCrystals(tmp_path / "o.h5") as packed:
        kept = {one.id: one for one in packed}
    assert {id: one.labels for id, one in kept.items() if one.labels} == {
        "c0": {"band_gap": 1.5},
        "y": {"band_gap": 1.0},
    }
    assert kept["c0"].forces is not None
    assert kept["push"].forces is None
    ended = packed_by_command(tmp_path / "a.extxyz", tmp_path / "p.h5")
    assert "9 labels are no finite numbers and count as missing, the first: formation_energy_per_atom of c6" in ended
    assert "missing" not in packed_by_command(tmp_path / "o.h5", tmp_path / "q.h5")


@pytest.mark.native
def test_they_are_told_of_cif_and_cgcnn_folders_too(tmp_path: Path) -> None:
    (tmp_path / "a.poscar").write_text(POSCAR.strip('"'))
    (one,) = read(tmp_path / "a.poscar")
    assert isinstance(one, Crystal)
    write([replace(one, id=id, labels={"band_gap": 1.5}) for id in ("x", "y")], tmp_path / "cifs", format="cif")
    text = (tmp_path / "cifs/x.cif").read_text()
    assert text.count("1.5") == 1
    (tmp_path / "cifs/x.cif").write_text(text.replace("1.5", "wide"))
    tally = pack([tmp_path / "cifs"], tmp_path / "o.h5")
    assert tally.missing == "1 label is no finite number and counts as missing, the first: band_gap of x"
    (tmp_path / "cifs/id_prop.csv").write_text("id,e_form\nx,odd\ny,0.5\n")
    (tmp_path / "cifs/x.cif").write_text(text)
    tally = pack([tmp_path / "cifs"], tmp_path / "p.h5")
    assert tally.missing.endswith("the first: formation_energy_per_atom of x")


def packed_by_command(source: Path, output: Path) -> str:
    """What `screening pack` prints."""
    context = SimpleNamespace(check=lambda: None)
    return CliRunner().invoke(app, ["pack", str(source), "-o", str(output)], obj=context, catch_exceptions=False).stdout


def test_the_table_shows_every_target() -> None:
    lines = targets_table().splitlines()
    assert len(lines) == len(TARGETS) + 2
    assert "| `band_gap` | eV | intensive | `bandgap`" in targets_table()
