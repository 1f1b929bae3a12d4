"""Questions to results: the right rows, merged or not, in one order, with the right columns and structures."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import PERIODIC_KINDS, made_crystals
from pymatgen.core import Structure
from shards import predicted, write_run

from screening.crystals.batch import Crystals
from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.packed_writer import PackedWriter
from screening.errors import FileFormatError, InputError
from screening.query.doubts import doubts_of
from screening.query.query import Query
from screening.query.ranking import Best
from screening.store.merge import merge
from screening.store.read import Results
from screening.store.record import INPUT, RESULTS, SHARDS
from screening.store.schema import Status
from screening.store.shard import shard_ranges

CRYSTALS = replace(
    Crystals.of(made_crystals(120, seed=4, max_atoms=4, kinds=PERIODIC_KINDS)), sources=[f"{k}.cif" for k in range(120)]
)
REJECTIONS = [
    Rejection("made-000003", "b.cif", Reason.DUPLICATE_ID, "made-000003: is there already"),
    Rejection("odd\ud800", "c.cif", Reason.TINY_VOLUME, "Ünlucky\nwith two lines"),
]
FAILED = {7: "7: NaN", 119: "119: é"}
EXPECTED = predicted(CRYSTALS, 0, 120, failed=FAILED)
GAP, ENERGY = EXPECTED.values["band_gap"], EXPECTED.values["formation_energy_per_atom"]


def run_of(folder: Path) -> Path:
    return write_run(folder, CRYSTALS, (17, 40, 41, 90), rejections=REJECTIONS, failed=FAILED)


@pytest.fixture(scope="module", params=["merged", "shards"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, merged and not: every answer is the same."""
    made = run_of(tmp_path_factory.mktemp("run") / "run")
    if request.param == "merged":
        merge(made)
    return made


# --- what a model may know nothing about -----------------------------------------------------------------------


def told_of(run: Path) -> list[str]:
    with Results(run) as results:
        return list(doubts_of(results))


def test_crystals_that_a_model_may_know_nothing_about_are_told_with_what_leaves_them_out(tmp_path: Path) -> None:
    lattice = 5.0 * np.eye(3)
    pairs = [
        Crystal("known", np.array([3, 8], np.uint8), np.eye(3)[:2], lattice),
        Crystal("unseen", np.array([3, 54], np.uint8), np.eye(3)[:2], lattice),
        Crystal("layer", np.array([3, 8], np.uint8), np.eye(3)[:2], lattice, pbc=(True, True, False)),
        Crystal("roomy", np.array([3, 8], np.uint8), np.eye(3)[:2], 2 * lattice),
        Crystal("failed", np.array([3, 54], np.uint8), np.eye(3)[:2], 2 * lattice),
    ]
    model = {"card": {"elements": [3, 8]}}
    made = write_run(tmp_path / "run", Crystals.of(pairs), failed={4: "4: NaN"}, model=model)
    told = told_of(made)
    assert [line.partition(";")[0].rpartition(" ")[2] for line in told] == ["1", "1", "1"]
    conditions = [line.split('"')[1] for line in told]
    left = [set(Query(made).where(condition).frame()["id"]) for condition in conditions]
    everything = {"known", "unseen", "layer", "roomy"}
    assert [everything - ids for ids in left] == [{"unseen"}, {"layer"}, {"layer", "roomy"}]
    assert told_of(write_run(tmp_path / "sound", Crystals.of(pairs[:1]), model=model)) == []
    assert told_of(write_run(tmp_path / "silent", Crystals.of(pairs[:2]))) == []


# --- rows ------------------------------------------------------------------------------------------------------


def test_rows_are_those_for_which_the_condition_holds(run: Path) -> None:
    frame = Query(run).where("band_gap > 1.5 AND formation_energy_per_atom < -0.5").frame()
    expected = np.flatnonzero((GAP > 1.5) & (ENERGY < -0.5))
    assert 5 < len(expected) < 60
    assert frame["row"].to_list() == expected.tolist()
    assert frame["id"].to_list() == [CRYSTALS.ids[row] for row in expected.tolist()]
    np.testing.assert_array_equal(frame["band_gap"].to_numpy(), GAP[expected])
    assert frame.columns[:3] == ["id", "formula", "nsites"]
    assert frame["formula"].to_list() == [EXPECTED.formulas[row] for row in expected.tolist()]


def test_conditions_add_up_and_change_nothing_before(run: Path) -> None:
    wide = Query(run).where("band_gap > 0")
    narrow = wide.where("formation_energy_per_atom < 0")
    assert narrow.count() == Query(run).where("band_gap > 0 AND formation_energy_per_atom < 0").count()
    assert narrow.count() < wide.count() == int((GAP > 0).sum())


@pytest.mark.parametrize("merged", [False, True])
def test_elements_that_training_has_not_seen_are_counted(tmp_path: Path, merged: bool) -> None:
    known = sorted({*CRYSTALS.numbers.tolist()})[::2]
    model = {"card": {"elements": known}}
    run = write_run(tmp_path / "run", CRYSTALS, (40,), rejections=REJECTIONS, failed=FAILED, model=model)
    if merged:
        merge(run)
    unseen = [len({*crystal.numbers.tolist()} - {*known}) for crystal in CRYSTALS]
    assert {0, 1, 2} <= set(unseen)
    everything = Query(run).status("all").columns("id", "unseen_elements").frame()
    assert everything["unseen_elements"].to_list() == [*unseen, None, None]
    for condition, of in (("unseen_elements = 0", [0]), ("unseen_elements IN (1, 2)", [1, 2])):
        found = Query(run).status("ok", "failed").where(condition).frame()["row"].to_list()
        assert found == [row for row, count in enumerate(unseen) if count in of]
    assert Query(run).status("all").where("unseen_elements IS NULL").frame()["row"].to_list() == [-1, -2]
    fewest = Query(run).status("ok", "failed").top(None, by="unseen_elements", descending=True).frame()["row"].to_list()
    assert fewest == sorted(range(len(unseen)), key=lambda row: -unseen[row])


def test_what_training_has_seen_may_be_unknown(run: Path) -> None:
    with pytest.raises(InputError, match="there is no column 'unseen_elements' in these results"):
        Query(run).where("unseen_elements = 0")


def test_elements_are_those_of_pymatgen(run: Path) -> None:
    sets = [{element.symbol for element in structure.composition} for structure in Query(run).structures()]
    rows = Query(run).frame()["row"].to_list()
    some = sorted(sets[0])[:2]
    asked: dict[str, list[str]] = {"all": some[:1], "any": some, "none": some[:1], "only": sorted(sets[0] | sets[1])}
    holds: dict[str, Any] = {
        "all": lambda has: has >= set(asked["all"]),
        "any": lambda has: bool(has & set(asked["any"])),
        "none": lambda has: not has & set(asked["none"]),
        "only": lambda has: has <= set(asked["only"]),
    }
    for which, symbols in asked.items():
        found = Query(run).elements(**{which: symbols}).frame()["row"].to_list()  # type: ignore[arg-type]
        assert found == [row for row, has in zip(rows, sets, strict=True) if holds[which](has)], which
        assert 0 < len(found) < 118
    assert Query(run).nelements(2, 3).count() == sum(2 <= len(has) <= 3 for has in sets)
    assert Query(run).nelements(1).count() == sum(len(has) == 1 for has in sets)
    shown = Query(run).columns("elements").frame()["elements"].to_list()
    assert shown == ["-".join(sorted(has)) for has in sets]


def test_statuses(run: Path) -> None:
    assert Query(run).count() == 118
    assert Query(run).status("all").count() == 122
    frame = Query(run).status("failed", "rejected", "duplicate").frame()
    assert frame.rows(named=True) == [
        {
            "id": id,
            "formula": EXPECTED.formulas[row] if row >= 0 else "",
            "nsites": int(EXPECTED.nsites[row]) if row >= 0 else None,
            "formation_energy_per_atom": None,
            "band_gap": None,
            "is_metal": None,
            "bulk_modulus": None,
            "status": status,
            "reason": reason,
            "message": message,
            "row": row,
        }
        for row, id, status, reason, message in (
            (7, "made-000007", "failed", "non_finite_prediction", "7: NaN"),
            (119, "made-000119", "failed", "non_finite_prediction", "119: é"),
            (-1, "made-000003", "duplicate", "duplicate_id", "made-000003: is there already"),
            (-2, "odd?", "rejected", "tiny_volume", "Ünlucky\nwith two lines"),
        )
    ]
    assert frame["nsites"].dtype == pl.UInt32
    assert Query(run).status("rejected").columns("nelements").frame()["nelements"].to_list() == [None]
    assert Query(run).status("all").nelements(0, 9).top(None, by="nsites").count() == 120, "unknown is never the best"
    assert Query(run).where("status = 'failed'").frame()["row"].to_list() == [7, 119]
    assert Query(run).where("reason = 'tiny_volume'").frame()["row"].to_list() == [-2]
    assert Query(run).status("ok").where("reason = 'tiny_volume'").count() == 0
    reasons = Query(run).status("all").columns("reason").frame()["reason"].drop_nulls().to_list()
    assert len(reasons) == 4
    with Results(run) as results:
        assert results.counts() == {Status.OK: 118, Status.REJECTED: 1, Status.DUPLICATE: 1, Status.FAILED: 2}


# --- order -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("descending", [False, True])
def test_the_best_are_the_best(run: Path, descending: bool) -> None:
    ok = np.flatnonzero(~np.isnan(GAP))
    order = ok[np.argsort(-GAP[ok] if descending else GAP[ok], kind="stable")]
    for count in (1, 10, 118, 1000, None):
        found = Query(run).top(count, by="band_gap", descending=descending).frame()
        assert found["row"].to_list() == order[:count].tolist()
    nearest = ok[np.argsort(np.abs(GAP[ok].astype(float) - 0.8), kind="stable")]
    assert Query(run).top(5, by="abs(band_gap - 0.8)").frame()["row"].to_list() == nearest[:5].tolist()
    assert Query(run).top(3).frame()["row"].to_list() == [0, 1, 2]
    # Of the rows that are not ok none has a gap, so none is ranked.
    assert Query(run).status("all").top(None, by="band_gap").count() == 118


@given(
    values=st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.5, float("nan"), 7.0]), max_size=60),
    count=st.none() | st.integers(1, 12),
    size=st.integers(1, 20),
    descending=st.booleans(),
)
def test_ties_go_by_place_however_the_stream_is_cut(
    values: list[float], count: int | None, size: int, descending: bool
) -> None:
    best = Best(count, descending=descending)
    column = np.array(values, np.float32)
    for start in range(0, len(values), size):
        part = column[start : start + size]
        best.add(part, np.arange(start, start + len(part)))
    ranked = sorted((-v if descending else v, k) for k, v in enumerate(values) if v == v)
    assert best.places().tolist() == [k for _, k in ranked[:count]]


def test_best_of_very_many() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5000, 200_000).astype(np.float32)
    best = Best(100)
    for start in range(0, len(values), 999):
        part = values[start : start + 999]
        best.add(part, np.arange(start, start + len(part)))
    assert best.places().tolist() == np.argsort(values, kind="stable")[:100].tolist()


# --- columns, frames, structures -------------------------------------------------------------------------------


def test_columns_come_in_the_order_they_were_asked_for(run: Path) -> None:
    query = Query(run).columns("gap", "ID", "volume_per_atom", "nelements", "status")
    frame = query.frame()
    assert frame.columns == ["band_gap", "id", "volume_per_atom", "nelements", "status"]
    assert frame.dtypes == [pl.Float32, pl.String, pl.Float32, pl.UInt8, pl.String]
    np.testing.assert_array_equal(frame["volume_per_atom"], np.delete(EXPECTED.volume_per_atom, [7, 119]))
    with pytest.raises(InputError, match=r"columns: there is no column 'bandgapp' .* did you mean band_gap"):
        query.columns("bandgapp")


@pytest.mark.parametrize("by", [None, "band_gap"])
def test_frames_are_the_frame_in_parts(run: Path, by: str | None) -> None:
    query = Query(run).status("all").columns("id", "row", "elements", "reason", "band_gap").top(None, by=by)
    parts = list(query.frames(25))
    assert [len(part) for part in parts[:-1]] == [25] * (len(parts) - 1)
    assert pl.concat(parts).equals(query.frame())
    assert [len(part) for part in Query(run).where("band_gap > 99").frames()] == [0]
    assert Query(run).where("band_gap > 99").frame().dtypes == Query(run).frame().dtypes


def test_structures_are_those_of_the_input_with_the_predictions(run: Path) -> None:
    best = Query(run).top(10, by="band_gap", descending=True)
    frame = best.frame()
    structures = best.structures()
    assert len(structures) == 10
    for row, structure in zip(frame.rows(named=True), structures, strict=True):
        assert isinstance(structure, Structure)
        crystal = CRYSTALS[row["row"]]
        np.testing.assert_allclose(structure.lattice.matrix, crystal.lattice)
        np.testing.assert_allclose(structure.cart_coords, crystal.positions, atol=1e-10)
        assert structure.properties["material_id"] == row["id"]
        assert structure.properties["band_gap"] == pytest.approx(row["band_gap"], rel=1e-6)
        assert str(np.float32(structure.properties["band_gap"])) == repr(structure.properties["band_gap"])


def test_sources_are_those_of_the_input(run: Path) -> None:
    frame = Query(run).status("all").columns("source", "id").top(None, by="band_gap", descending=True).frame()
    of = dict(zip(CRYSTALS.ids, CRYSTALS.sources, strict=True))
    assert len(frame) > 50
    assert frame["source"].to_list() == [of[id] for id in frame["id"].to_list()]
    every = Query(run).status("all").columns("source").frame()["source"].to_list()
    assert every == [*CRYSTALS.sources, *(one.source for one in REJECTIONS)]
    assert Query(run).where("reason = 'tiny_volume'").columns("source").frame()["source"].to_list() == ["c.cif"]


def test_sources_of_another_input_are_not_given(tmp_path: Path) -> None:
    merge(run_of(tmp_path / "run"))
    names = [f"other-{k}" for k in range(len(CRYSTALS))]
    with PackedWriter(tmp_path / "other.h5") as writer:
        writer.append(replace(CRYSTALS, ids=names), [replace(one, id="other") for one in REJECTIONS])
    asked = Query(tmp_path / "run", packed=tmp_path / "other.h5")
    for status in ("ok", "rejected"):
        with pytest.raises(FileFormatError, match="the input was replaced after the run had started"):
            asked.status(status).columns("source").frame()


def test_labels_of_the_input_are_not_taken_for_predictions(run: Path) -> None:
    crystal = next(c for c in Query(run).columns("id", "band_gap", "nsites").crystals())
    assert dict(crystal.labels) == {"band_gap": float(str(GAP[0]))}
    assert (crystal.forces, crystal.stress) == (None, None)


def test_a_crystal_without_atoms_is_told(run: Path) -> None:
    with pytest.raises(InputError, match="'made-000003': was refused by packing, so there are no atoms of it"):
        list(Query(run).status("all").crystals())
    assert len(list(Query(run).status("failed").crystals())) == 2


# --- merged or not ---------------------------------------------------------------------------------------------


def test_a_run_that_is_not_done_can_be_asked(tmp_path: Path) -> None:
    made = run_of(tmp_path / "run")
    for start, _, path in shard_ranges(made / SHARDS):
        if start in (17, 41):
            path.unlink()
    query = Query(made)
    assert (query.results.missing, query.results.expected, len(query.results)) == (72, 122, 50)
    assert not query.results.is_merged
    there = [*range(17), 40, *range(90, 119)]
    there.remove(7)
    assert query.frame()["row"].to_list() == there
    assert query.top(3, by="band_gap").frame()["row"].to_list() == sorted(there, key=lambda row: GAP[row])[:3]
    for _, _, path in shard_ranges(made / SHARDS):
        path.unlink()
    (made / SHARDS).rmdir()
    assert Query(made).count() == 0
    assert Query(made).status("all").count() == 2


def test_a_merged_file_can_be_moved_away(tmp_path: Path) -> None:
    made = run_of(tmp_path / "run")
    moved = merge(made).rename(tmp_path / "elsewhere.h5")
    query = Query(moved)
    assert query.results.is_merged
    assert query.count() == 118
    with pytest.raises(InputError, match=r"the packed input of .* is not there; say where it is with --input"):
        query.structures()
    assert len(Query(moved, packed=made / INPUT).top(2).structures()) == 2
    other = write_run(tmp_path / "other", Crystals.of(made_crystals(120, seed=4, prefix="other")))
    with pytest.raises(FileFormatError, match=r"row 0 is 'other-000000', but 'made-000000' in the results"):
        Query(moved, packed=other / INPUT).structures()


def test_damaged_results_are_told(tmp_path: Path) -> None:
    made = run_of(tmp_path / "run")
    path = merge(made)
    content = bytearray(path.read_bytes())
    with Results(made) as results:
        chunk = results._parts[0]._file["targets/band_gap"].id.get_chunk_info(0)  # type: ignore[attr-defined]
    content[chunk.byte_offset + chunk.size // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"cannot read it as results .* make it again with `screening merge`"):
        Query(made).where("band_gap > 0").frame()
    path.write_bytes(content[:1000])
    with pytest.raises(FileFormatError, match="cannot open it as results"):
        Query(made)
    with pytest.raises(FileFormatError, match="but not of results"):
        Query(made / INPUT)


def test_a_damaged_shard_is_told(tmp_path: Path) -> None:
    made = run_of(tmp_path / "run")
    path = shard_ranges(made / SHARDS)[1][2]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileFormatError, match=f"{path.name}.*remove it"):
        Query(made).where("band_gap > 0").frame()


# --- arguments -------------------------------------------------------------------------------------------------


def test_arguments_that_cannot_be_used(run: Path, tmp_path: Path) -> None:
    query = Query(run)
    with pytest.raises(InputError, match="status: 'fine' is none; expected ok, rejected, duplicate, failed or all"):
        query.status("fine")
    with pytest.raises(InputError, match="top: expected at least 1 row, got 0"):
        query.top(0)
    with pytest.raises(InputError, match="by: there is no column 'bulk'"):
        query.top(3, by="bulk")
    with pytest.raises(InputError, match="nelements: 4 to 2 holds no number"):
        query.nelements(4, 2)
    with pytest.raises(InputError, match="elements: all is a list of symbols, got 'Li'"):
        query.elements(all="Li")
    with pytest.raises(InputError, match="any: 'Lo' is no element"):
        query.elements(any=["Lo"])
    with pytest.raises(InputError, match="columns: band_gap is named twice; name each column once"):
        query.columns("band_gap", "id", "gap")
    with pytest.raises(InputError, match=r"holds no run\.json"):
        Query(tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        Query(tmp_path / "none")


def test_the_face_of_the_package_names_it(run: Path) -> None:
    import screening

    assert screening.Query is Query
    assert (Path(run) / RESULTS).exists() == screening.Results(run).is_merged
