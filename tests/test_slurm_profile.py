"""Profiles and the scripts that are rendered of them: pure functions; what cannot be right is refused with its line."""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from page_tables import rows_after
from typer.testing import CliRunner

from screening.cli import app
from screening.config import load
from screening.errors import InputError
from screening.runs.config import ScreenConfig
from screening.runs.slurm import submit
from screening.runs.slurm.batch import BatchRun, batch_script
from screening.runs.slurm.profile import Profile, load_profile

ROOT = Path(__file__).resolve().parent.parent
GIVEN: dict[str, Any] = {"cores": 8, "memory": "16G", "walltime": "01:00:00"}
EXAMPLES = {
    "gpu.sbatch": ["--profile", "slurm/profiles/gpu.toml", "--nodes", "4"],
    "cpu.sbatch": ["--profile", "slurm/profiles/cpu.toml", "--nodes", "8", "--set", "device=cpu"],
    "array.sbatch": ["--profile", "slurm/profiles/cpu.toml", "--parts", "100", "--set", "device=cpu"],
}


def run_of(**settings: Any) -> BatchRun:
    return BatchRun(inputs=("crystals.h5",), out="run", **settings)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_scripts_in_slurm_are_what_a_dry_run_prints(name: str) -> None:
    command = [sys.executable, "-m", "screening", "submit", "slurm/screen.toml", *EXAMPLES[name], "--dry-run"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout == (ROOT / "slurm" / name).read_text()
    subprocess.run(["bash", "-n"], input=ran.stdout, text=True, check=True)


def test_the_page_lists_the_keys_of_a_profile() -> None:
    listed = {
        row[0].strip("`"): row[1].strip("`") for row in rows_after((ROOT / "docs/slurm.md").read_text(), "profile")
    }
    expected = {}
    for name, field in Profile.model_fields.items():
        default = "needed" if field.is_required() else field.default
        expected[name] = {None: "none", (): "none", False: "false"}.get(default, str(default)) if default != 0 else "0"
    expected["stage"] = "false"
    assert listed == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("partitoin = 'gpu'", r"partitoin is unknown; did you mean partition\? \(line 5\)"),
        ("gpus = -1", r"gpus: .*greater than or equal to 0, got -1 \(line 5\)"),
        ("directives = ['-C a100', '--nodes=3']", r"directives: '--nodes=3' is what other keys .* \(line 5\)"),
        ("directives = ['constraint=a100']", "'constraint=a100' is no option of sbatch"),
        ("workers = 9", "cores is 8, fewer than the 9 workers of a node"),
        ("gpus = 2\nworkers = 3", "workers is 3 and gpus 2: a GPU has one worker"),
        ('partition = "gpu\\nrm -rf x"', r"partition: String should match pattern .* \(line 5\)"),
        ("account = 'a b'", r"account: String should match pattern .* \(line 5\)"),
        ("warning = 3000", "walltime 01:00:00 is less than twice the warning, 3000 s"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_line(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(f"# mine\ncores = 8\nmemory = '16G'\nwalltime = '01:00:00'\n{line}\n")
    with pytest.raises(InputError, match=words) as error:
        load_profile(path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("time", ["60", "1:00", "01:00", "1-2", "noon"])
def test_a_walltime_must_be_one(time: str, tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text(f"cores = 8\nmemory = '16G'\nwalltime = '{time}'\n")
    with pytest.raises(InputError, match=r"walltime: is no time: expected HH:MM:SS .*\(line 3\)"):
        load_profile(path)


def test_numbers_of_a_profile() -> None:
    profile = Profile(**GIVEN | {"cores": 64, "gpus": 4, "memory": "480G", "walltime": "2-01:00:30"})
    assert (profile.workers_per_node, profile.cores_per_worker) == (4, 16)
    assert profile.seconds == 49 * 3600 + 30
    assert profile.memory_bytes == 480 << 30
    assert Profile(**GIVEN).workers_per_node == 2


def test_a_script_says_every_setting_that_is_not_its_default_and_nothing_else() -> None:
    script = batch_script(run_of(model="my models/a'b", embeddings=True), Profile(**GIVEN))
    assert [line.strip(" \\") for line in script.splitlines() if line.startswith("  --set")] == [
        """--set 'model="my models/a'"'"'b"'""",
        "--set embeddings=true",
    ]


def test_names_with_spaces_and_dashes_reach_the_command_whole(tmp_path: Path) -> None:
    run = BatchRun(inputs=("-a b.h5", "$HOME.h5"), out="my run", model="m")
    profile = Profile(**GIVEN | {"command": f"{sys.executable} -c 'import sys; print(sys.argv[1:])'"})
    script = batch_script(run, profile)
    assert "#SBATCH --output='my run/slurm-'%j.out" in script.splitlines()
    printed = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True).stdout
    words = eval(printed)
    assert words[:5] == ["screen", "./-a b.h5", "$HOME.h5", "--out", "my run"]


@pytest.mark.parametrize("name", ["\U0001f48e.safetensors", "晶体\x7f", "7"])
def test_names_in_any_script_reach_the_settings_whole(name: str) -> None:
    profile = Profile(**GIVEN | {"command": f"{sys.executable} -c 'import sys; print(ascii(sys.argv[1:]))'"})
    script = batch_script(run_of(model=name), profile)
    printed = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True).stdout
    words = ast.literal_eval(printed)
    assert load(ScreenConfig, None, overrides=[words[words.index("--set") + 1]]).model == name


def test_a_device_and_a_profile_must_fit() -> None:
    with pytest.raises(InputError, match="device is cuda, but the profile asks for no GPUs"):
        batch_script(run_of(device="cuda"), Profile(**GIVEN))
    with pytest.raises(InputError, match="the profile asks for 2 GPUs, which a run of device cpu would waste"):
        batch_script(run_of(), Profile(**GIVEN | {"gpus": 2}))


def test_a_run_needs_inputs_and_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text("inputs = []\nmodle = 'a'\n")
    with pytest.raises(InputError) as error:
        load(BatchRun, path)
    words = str(error.value)
    assert "inputs: " in words
    assert "out is missing" in words
    assert "modle is unknown; did you mean model? (line 2)" in words
    path.write_text("inputs = ['']\nout = ''\n")
    with pytest.raises(InputError, match=r"inputs\.0: String should have at least 1 .*out: String should have"):
        load(BatchRun, path)


def test_what_to_do_next_can_be_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "submit", lambda *_, **__: submit.Submitted("7", "screening-7"))
    (tmp_path / "run.toml").write_text("inputs = ['c.h5']\nout = 'runs/kill me'\n")
    (tmp_path / "p.toml").write_text("cores = 4\nmemory = '8G'\nwalltime = '01:00:00'\n")
    given = ["submit", str(tmp_path / "run.toml"), "--profile", str(tmp_path / "p.toml"), "--parts", "2"]
    said = CliRunner().invoke(app, given).stdout
    assert "next: screening status 'runs/kill me'\n" in said
    assert "      screening merge 'runs/kill me', when all parts are done\n" in said
