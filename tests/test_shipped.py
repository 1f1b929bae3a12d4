"""Models by name: shipped ones, `default`, files, folders of runs; how they are listed, and that they are packaged."""

import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase.build import bulk
from made import PERIODIC_KINDS, made_crystals
from typer.testing import CliRunner, Result

import screening
from screening.cli import app
from screening.crystals.batch import Crystals
from screening.crystals.convert import crystal_from_ase
from screening.crystals.write import write
from screening.errors import FileFormatError, InputError
from screening.models.checkpoint import save
from screening.models.header import Card, read_card
from screening.models.potential_files import required_energy
from screening.models.registry import build
from screening.predictions import Target
from screening.pretrained import shipped

TARGETS = (
    Target("band_gap", "eV"),
    Target("is_metal", "1", "classification"),
)
CARD = Card(
    title="a tiny one",
    elements=(1, 8),
    licence="CC-BY-4.0",
    limits="knows nothing",
    metrics={"val": {"band_gap": {"mae": 0.25, "count": 7}}},
)


def tiny(path: Path) -> Path:
    torch.manual_seed(0)
    settings = {"width": 4, "convolutions": 1, "hidden": 3, "cutoff": 4.0}
    save(build("cgcnn", settings, TARGETS), path, CARD)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a test; nothing is shipped."""
    (tmp_path / "shipped").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def names(folder: Path) -> Path:
    """The folder with the shipped models `small` and the default one."""
    for name in ("small", shipped.DEFAULT):
        tiny(shipped.FOLDER / f"{name}.safetensors")
    return shipped.FOLDER


def called(*words: str) -> Result:
    context = SimpleNamespace(check=lambda: None)
    return CliRunner().invoke(app, list(words), obj=context)


def test_names_are_found_and_default_is_one_of_them(names: Path) -> None:
    assert list(shipped.shipped_models()) == sorted(["small", shipped.DEFAULT])
    assert shipped.model_file("small") == names / "small.safetensors"
    assert shipped.model_file("default") == names / f"{shipped.DEFAULT}.safetensors"


def test_a_name_means_the_shipped_model_and_a_path_the_file(names: Path) -> None:
    for name in ("small", "default"):
        tiny(Path(name))
        assert shipped.model_file(name).parent == names
        assert shipped.model_file(f"./{name}") == Path(name)
        assert shipped.model_file(Path(name)) == Path(name)


def test_the_folder_of_a_run_holds_a_model(folder: Path) -> None:
    for run in ("runs/one", "runs/folds/fold-0", "runs/folds/fold-1"):
        Path(run).mkdir(parents=True)
        tiny(Path(run) / "model.safetensors")
    assert shipped.model_file("runs/one") == Path("runs/one/model.safetensors")
    with pytest.raises(InputError, match=r"runs/folds: holds no model.safetensors; .* such as runs/folds/fold-0$"):
        shipped.model_file("runs/folds")
    Path("empty").mkdir()
    with pytest.raises(InputError, match=r"the folder of a run that saved one$"):
        shipped.model_file("empty")


def test_an_unknown_name_is_told_the_nearest(names: Path) -> None:
    with pytest.raises(InputError, match=r"smal: is no file, .* did you mean small\? shipped are .*, and default is"):
        shipped.model_file("smal")
    with pytest.raises(InputError, match=r"did you mean default\?"):
        shipped.model_file("defualt")
    with pytest.raises(InputError) as raised:
        shipped.model_file("somewhere/else.safetensors")
    assert "did you mean" not in str(raised.value)


def test_without_shipped_models_the_cure_is_told(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no model is shipped with this version .* `screening train` makes"):
        screening.load_model()
    with pytest.raises(InputError, match=r"sieve: is no file, .* none is shipped with this version"):
        shipped.model_file("sieve")


def test_a_default_that_is_missing_is_told(names: Path) -> None:
    (names / f"{shipped.DEFAULT}.safetensors").unlink()
    with pytest.raises(InputError, match=rf"{shipped.DEFAULT} is missing from .*, or name one of small"):
        shipped.model_file("default")


def test_finding_loads_no_torch(root: Path) -> None:
    code = (
        "import sys; from screening.pretrained import shipped as s; s.shipped_models(); print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert ran.stdout == "False\n"


def test_a_shipped_model_predicts(names: Path) -> None:
    model, card = screening.load_model("small")
    assert card.title == "a tiny one"
    crystals = Crystals.of(made_crystals(5, kinds=PERIODIC_KINDS))
    (part,) = screening.predict(model, [crystals])
    assert list(part.ids) == list(crystals.ids)
    assert np.isfinite(part.values["band_gap"]).all()


def test_evaluate_takes_a_name(names: Path) -> None:
    write(Crystals.of(made_crystals(6, kinds=PERIODIC_KINDS, missing=0.0)), Path("val.extxyz"), format="extxyz")
    for model in ("small", "default", str(names / "small.safetensors")):
        assert called("evaluate", model, "val.extxyz", "--json", f"{len(model)}.json").exit_code == 0
        assert json.loads(Path(f"{len(model)}.json").read_text())["targets"]["band_gap"]["count"] == 6
    failed = called("evaluate", "smal", "val.extxyz")
    assert isinstance(failed.exception, InputError)
    assert "did you mean small?" in str(failed.exception)
    failed = called("evaluate", "small", "val.extxyz", "--device", "gpu")
    assert isinstance(failed.exception, InputError)


def test_models_lists_what_is_shipped_and_what_runs_made(names: Path) -> None:
    Path("runs/one").mkdir(parents=True)
    tiny(Path("runs/one/model.safetensors"))
    result = called("models")
    assert result.exit_code == 0
    blocks = result.stdout.split("\n\n")
    heads = [f"{name} (default)" if name == shipped.DEFAULT else name for name in shipped.shipped_models()]
    assert [block.splitlines()[0] for block in blocks] == [*heads, "runs/one/model.safetensors"]
    for word in ("a tiny one", "band_gap (eV), is_metal (probability)", "0.25", " MB", "knows nothing", "CC-BY-4.0"):
        assert all(word in block for block in blocks)
    listed = json.loads(called("models", "--json").stdout)
    assert [(one["name"], one["default"]) for one in listed] == [
        *((name, name == shipped.DEFAULT) for name in shipped.shipped_models()),
        (None, False),
    ]
    assert listed[0]["bytes"] == Path(listed[0]["path"]).stat().st_size
    assert [one["path"] for one in json.loads(called("models", "--json", "runs").stdout)] == [listed[2]["path"]]


def test_models_lists_what_a_name_a_folder_or_a_file_means(names: Path) -> None:
    Path("runs/one").mkdir(parents=True)
    tiny(Path("runs/one/model.safetensors"))
    tiny(Path("small"))
    Path("default").mkdir()
    for word, name, path in (
        ("default", shipped.DEFAULT, names / f"{shipped.DEFAULT}.safetensors"),
        ("small", "small", names / "small.safetensors"),
        ("./small", None, Path("small")),
        ("runs/one", None, Path("runs/one/model.safetensors")),
        ("runs/one/model.safetensors", None, Path("runs/one/model.safetensors")),
    ):
        result = called("models", "--json", word)
        assert result.exit_code == 0
        assert [(one["name"], one["path"]) for one in json.loads(result.stdout)] == [(name, str(path))]
    failed = called("models", "smal", "small")
    assert failed.exit_code == InputError.exit_code
    assert "did you mean small?" in failed.stderr
    assert failed.stdout.startswith("small\n")


def test_models_says_when_there_are_none(folder: Path) -> None:
    assert called("models").stdout == (
        "no models shipped with this version, nor in runs/: `screening train` makes them\n"
    )


def test_a_damaged_file_does_not_hide_the_others(names: Path) -> None:
    (names / "a.safetensors").write_bytes(b"damaged")
    result = called("models")
    assert result.exit_code == FileFormatError.exit_code
    assert "a.safetensors: is no model" in result.stderr
    assert shipped.DEFAULT in result.stdout
    assert called("models", "absent").exit_code == InputError.exit_code


def test_what_is_really_shipped_is_whole() -> None:
    """Every file beside the code has a card that says what is needed to trust it, and `default` is there."""
    found = shipped.shipped_models()
    assert shipped.DEFAULT in found
    assert sum(path.stat().st_size for path in found.values()) < 5_000_000
    for name, path in found.items():
        _, targets, card = read_card(path)
        screening.load_model(name)
        assert card.title
        assert card.licence
        assert card.limits
        assert card.elements
        assert card.fingerprint
        assert all(target.unit for target in targets)
        judged = {"energy", "force", "stress"} if name == shipped.POTENTIAL else {target.name for target in targets}
        assert judged <= set().union(*card.metrics.values())


SALTS = {"NaCl": 5.69, "MgO": 4.25, "LiF": 4.08}
METALS = {"Cu": ("fcc", 3.62), "Al": ("fcc", 4.04), "W": ("bcc", 3.17), "Na": ("bcc", 4.2)}
# Formation energies as PBE has them, eV/atom.
BINDING = {"NaCl": -2.1, "MgO": -3.0, "LiF": -3.1} | dict.fromkeys(METALS, 0.0)


def test_the_default_knows_what_chemists_know() -> None:
    model, _ = screening.load_model()
    bulks = {name: bulk(name, "rocksalt", a=a) for name, a in SALTS.items()}
    bulks |= {name: bulk(name, lattice, a=a) for name, (lattice, a) in METALS.items()}
    crystals = Crystals.of([crystal_from_ase(atoms, id=name) for name, atoms in bulks.items()])
    (part,) = screening.predict(model, [crystals])
    for k, name in enumerate(part.ids):
        found = {target: values[k] for target, values in part.values.items()}
        assert abs(found["formation_energy_per_atom"] - BINDING[name]) < 0.4, name
        assert (found["is_metal"] > 0.8) == (name in METALS), name
        assert abs(found["band_gap"]) < 0.3 if name in METALS else found["band_gap"] > 2.5, name
        assert found["bulk_modulus"] > found["shear_modulus"] > 0, name


def test_the_potential_finds_the_cells_that_chemists_know() -> None:
    """From cells stretched by 6 % lattice constants come back to those of PBE, also of elements that are magnetic."""
    bulks = {name: bulk(name, "rocksalt", a=a) for name, a in SALTS.items()}
    bulks |= {name: bulk(name, lattice, a=a) for name, (lattice, a) in METALS.items()}
    bulks |= {"Si": bulk("Si", "diamond", a=5.47), "Fe": bulk("Fe", "bcc", a=2.83)}
    stretched = [crystal_from_ase(atoms, id=name) for name, atoms in bulks.items()]
    stretched = [replace(one, lattice=1.06 * one.lattice, positions=1.06 * one.positions) for one in stretched]
    model, _ = screening.load_model(shipped.POTENTIAL)
    with screening.Potential(model) as potential:
        for one in screening.relax(potential, stretched):
            assert one.outcome == "converged", one.crystal.id
            ratio = abs(np.linalg.det(one.crystal.lattice)) / bulks[one.crystal.id].get_volume()
            assert ratio ** (1 / 3) == pytest.approx(1.0, abs=0.02), one.crystal.id


def test_crystals_relax_with_the_shipped_potential_where_none_is_named(tmp_path: Path) -> None:
    crystal = crystal_from_ase(bulk("NaCl", "rocksalt", a=6.0), id="salt")
    given, relaxed = tmp_path / "salt.extxyz", tmp_path / "relaxed.extxyz"
    screening.write([crystal], given, format="extxyz")
    result = called("relax", str(given), "-o", str(relaxed))
    assert result.exit_code == 0, result.output
    (one,) = screening.read([relaxed])
    assert isinstance(one, screening.Crystal)
    assert abs(np.linalg.det(one.lattice)) == pytest.approx(5.69**3 / 4, rel=0.06)
    (unlike,) = {name for name in shipped.shipped_models() if name != shipped.POTENTIAL}
    with pytest.raises(InputError, match=f"or the shipped {shipped.POTENTIAL}"):
        required_energy(shipped.model_file(unlike))


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[set[str], set[str]]]:
    """Names in a wheel and in a source archive of this tree with one more model; the native module is left out."""
    root, tree = Path(__file__).resolve().parent.parent, tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(root / name, tree)
    shutil.copytree(root / "screening", tree / "screening", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    tiny(tree / "screening/pretrained/tiny.safetensors")
    code = "from scikit_build_core.build import *; build_wheel('d', {'wheel.cmake': 'false'}); build_sdist('d')"
    subprocess.run([sys.executable, "-c", code], cwd=tree, check=True, capture_output=True)
    (wheel,), (sdist,) = (tree / "d").glob("*.whl"), (tree / "d").glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as inside, tarfile.open(sdist) as source:
        yield set(inside.namelist()), {name.partition("/")[2] for name in source.getnames()}


@pytest.mark.parametrize("place", [0, 1], ids=["wheel", "source archive"])
def test_models_and_licences_are_packaged(packaged: tuple[set[str], set[str]], place: int) -> None:
    needed = {
        "screening/pretrained/tiny.safetensors",
        "screening/pretrained/shipped.py",
        "screening/models/LICENSE.cgcnn",
        *(f"screening/pretrained/{file.name}" for file in shipped.shipped_models().values()),
    }
    assert needed <= packaged[place]
