"""What a CIF block means: 230 space groups against pymatgen, ways to write the same, what is refused and why."""

import numpy as np
import pytest
from cif_texts import SALT, assert_same_crystal, cell, fractional, numbers_of, read, sites
from entries import only, refused
from pymatgen.core import Lattice, Structure
from pymatgen.io.cif import CifParser, CifWriter
from spacegroups import Grown, cif_of, grown

from screening.crystals.crystal import Reason
from screening.crystals.formats.cif_elements import element_of_label, element_of_symbol

GROUPS = range(1, 231)
# Space groups whose number and short symbol leave the origin open.
TWO_ORIGINS = {48, 50, 59, 68, 70, 85, 86, 88, 125, 126, 129, 130, 133, 134, 137, 138, 141, 142, 201, 203, 222, 224}
TWO_ORIGINS |= {227, 228}


def structure_of(crystal: Grown) -> Structure:
    return Structure(Lattice(crystal.lattice), crystal.symbols, crystal.fractional)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("number", GROUPS)
def test_files_of_pymatgen_read_as_pymatgen_reads_them(number: int) -> None:
    crystal = grown(number, np.random.default_rng(number))
    structure = structure_of(crystal)
    for symprec in (None, 1e-3):
        # At its default angle tolerance of 5 degrees, the writer straightens cells that are nearly of higher symmetry.
        text = str(CifWriter(structure, symprec=symprec, angle_tolerance=0.01))
        ours = only(read(text))
        theirs = CifParser.from_str(text).parse_structures(primitive=False)[0]
        assert len(ours) == len(theirs)
        assert_same_crystal(ours, numbers_of(theirs), theirs.frac_coords, theirs.lattice.matrix, atol=1e-5)
        assert_same_crystal(ours, numbers_of(structure), crystal.fractional, crystal.lattice, atol=1e-4)


@pytest.mark.parametrize("number", GROUPS)
def test_a_group_may_be_told_in_four_ways(number: int) -> None:
    crystal = grown(number, np.random.default_rng(number))
    expected = numbers_of(structure_of(crystal))
    for symmetry in ("operations", "hall", "hm", "number"):
        found = read(cif_of(crystal, symmetry=symmetry, decimals=4))
        if symmetry == "number" and number in TWO_ORIGINS:
            assert "has two origins" in refused(found, Reason.UNREADABLE).message
        else:
            # Four decimals move an atom by up to 5e-5 cells along each vector; merging images halves that at least.
            shift = 2e-4 * float(np.linalg.norm(crystal.lattice, axis=1).sum())
            assert_same_crystal(only(found), expected, crystal.fractional, crystal.lattice, atol=shift)


def test_a_crystal_comes_with_all_that_the_file_says() -> None:
    salt = only(read(SALT, "folder/salt-1.cif"))
    assert (salt.id, salt.source, salt.pbc, dict(salt.labels)) == ("salt-1", "folder/salt-1.cif", (True,) * 3, {})
    assert salt.numbers.tolist() == [11] * 4 + [17] * 4
    assert salt.numbers.flags.writeable
    np.testing.assert_array_equal(salt.lattice, 5.64 * np.eye(3))
    assert salt.positions[:4].sum() == pytest.approx(6 * 2.82)


@pytest.mark.parametrize(
    "change",
    [
        ("5.64\n", "5.640(2)\n"),
        ("5.64\n", "'5.64'\n"),
        ("Na+ 0 0 0 1", "Na1+ 0.0(3) .0 0e0 1.00(2)"),
        ("Na+ 0 0 0 1", "'Na+' '0' 0 0 ."),
        ("Na+ 0 0 0 1", "? 0 0 0 ?"),
        ("Na1 Na+", "Na1 NA"),
        ("Na1 Na+", '"Na 1" na'),
        ("Na+ 0 0 0 1", "Na 1 1 -1 0.9999"),
        ("\n", "\r\n"),
        ("\n", "\r"),
        ("data_salt", "# caf\xe9 \u03b1\ndata_salt"),
        ("data_salt", "DATA_salt"),
        ("_atom_site_fract_x", "_ATOM_SITE_FRACT_X"),
        ("_symmetry_space_group_name_H-M 'F m -3 m'", "_space_group_IT_number 225"),
        ("_symmetry_space_group_name_H-M 'F m -3 m'", "_symmetry_Int_Tables_number '225'"),
        ("_symmetry_space_group_name_H-M 'F m -3 m'", "_space_group_name_Hall '-F 4 2 3'"),
        ("'F m -3 m'", "Fm-3m"),
        ("'F m -3 m'", "'F m -3 m'\nloop_\n_symmetry_equiv_pos_as_xyz\n?"),
        (
            "_symmetry_space_group_name_H-M 'F m -3 m'",
            "_space_group_name_Hall nonsense\n_space_group_name_H-M_alt Fm-3m",
        ),
    ],
)
def test_ways_to_write_salt(change: tuple[str, str]) -> None:
    text = SALT.replace(*change)
    assert text != SALT
    salt = only(read(text))
    assert_same_crystal(salt, [11] * 4 + [17] * 4, SALT_POINTS, 5.64 * np.eye(3), atol=1e-12)


SALT_POINTS = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
SALT_POINTS = np.concatenate([SALT_POINTS, SALT_POINTS + 0.5])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encodings(encoding: str) -> None:
    text = SALT.replace("data_salt", "# r\xf6ntgen\ndata_salt\n_publ_author_name 'J. Caf\xe9'").replace(
        "Na1 ", "'Na1\xb4' "
    )
    assert len(only(read(text.encode(encoding)))) == 8


def test_operations_come_before_symbols() -> None:
    text = SALT.replace("'F m -3 m'", "'F m -3 m'\n_space_group_symop_operation_xyz 'x, y, z'")
    assert len(only(read(text))) == 2


def test_a_file_without_symmetry_lists_its_whole_cell_as_it_stands() -> None:
    crystal = only(read(sites("O 0.1 -0.2 1.3")))
    np.testing.assert_allclose(fractional(crystal), [[0.1, -0.2, 1.3]], atol=1e-15)


def test_one_site_needs_no_loop() -> None:
    text = cell() + "_atom_site_label Po1\n_atom_site_fract_x 0\n_atom_site_fract_y 0\n_atom_site_fract_z 0\n"
    assert only(read(text)).numbers.tolist() == [84]


def test_dummy_sites_are_no_atoms() -> None:
    tags = ("label", "fract_x", "fract_y", "fract_z", "calc_flag")
    assert only(read(sites("O1 0 0 0 d", "X1 . . . dum", "Fe1 0.5 0 0 'calc'", tags=tags))).numbers.tolist() == [8, 26]
    assert "dummy" in refused(read(sites("X1 . . . dum", tags=tags)), Reason.EMPTY).message


HEXAGONAL = cell(gamma=120)


def test_cartesian_sites_follow_the_cell_or_the_matrix() -> None:
    tags = "loop_\n_atom_site_type_symbol\n_atom_site_Cartn_x\n_atom_site_Cartn_y\n_atom_site_Cartn_z\n"
    plain = only(read(HEXAGONAL + tags + "O 1 2 3\n"))
    np.testing.assert_allclose(plain.positions, [[1, 2, 3]], atol=1e-14)
    # b along y instead of a along x.
    a = 5.64 * np.array([np.sqrt(3) / 2, -0.5, 0])
    matrix = np.array([a, [0, 5.64, 0], [0, 0, 5.64]]).T
    told = "".join(
        f"_atom_sites_Cartn_tran_matrix_{i}{j} {matrix[i - 1, j - 1]}\n" for i in (1, 2, 3) for j in (1, 2, 3)
    )
    told += "_atom_sites_Cartn_tran_vector_1 0.5\n_atom_sites_Cartn_transform_axes 'b along y'\n"
    point = matrix @ [0.1, 0.2, 0.3] + [0.5, 0, 0]
    moved = only(read(HEXAGONAL + told + tags + "O {!r} {!r} {!r}\n".format(*point.tolist())))
    np.testing.assert_allclose(fractional(moved), [[0.1, 0.2, 0.3]], atol=1e-14)
    inverse = np.linalg.inv(matrix)
    told = "".join(
        f"_atom_sites_fract_tran_matrix_{i}{j} {inverse[i - 1, j - 1]}\n" for i in (1, 2, 3) for j in (1, 2, 3)
    )
    moved = only(read(HEXAGONAL + told + tags + "O {!r} {!r} {!r}\n".format(*(matrix @ [0.1, 0.2, 0.3]).tolist())))
    np.testing.assert_allclose(fractional(moved), [[0.1, 0.2, 0.3]], atol=1e-14)
    words = HEXAGONAL + "_atom_sites_Cartn_transform_axes 'b along y'\n" + tags + "O 1 2 3\n"
    assert "in words" in refused(read(words), Reason.UNREADABLE).message


def test_cartesian_sites_are_expanded_too() -> None:
    text = SALT.replace("fract_", "Cartn_").replace("0.5 0.5 0.5", "2.82 2.82 2.82")
    assert_same_crystal(only(read(text)), [11] * 4 + [17] * 4, SALT_POINTS, 5.64 * np.eye(3), atol=1e-12)


REFUSED: dict[str, tuple[str | bytes, Reason, str]] = {
    "nothing at all": ("", Reason.EMPTY, "holds no data_ block"),
    "comments only": ("# nothing\n\n", Reason.EMPTY, "holds no data_ block"),
    "binary": (bytes(range(256)), Reason.UNREADABLE, "is no CIF"),
    "a web page": ("<html><body>404</body></html>", Reason.UNREADABLE, "is no CIF: line 1 of the block"),
    "a block of authors": ("data_global\n_publ_author_name 'A. Nobody'\n", Reason.EMPTY, "lists no atoms"),
    "an empty loop": (sites(), Reason.EMPTY, "lists no atoms"),
    "sites without positions": (cell() + "loop_\n_atom_site_label\nFe1\n", Reason.UNREADABLE, "without positions"),
    "two coordinates": (
        sites("Fe 0 0", tags=("label", "fract_x", "fract_y")),
        Reason.UNREADABLE,
        "no _atom_site_fract_z",
    ),
    "no cell": (SALT.replace("_cell_length_b 5.64\n", ""), Reason.UNREADABLE, "has no _cell_length_b"),
    "unknown cell": (SALT.replace("b 5.64", "b ?"), Reason.UNREADABLE, "has no _cell_length_b"),
    "words in the cell": (
        SALT.replace("b 5.64", "b long"),
        Reason.UNREADABLE,
        "_cell_length_b long; expected a number",
    ),
    "a cell of nan": (SALT.replace("b 5.64", "b nan"), Reason.NON_FINITE, "_cell_length_b nan"),
    "an endless cell": (SALT.replace("b 5.64", "b 1e400"), Reason.NON_FINITE, "_cell_length_b 1e400; expected"),
    "a negative length": (sites("O 0 0 0", a=-5), Reason.UNREADABLE, "no cell has lengths -5, 5.64, 5.64"),
    "impossible angles": (
        sites("O 0 0 0").replace("alpha 90", "alpha 20").replace("beta 90", "beta 160"),
        Reason.UNREADABLE,
        "and angles 20, 160, 90",
    ),
    "an angle beyond 180": (
        sites("O 0 0 0").replace("gamma 90", "gamma 190"),
        Reason.UNREADABLE,
        "and angles 90, 90, 190; check _cell_length_* and _cell_angle_*",
    ),
    "a flat angle": (sites("O 0 0 0").replace("gamma 90", "gamma 180"), Reason.UNREADABLE, "no cell has"),
    "a position of nan": (sites("O 0 nan 0"), Reason.NON_FINITE, "has coordinate nan"),
    "an unknown position": (sites("O 0 0 0", "Fe 0 0 ?"), Reason.UNREADABLE, "site number 2 has coordinate ?"),
    "a position in words": (SALT.replace("Na+ 0 0", "Na+ 1/4 0"), Reason.UNREADABLE, "site Na1 has coordinate 1/4"),
    "a short row": (SALT + "Br1 Br\n", Reason.UNREADABLE, "Wrong number of values"),
    "a name without a value": (SALT + "_chemical_name_common\n", Reason.UNREADABLE, "has no value"),
    "a name twice": (SALT + "_cell_length_a 4\n", Reason.UNREADABLE, "duplicate tag"),
    "an open quote": (SALT + "_chemical_name_common 'salt\n", Reason.UNREADABLE, "unterminated"),
    "an open text field": (SALT + "_chemical_name_common\n;salt\n", Reason.UNREADABLE, "unterminated text field"),
    "element X": (sites("X 0 0 0"), Reason.UNKNOWN_ELEMENT, "type symbol X, which is no element"),
    "element Xx1": (sites("Xx1 0 0 0", tags=("label", "fract_x", "fract_y", "fract_z")), Reason.UNKNOWN_ELEMENT, "Xx1"),
    "label CA1": (sites("CA1 0 0 0", tags=("label", "fract_x", "fract_y", "fract_z")), Reason.UNKNOWN_ELEMENT, "label"),
    "an unknown symbol": (sites("? 0 0 0"), Reason.UNKNOWN_ELEMENT, "site number 1 has a label that"),
    "no element column": (sites("0 0 0", tags=("fract_x", "fract_y", "fract_z")), Reason.UNKNOWN_ELEMENT, "neither"),
    "half a site": (
        SALT.replace("0.5 0.5 0.5 1.0", "0.5 0.5 0.5 0.5(1)"),
        Reason.DISORDERED,
        "site Cl1 has occupancy 0.5",
    ),
    "an empty site": (SALT.replace("0.5 0.5 0.5 1.0", "0.5 0.5 0.5 0"), Reason.DISORDERED, "occupancy 0, expected 1"),
    "a mixed site": (sites("Fe 0 0 0", "Ni 0 0 0"), Reason.DISORDERED, "two elements on one place"),
    "an occupancy in words": (SALT.replace("0 0 0 1", "0 0 0 full"), Reason.UNREADABLE, "occupancy full"),
    "an unknown group": (SALT.replace("F m -3 m", "F oo"), Reason.UNREADABLE, "no space group is known as 'F oo'"),
    "a group beyond 230": (
        SALT.replace("_symmetry_space_group_name_H-M 'F m -3 m'", "_space_group_IT_number 231"),
        Reason.UNREADABLE,
        "known as '231'",
    ),
    "two origins": (SALT.replace("F m -3 m", "F d -3 m"), Reason.UNREADABLE, "write 'F d -3 m:1' or 'F d -3 m:2'"),
    "a group of another cell": (
        SALT.replace("c 5.64", "c 7.9"),
        Reason.UNREADABLE,
        "the symmetry operations do not fit the cell",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_why(case: str) -> None:
    text, reason, message = REFUSED[case]
    rejection = refused(read(text, "folder/bad-7.cif"), reason)
    assert (rejection.id, rejection.source) == ("bad-7", "folder/bad-7.cif")
    assert rejection.message.startswith("bad-7: ")
    assert message in rejection.message


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (["x,y,z", "nonsense"], "symmetry operation 'nonsense' cannot be understood"),
        (["x,y,z", "x,x,z"], "do not form a group"),
        (["x,y,z", "x/2,y,z"], "are no rotations"),
        (["x,y,z", "x+y,y,z"], "do not form a group"),
        (["x,y,z", "y,z,x"], "a product of two of them is missing"),
        (["-x,-y,-z"], "do not form a group"),
        (["x,y,z", "100x,y,z"], "cannot be understood"),
        (["x,y,z"] * 1537, "lists 1537 symmetry operations"),
    ],
)
def test_operations_must_be_a_group(operations: list[str], message: str) -> None:
    listed = "loop_\n_symmetry_equiv_pos_as_xyz\n" + "".join(f"'{operation}'\n" for operation in operations)
    text = SALT.replace("_symmetry_space_group_name_H-M 'F m -3 m'\n", listed)
    assert message in refused(read(text), Reason.UNREADABLE).message


def test_repeated_operations_count_once() -> None:
    listed = "loop_\n_symmetry_equiv_pos_site_id\n_symmetry_equiv_pos_as_xyz\n1 x,y,z\n2 'x, y+1, z'\n3 X,Y,Z-1\n"
    assert len(only(read(SALT.replace("_symmetry_space_group_name_H-M 'F m -3 m'\n", listed)))) == 2


def test_rhombohedral_cells_tell_their_axes() -> None:
    rows = (
        "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nBi1 0.234 0.234 0.234\n"
    )
    group = "_symmetry_space_group_name_H-M 'R -3 m'\n"
    primitive = cell().replace(" 90", " 57.3") + group + rows
    assert len(only(read(primitive))) == 2
    hexagonal = cell(gamma=120) + group + rows.replace("0.234 0.234 0.234", "0 0 0.234")
    assert len(only(read(hexagonal))) == 6


def test_axes_of_the_monoclinic_cell_are_checked() -> None:
    rows = "loop_\n_atom_site_label\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nO1 0.1 0.2 0.3\n"
    for gamma, symbol, atoms in ((100, "P 1 1 21/b", 4), (100, "P 21/c", 0)):
        found = read(cell(gamma=gamma) + f"_symmetry_space_group_name_H-M '{symbol}'\n" + rows)
        assert (len(only(found)) if atoms else refused(found, Reason.UNREADABLE).id) == (atoms or "file")


SYMBOLS = {"Fe": 26, "FE": 26, "fe": 26, "Fe3+": 26, "Fe+3": 26, "'O2-'": 8, "O-2": 8, "O": 8, "D": 1, "T": 1, "2H": 1}
SYMBOLS |= {"Ca2+": 20, "CA": 20, "Na1": 11, "Og": 118, "X": 0, "Xx": 0, "": 0, "?": 0, "Wat": 0, "FeO": 0, "3": 0}
LABELS = {"Fe1": 26, "FE1": 0, "Ca1": 20, "CA1": 0, "C1": 6, "C": 6, "OW1": 8, "OA": 8, "Oh1": 0, "KA": 19, "AlT1": 13}
LABELS |= {"NaM4": 11, "D1": 1, "DU1": 0, "MO1": 42, "Xx1": 0, "X": 0, "1": 0, "": 0, "Wat": 0}


@pytest.mark.parametrize("text", SYMBOLS)
def test_type_symbols(text: str) -> None:
    assert element_of_symbol(text) == SYMBOLS[text]


@pytest.mark.parametrize("text", LABELS)
def test_labels(text: str) -> None:
    assert element_of_label(text) == LABELS[text]
