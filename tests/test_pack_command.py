"""`screening pack`: exact from any format, totals that add up, and nothing half-written whatever stops it."""

import csv
import gzip
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.db
import numpy as np
import polars
import psutil
import pytest
from ase import Atoms
from made import PERIODIC_KINDS, assert_same, made_batch, made_crystals

from screening.crystals.crystal import Crystal, Reason, Rejection
from screening.crystals.elements import SYMBOLS
from screening.crystals.pack import Tally, kind_of, known_bytes, pack
from screening.crystals.packed import PackedCrystals
from screening.crystals.read import read
from screening.crystals.validate import CrystalLimits
from screening.crystals.write import write
from screening.errors import InputError, ResourceError

pytestmark = pytest.mark.native

COMMAND = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; from screening.cli import main; main()"]


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)  # type: ignore[call-overload, no-any-return]


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that takes seconds to pack."""
    path = tmp_path_factory.mktemp("many") / "many.extxyz"
    write(made_batch(3000), path, format="extxyz")
    content = path.read_bytes()
    with path.open("wb") as file:
        for k in range(12):
            file.write(content.replace(b"made-0", b"copy-%02d-" % k))
    return path


# --- from and to every format ----------------------------------------------------------------------------------


def as_cif_table(crystals: Sequence[Crystal], folder: Path) -> list[str]:
    write(crystals, folder / "cifs", format="cif")
    return [path.read_text() for path in sorted((folder / "cifs").iterdir())]


def make_input(kind: str, crystals: Sequence[Crystal], folder: Path) -> Path:
    path = folder / f"in.{kind}"
    MAKERS[kind](crystals, path)
    return path


def make_text(crystals: Sequence[Crystal], path: Path) -> None:
    write(crystals, path, format="jsonl" if "jsonl" in path.name else "extxyz")


def make_cifs(crystals: Sequence[Crystal], path: Path) -> None:
    write(crystals, path, format="cif")


def make_tar(crystals: Sequence[Crystal], path: Path) -> None:
    make_cifs(crystals, path.parent / "cifs")
    with tarfile.open(path, "w:gz") as archive:
        for member in sorted((path.parent / "cifs").iterdir()):
            archive.add(member, member.name)


def make_csv(crystals: Sequence[Crystal], path: Path) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["material_id", "cif", "e_form"])
        for crystal, text in zip(crystals, as_cif_table(crystals, path.parent), strict=True):
            rows.writerow([crystal.id, text, crystal.labels.get("formation_energy_per_atom", "")])


def make_parquet(crystals: Sequence[Crystal], path: Path) -> None:
    columns = {"id": [c.id for c in crystals], "cif": as_cif_table(crystals, path.parent)}
    polars.DataFrame(columns).write_parquet(path)


def make_cgcnn(crystals: Sequence[Crystal], path: Path) -> None:
    path.mkdir()
    (path / "id_prop.csv").write_text("".join(f"{c.id},{k}.5\n" for k, c in enumerate(crystals)))
    for crystal, text in zip(crystals, as_cif_table(crystals, path.parent), strict=True):
        (path / f"{crystal.id}.cif").write_text(text)


def make_poscars(crystals: Sequence[Crystal], path: Path) -> None:
    path.mkdir()
    for crystal in crystals:
        (path / f"{crystal.id}.vasp").write_text(poscar(crystal))


def make_database(crystals: Sequence[Crystal], path: Path) -> None:
    connect: Any = ase.db.connect
    with connect(path) as database:
        for c in crystals:
            database.write(Atoms(c.numbers, c.positions, cell=c.lattice, pbc=c.pbc), material_id=c.id)


def make_packed(crystals: Sequence[Crystal], path: Path) -> None:
    pack([make_input("extxyz", crystals, path.parent)], path)


MAKERS = {
    "extxyz": make_text,
    "extxyz.gz": make_text,
    "jsonl": make_text,
    "jsonl.gz": make_text,
    "cif": make_cifs,
    "tar.gz": make_tar,
    "csv": make_csv,
    "parquet": make_parquet,
    "cgcnn": make_cgcnn,
    "vasp": make_poscars,
    "db": make_database,
    "h5": make_packed,
}


def poscar(crystal: Crystal) -> str:
    order = np.argsort(crystal.numbers, kind="stable")
    kinds, counts = np.unique(crystal.numbers, return_counts=True)
    rows = [*crystal.lattice, *crystal.positions[order]]
    lines = [" ".join(repr(float(x)) for x in row) for row in rows]
    head = [" ".join(SYMBOLS[k] for k in kinds), " ".join(map(str, counts)), "Cartesian"]
    return "\n".join(["made", "1.0", *lines[:3], *head, *lines[3:], ""])


EXACT = ("extxyz", "extxyz.gz", "db", "h5")


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_packed_is_what_was_read(tmp_path: Path, kind: str) -> None:
    crystals = made_crystals(12, kinds=PERIODIC_KINDS, forces=kind in ("extxyz", "h5"))
    source = make_input(kind, crystals, tmp_path)
    tally = pack([source], tmp_path / "out.h5")
    assert (tally.read, tally.accepted, tally.rejected.total()) == (12, 12, 0)
    assert tally.atoms == sum(map(len, crystals))
    with PackedCrystals(tmp_path / "out.h5") as packed:
        for ours, read_again, made in zip(packed, read(source), crystals, strict=True):
            assert isinstance(read_again, Crystal)
            assert_same(ours, read_again)
            if kind in ("extxyz", "extxyz.gz", "h5"):
                assert_same(ours, made, source=False)
            elif kind in EXACT:
                np.testing.assert_array_equal(ours.positions, made.positions)
                np.testing.assert_array_equal(ours.lattice, made.lattice)
            assert ours.id == made.id
            assert sorted(ours.numbers.tolist()) == sorted(made.numbers.tolist())
            np.testing.assert_allclose(abs(np.linalg.det(ours.lattice)), abs(np.linalg.det(made.lattice)), rtol=1e-5)


@pytest.mark.parametrize("name", ["out.extxyz", "out.xyz.gz", "out.jsonl"])
def test_writes_back(tmp_path: Path, name: str) -> None:
    crystals = made_crystals(9, kinds=PERIODIC_KINDS)
    source = make_input("h5", crystals, tmp_path)
    assert pack([source], tmp_path / name).accepted == 9
    for ours, made in zip(read(tmp_path / name), crystals, strict=True):
        assert isinstance(ours, Crystal)
        assert (ours.id, ours.numbers.tolist(), ours.labels) == (made.id, made.numbers.tolist(), made.labels)
        np.testing.assert_allclose(ours.lattice, made.lattice, rtol=1e-12, atol=1e-12)


def test_writes_a_folder_of_cif(tmp_path: Path) -> None:
    source = make_input("extxyz", made_crystals(4, kinds=PERIODIC_KINDS), tmp_path)
    pack([source], tmp_path / "cifs", to="cif")
    assert sorted(p.name for p in (tmp_path / "cifs").iterdir()) == [f"made-{k:06d}.cif" for k in range(4)]
    assert len(list(read(tmp_path / "cifs"))) == 4


# --- totals ----------------------------------------------------------------------------------------------------


def messy(folder: Path) -> Path:
    """Good and bad files, an archive, a file of no format."""
    made = folder / "messy"
    made.mkdir()
    crystals = made_crystals(40, kinds=PERIODIC_KINDS)
    write(crystals[:20], made / "a.extxyz", format="extxyz")
    write(crystals[10:30], made / "b.jsonl", format="jsonl")
    write(crystals[30:], made / "cifs", format="cif")
    for k in range(5):
        (made / "cifs" / f"bad-{k}.cif").write_text("data_x\nloop_\n_atom_site_label\n" + "'" * k)
    (made / "nan.xyz.gz").write_bytes(gzip.compress(b'1\nLattice="4 0 0 0 4 0 0 0 4"\nO 0 nan 0\n'))
    (made / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    (made / "README").write_text("notes")
    return made


def test_totals_add_up_and_everything_is_there(tmp_path: Path) -> None:
    source = messy(tmp_path)
    entries = list(read(source))
    seen: list[tuple[int, int]] = []
    tally = pack(
        [source],
        tmp_path / "out.h5",
        rejections=tmp_path / "refused.csv",
        progress=lambda t: seen.append((t.read, t.weight)),
    )
    assert tally.read == len(entries) == tally.accepted + tally.rejected.total()
    assert tally.accepted == 40
    assert tally.rejected[Reason.DUPLICATE_ID] == 10
    assert tally.rejected[Reason.NON_FINITE] == 1
    assert tally.rejected[Reason.UNREADABLE] + tally.rejected[Reason.EMPTY] >= 5
    assert (tally.skipped, tally.first_skipped) == (1, str(source / "README"))
    assert seen == sorted(seen)
    assert seen[-1][0] == tally.read
    refused = [e for e in entries if isinstance(e, Rejection)]
    with PackedCrystals(tmp_path / "out.h5") as packed:
        assert (len(packed), packed.rejected) == (40, tally.rejected.total())
        assert packed.rejections() == refused
        assert packed.inputs == [str(source)]
        assert [c.id for c in packed] == [e.id for e in entries if isinstance(e, Crystal)]
    with (tmp_path / "refused.csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["id", "source", "reason", "message"]
    assert rows == [[r.id, r.source, str(r.reason), r.message] for r in refused]
    again = pack([tmp_path / "out.h5"], tmp_path / "again.h5")
    assert (again.read, again.accepted) == (tally.read, tally.accepted)


def test_bytes_do_not_depend_on_workers(tmp_path: Path, many: Path) -> None:
    source = messy(tmp_path)
    for workers in (1, 3):
        pack([source, many], tmp_path / f"{workers}.h5", workers=workers)
    assert (tmp_path / "1.h5").read_bytes() == (tmp_path / "3.h5").read_bytes()


def test_packing_a_folder_into_itself_twice(tmp_path: Path) -> None:
    write(made_crystals(5, kinds=PERIODIC_KINDS), tmp_path / "a.extxyz", format="extxyz")
    outputs = {"output": tmp_path / "out.h5", "rejections": tmp_path / "refused.csv"}
    first = pack([tmp_path], **outputs)  # type: ignore[arg-type]
    second = pack([tmp_path], **outputs)  # type: ignore[arg-type]
    assert (first.read, second.read, second.accepted, second.skipped) == (5, 5, 5, 0)


# --- refusals of ours ------------------------------------------------------------------------------------------


def test_no_other_file_is_overwritten(tmp_path: Path) -> None:
    source = make_input("extxyz", made_crystals(3, kinds=PERIODIC_KINDS), tmp_path)
    before = source.read_bytes()
    other = tmp_path / "other.txt"
    other.write_text("mine")
    with pytest.raises(InputError, match="is there already and no HDF5 file"):
        pack([source], other, to="h5")
    for output, to, rejections in ((source, None, None), (source, "h5", None), (tmp_path / "o.h5", None, source)):
        with pytest.raises(InputError, match="is one of the inputs"):
            pack([source], output, to=to, rejections=rejections)
    assert (source.read_bytes(), other.read_text()) == (before, "mine")
    assert sorted(tmp_path.iterdir()) == [source, other]


def test_a_packed_file_is_not_packed_into_itself(tmp_path: Path) -> None:
    packed, linked = tmp_path / "a.h5", tmp_path / "b.h5"
    pack([make_input("extxyz", made_crystals(3, kinds=PERIODIC_KINDS), tmp_path)], packed)
    linked.symlink_to(packed)
    before = packed.read_bytes()
    for output in (packed, linked):
        with pytest.raises(InputError, match="is one of the inputs; choose another name for the output"):
            pack([packed], output, limits=CrystalLimits(max_atoms=1))
    assert packed.read_bytes() == before


def test_nothing_to_pack_is_told(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("")
    for output in ("out.h5", "out.extxyz"):
        with pytest.raises(
            InputError, match=r"the inputs hold no crystal; 1 files are of no known format, the first .*a.txt"
        ):
            pack([tmp_path / "in"], tmp_path / output)
    with pytest.raises(InputError, match="does not tell what to write"):
        pack([tmp_path / "in"], tmp_path / "out")
    with pytest.raises(InputError, match="cannot write 'pdf'"):
        pack([tmp_path / "in"], tmp_path / "out", to="pdf")
    with pytest.raises(InputError, match="there is no folder"):
        pack([tmp_path / "in"], tmp_path / "out.h5", rejections=tmp_path / "none" / "r.csv")
    assert [p.name for p in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.h5", "h5"), ("a.HDF5", "h5"), ("a.xyz", "extxyz"), ("a.extxyz.gz", "extxyz"), ("a.jsonl.gz", "jsonl")],
)
def test_the_name_says_what_to_write(name: str, kind: str) -> None:
    assert kind_of(Path(name)) == kind


def test_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(b"x" * 10)
    (tmp_path / "b.json.gz").write_bytes(b"x" * 10)
    assert known_bytes([tmp_path / "a.xyz"] * 2) == 20
    assert known_bytes([tmp_path / "a.xyz", tmp_path / "b.json.gz"]) is None
    assert known_bytes([tmp_path]) is None
    source = tmp_path / "c.extxyz"
    write(made_batch(2000), source, format="extxyz")
    last = Tally()

    def keep(tally: Tally) -> None:
        last.weight = tally.weight

    pack([source], tmp_path / "c.h5", progress=keep)
    # The line breaks between blocks may be counted twice.
    assert last.weight == pytest.approx(known_bytes([source]), rel=0.01)


# --- the command -----------------------------------------------------------------------------------------------


def test_command(tmp_path: Path) -> None:
    source = messy(tmp_path)
    ended = run("pack", source, "-o", tmp_path / "out.h5", "--workers", 2)
    assert ended.returncode == 0
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    counts = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in lines[:3]}
    assert counts["read"] == counts["accepted"] + counts["refused"]
    assert any(line.startswith("  duplicate_id 10, the first in ") for line in lines)
    assert lines[-1] == f"files of no known format, passed over: 1, the first {source / 'README'}"
    quiet = run(
        "pack",
        source,
        "-o",
        tmp_path / "out.h5",
        "-q",
        "--max-atoms",
        3,
        "--min-distance",
        1,
        "--min-volume-per-atom",
        1,
    )
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    with PackedCrystals(tmp_path / "out.h5") as packed:
        assert json.loads(packed.attributes["limits"]) == {
            "max_atoms": 3,
            "min_distance": 1.0,
            "min_volume_per_atom": 1.0,
        }
        assert packed[:].atom_counts.max() <= 3


def test_command_tells_errors_in_a_line(tmp_path: Path) -> None:
    ended = run("pack", tmp_path / "none.cif", "-o", tmp_path / "out.h5")
    assert ended.returncode == InputError.exit_code
    assert ended.stderr == f"screening: {tmp_path / 'none.cif'}: no such file or folder\n"
    assert ended.stdout == ""
    assert run("pack", tmp_path).returncode == 2
    assert run("pack", tmp_path, "-o", "x.h5", "--min-distance", -1).returncode == 2


def test_help_and_version() -> None:
    assert "pack" in run("--help").stdout
    shown = run("pack", "--help", env={**os.environ, "COLUMNS": "200"}).stdout
    for option in (
        "--output",
        "--to",
        "--workers",
        "--max-atoms",
        "--min-distance",
        "--min-volume-per-atom",
        "--rejections",
        "--quiet",
    ):
        assert option in shown
    version = run("--version")
    assert version.returncode == 0
    assert version.stdout.startswith("screening ")


def test_doctor(tmp_path: Path) -> None:
    ended = run("doctor", "--json", "--folder", tmp_path)
    found = json.loads(ended.stdout)
    assert found["broken"] == (ended.returncode != 0)
    assert len(found["checks"]) > 5


# --- stopping it -----------------------------------------------------------------------------------------------


def started_writing(process: subprocess.Popen[str], part: Path) -> list[psutil.Process]:
    """Wait until some of the output is there, and give the processes at work."""
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 300_000):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return psutil.Process(process.pid).children(recursive=True)


def all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_stopped_in_the_middle(tmp_path: Path, many: Path, how: signal.Signals, code: int, old: bool) -> None:
    output, part, listed = (tmp_path / name for name in ("out.h5", "out.h5.part", "r.csv"))
    if old:
        pack([make_input("extxyz", made_crystals(3, kinds=PERIODIC_KINDS), tmp_path)], output)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    # Nobody ever writes to the second input, so that the run cannot end by itself.
    os.mkfifo(tmp_path / "never.extxyz")
    inputs = [many, tmp_path / "never.extxyz"]
    with start("pack", *inputs, "-o", output, "--workers", 2 if old else 1, "--rejections", listed) as process:
        children = started_writing(process, part)
        # As Ctrl-C in a terminal does, the signal reaches the whole group.
        os.killpg(process.pid, how) if how == signal.SIGINT else process.send_signal(how)
        _, errors = process.communicate(timeout=30)
    (tmp_path / "never.extxyz").unlink()
    assert process.returncode == code
    assert all_gone(children)
    if how == signal.SIGKILL:
        assert part.exists()
        assert output.exists() == old
        assert not old or output.read_bytes() == before[output.name]
        pack([make_input("extxyz", made_crystals(5, kinds=PERIODIC_KINDS), tmp_path)], output)
        assert len(list(read(output))) == 5
        assert not part.exists()
    else:
        # On a slow machine a line of progress comes before.
        assert errors.splitlines()[-1] == f"screening: stopped by {how.name}"
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_disk_ends_with_its_exit_code(tmp_path: Path, many: Path) -> None:
    output = tmp_path / "out.h5"
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))  # noqa: E731
    ended = run("pack", many, "-o", output, "--workers", 2, preexec_fn=limit)
    assert ended.returncode == ResourceError.exit_code
    assert "a size limit was reached; free some space" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def peak_rss(script: str) -> int:
    """The most memory, in bytes, that a fresh process took."""
    text = f"import sys; sys.path[:0] = {sys.path!r}\n" + textwrap.dedent(script)
    text += "\nimport resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    ended = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=200, check=True)
    return int(ended.stdout) * 1024


def test_memory_does_not_grow_with_the_input(tmp_path: Path, many: Path) -> None:
    with many.open("rb") as file:
        (tmp_path / "few.extxyz").write_bytes(file.read(many.stat().st_size // 10))

    def packing(source: Path) -> int:
        return peak_rss(
            f"from screening.crystals.pack import pack\npack([{str(source)!r}], {str(tmp_path / 'o.h5')!r})"
        )

    few, whole = packing(tmp_path / "few.extxyz"), packing(many)
    assert many.stat().st_size > 35e6
    assert whole - few < 8e6
