"""What `--cluster` may say, and that every rank gets a GPU of its own."""

from pathlib import Path

import pytest
from screens import packed_file, saved_model

from screening.errors import InputError, ResourceError
from screening.runs import dask_client
from screening.runs.clusters import ClusterChoice, chosen, require_possible
from screening.runs.config import ScreenConfig
from screening.runs.rank_tasks import Place
from screening.runs.ranks import assigned
from screening.runs.screen import screen
from screening.runs.slurm.profile import Profile


def test_every_form_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text("{}", encoding="utf-8")
    profile = Profile(cores=4, memory="8G", walltime="01:00:00")
    assert chosen("slurm", profile) == ClusterChoice("slurm", profile=profile)
    assert chosen("allocation") == ClusterChoice("allocation")
    assert chosen("local") == ClusterChoice("local")
    assert chosen("local:12") == ClusterChoice("local", workers=12)
    for address in ("tcp://10.0.0.1:8786", "tls://node7:8786", str(file)):
        assert chosen(address) == ClusterChoice("scheduler", address)


@pytest.mark.parametrize("text", ["local:", "local:0", "local:-1", "local:two"])
def test_a_wrong_number_of_workers_is_named(text: str) -> None:
    with pytest.raises(InputError, match=f"--cluster {text}: expected a number of workers, such as local:4"):
        chosen(text)


@pytest.mark.parametrize("text", ["", "node7:8786", "tcp:node7", "http://node7", "locally"])
def test_what_names_no_cluster_is_refused_with_what_would(text: str) -> None:
    with pytest.raises(InputError, match="names no cluster; expected local, local:N, slurm, "):
        chosen(text)


def test_a_scheduler_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json: no such file; has the scheduler started"):
        chosen(str(tmp_path / "absent.json"))


def test_a_profile_goes_with_slurm_and_slurm_with_a_profile() -> None:
    with pytest.raises(InputError, match="--cluster slurm: needs --profile"):
        chosen("slurm")
    with pytest.raises(InputError, match="--cluster local:2: takes no --profile"):
        chosen("local:2", Profile(cores=4, memory="8G", walltime="01:00:00"))


def test_what_cannot_be_is_refused_first(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="local:4 and 2 workers: give one of them"):
        require_possible(chosen("local:4"), workers=2, threads=None, device="cpu")
    with_gpus = chosen("slurm", Profile(cores=4, gpus=2, memory="8G", walltime="01:00:00"))
    with pytest.raises(InputError, match="the profile asks for 2 GPUs, which a run of device cpu would waste"):
        require_possible(with_gpus, workers=None, threads=None, device="cpu")
    require_possible(with_gpus, workers=None, threads=None, device="cuda")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(InputError, match="--cluster allocation: this is no batch script of Slurm"):
        require_possible(chosen("allocation"), workers=None, threads=None, device="cpu")


def test_a_scheduler_that_does_not_answer_is_told_before_there_is_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_client, "CONNECT_S", 0.5)
    packed_file(tmp_path / "c.h5", 3)
    config = ScreenConfig(model=str(saved_model(tmp_path / "m.safetensors")))
    with pytest.raises(InputError, match=r"no scheduler answers at tcp://127\.0\.0\.1:1 .*; start one"):
        screen([tmp_path / "c.h5"], tmp_path / "run", config, cluster="tcp://127.0.0.1:1")
    assert not (tmp_path / "run").exists()


def test_ranks_on_one_machine_get_different_gpus() -> None:
    both = ("0", "1")
    assert assigned([Place("a", both), Place("a", both), Place("b", both)]) == ["0", "1", "0"]
    assert assigned([Place("a", ("3",)), Place("a", ("1",))]) == ["3", "1"]
    assert assigned([Place("a", ("0",), ids=("x",)), Place("a", ("0",), ids=("y",))]) == ["0", "0"], "as Slurm does it"
    with pytest.raises(ResourceError, match=r"a: 2 workers share 1 GPUs"):
        assigned([Place("a", ("0",), ids=("x",))] * 2)
    with pytest.raises(ResourceError, match=r"a: 3 workers share 2 GPUs.*--ranks"):
        assigned([Place("a", both)] * 3)
