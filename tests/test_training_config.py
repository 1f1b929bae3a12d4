"""Training settings: files, overrides, errors that name the key at fault, and a resolved file that reads back."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening import config
from screening.config import Settings
from screening.errors import InputError
from screening.runs.slurm.batch import BatchRun
from screening.training.config import LossName, TrainingConfig

SMALL = """
[data]
train = ["a.extxyz"]
[targets.e_form]
[targets.is_metal]
kind = "classification"
"""


def written(folder: Path, text: str = SMALL) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def loaded(folder: Path, *overrides: str, text: str = SMALL) -> TrainingConfig:
    return config.load(TrainingConfig, written(folder, text), overrides=overrides)


def test_targets_get_canonical_names_units_and_losses(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    assert [(t.name, t.unit) for t in found.heads] == [("formation_energy_per_atom", "eV/atom"), ("is_metal", "1")]
    assert [s.resolved_loss for s in found.targets.values()] == [LossName.MSE, LossName.BCE]


def test_differences_are_named_by_whole_keys(tmp_path: Path) -> None:
    before, now = (
        config.to_toml(loaded(tmp_path, *overrides))
        for overrides in (("training.patience=4",), ("model.settings.width=64", "training.optimiser.rate=0.2"))
    )
    assert sorted(config.differences(before, now)) == [
        "model.settings.width there none, now 64",
        "training.optimiser.rate there 0.001, now 0.2",
        "training.patience there 4, now none",
    ]
    assert config.differences(before, before) == []
    assert config.differences(before, now, but=("training", "model")) == []
    assert config.differences("[a]\nx = 1\n[b]\ny = 2\n", "[b]\ny = 2\n[a]\nx = 1\n") == ["in another order"]


def test_overrides_are_toml_values_or_bare_words(tmp_path: Path) -> None:
    overrides = (
        "training.epochs=3",
        "training.schedule.name=cosine",
        "targets.e_form.weight = 0.5",
        'data.train=["b.cif", "c.cif"]',
        "model.settings.width=64",
    )
    found = loaded(tmp_path, *overrides)
    assert found.training.epochs == 3
    assert found.training.schedule.name == "cosine"
    assert found.targets["e_form"].weight == 0.5
    assert [str(p) for p in found.data.train] == ["b.cif", "c.cif"]
    assert found.model.settings == {"width": 64}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "init={checkpoint='a',frozen=-1}",
            r"^override .*: init\.frozen: .* greater than or equal to 0, got -1; init\.frozen: Input",
        ),
        ("init={checkpoint='a',new_heads=['b']}", r"config\.toml: init\.new_heads names b, which is no target"),
        ("training.epoch=3", r"training\.epoch is unknown; did you mean epochs\?"),
        ("trainin.epochs=3", r"trainin is unknown; did you mean training\?"),
        ("training.optimiser.lerning=3", r"training\.optimiser\.lerning is unknown; known here: beta2, momentum, name"),
        ("targets.e_form.wieght=3", r"targets\.e_form\.wieght is unknown; did you mean weight\?"),
        ("training.epochs=0", r"training\.epochs: .*greater than 0, got 0"),
        ("training.epochs=many", r"training\.epochs: .*integer.*, got 'many'"),
        ("training.clip_norm=inf", r"training\.clip_norm: .*finite"),
        ("targets.e_form.loss=bce", "bce is the loss of a classification"),
        ("targets.is_metal.loss=mse", "a classification has scale = 'linear'"),
        ("targets.formation_energy_per_atom.weight=1", "formation_energy_per_atom are named twice"),
        ("data.split.by=files", r"needs validation = \[files\]"),
        ("data.validation=['v.cif']", "need split.by = 'files'"),
        ("data.split.fold=1", "fold = K chooses one fold"),
        ("data.split.test=0.95", "leave nothing to train on"),
        ("training.epochs", "expected key=value"),
        ("data.train.x=1", r"data\.train is a value and holds no keys"),
        ("data.train=[]", r"data\.train"),
        ("training.epochs=0", r"^override 'training\.epochs=0': training\.epochs: [^()]*, got 0$"),
        ("data.train=[mp.h5, b.h5]", r"""data\.train: expected a list such as '\["mp\.h5", "b\.h5"\]', got"""),
        ("data.train=7", r"data\.train: expected a list such as '\[7\]', got 7"),
        ("training.schedule.milestones=0.5", r"expected a list such as '\[0\.5\]', got 0\.5"),
    ],
)
def test_a_wrong_key_or_value_is_named(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        loaded(tmp_path, override)


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"batch_size: .*epoch is unknown"):
        loaded(tmp_path, "training.epoch=3", "training.batch_size=0")


def test_one_text_overrides_a_list_of_texts(tmp_path: Path) -> None:
    assert loaded(tmp_path, "data.train=mp.h5").data.train == (Path("mp.h5"),)
    run = config.load(BatchRun, None, overrides=["inputs=mp.h5", "out=r"])
    assert run.inputs == ("mp.h5",)
    with pytest.raises(InputError, match=r'data\.train: expected a list such as \["a"\], got .* \(line 3\)$'):
        loaded(tmp_path, text=SMALL.replace('["a.extxyz"]', '"a"'))


def test_faults_of_the_file_and_of_overrides_are_told_apart(tmp_path: Path) -> None:
    text = SMALL + "[training]\nepochs = 0\npatience = 0\n"
    said = r"^override 'training\.epochs=-1': training\.epochs: .*; .*config\.toml: training\.patience: .* \(line 9\)$"
    with pytest.raises(InputError, match=said):
        loaded(tmp_path, "training.epochs=-1", text=text)
    with pytest.raises(InputError, match=r"config\.toml: training\.epoch is unknown; .* \(line 8\)$"):
        loaded(tmp_path, "training.epoch.x=3", text=SMALL + "[training]\nepoch = {}\n")


def test_a_missing_table_and_a_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="data is missing"):
        loaded(tmp_path, text="[targets.band_gap]\n")
    with pytest.raises(InputError, match=r"nowhere\.toml: cannot be read"):
        config.load(TrainingConfig, tmp_path / "nowhere.toml")
    with pytest.raises(InputError, match="is not TOML"):
        loaded(tmp_path, text="[data\n")


def test_the_resolved_file_reads_back_the_same(tmp_path: Path) -> None:
    overrides = ("training.epochs=7", 'model.settings={a = [1, 2.5], "b c" = true, d = {e = "x"}}')
    found = loaded(tmp_path, *overrides)
    text = config.to_toml(found)
    assert config.load(TrainingConfig, written(tmp_path, text)) == found
    assert "[training.schedule]" in text, "defaults are spelled out"


SCALARS = st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(st.integers(), max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class Anything(Settings):
    table: dict[str, object]


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_any_table_survives_being_written(table: dict[str, object]) -> None:
    assert tomllib.loads(config.to_toml(Anything(table=table)))["table"] == table


@given(SCALARS | st.lists(st.text(), max_size=3) | st.sampled_from(["7", "\x7f", "\U0001f48e"]))
def test_any_value_survives_as_an_override(value: object) -> None:
    assert config.load(Anything, None, overrides=[config.setting("table.key", value)]).table == {"key": value}
