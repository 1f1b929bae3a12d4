"""Distributed training as a user meets it: the results of one process, whatever is killed, on whatever cluster."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Scheduler, SpecCluster
from made import PERIODIC_KINDS, made_crystals
from patience import PATIENCE
from safetensors.torch import load_file

from screening import config
from screening.crystals.batch import Crystals
from screening.crystals.write import write
from screening.errors import InputError
from screening.runs import rank_process
from screening.runs.clusters import chosen
from screening.runs.local_cluster import quiet_logs
from screening.runs.rank_job import RankJob
from screening.runs.ranks import RankLimits
from screening.runs.ranks import train as train_on
from screening.training import recipe
from screening.training.config import TrainingConfig
from screening.training.loop import Progress
from screening.training.material import Listener
from screening.training.together import Fence

COMMAND = [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; from screening.cli import main; main()"]
WORKER = f"import sys; sys.path[:0] = {sys.path!r}; from distributed.cli.dask_worker import main; main()"
EPOCHS = 8
SETTINGS = f"""
[data]
train = ["train.extxyz"]
split.validation = 0.2

[model]
architecture = "sieve"
settings = {{ width = 8, convolutions = 1, hidden = 8, hidden_layers = 1, cutoff = 5.0 }}

[targets.formation_energy_per_atom]
[targets.is_metal]
kind = "classification"

[training]
epochs = {EPOCHS}
batch_size = 16
threads = 1
ema_decay = 0.9
clip_norm = 1.0
"""


@dataclass
class Told:
    """What a run told."""

    said: list[str] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)
    act: Callable[[Progress], None] = lambda progress: None

    @property
    def listener(self) -> Listener:
        def watch(progress: Progress) -> None:
            self.progress.append(progress)
            self.act(progress)

        return Listener(self.said.append, watch)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with crystals and a configuration."""
    return labelled_crystals(tmp_path_factory.mktemp("ranks"))


def labelled_crystals(folder: Path) -> Path:
    """Put crystals and a configuration into a folder."""
    crystals = made_crystals(40, seed=1, kinds=PERIODIC_KINDS, max_atoms=5, labels=())
    labels = [
        {"formation_energy_per_atom": c.numbers.mean() / 40} | ({"is_metal": k % 2} if k % 3 else {})
        for k, c in enumerate(crystals)
    ]
    labelled = [replace(crystal, labels=mine) for crystal, mine in zip(crystals, labels, strict=True)]
    write(Crystals.of(labelled), folder / "train.extxyz", format="extxyz")
    (folder / "c.toml").write_text(SETTINGS, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _there(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)


def settings(*overrides: str) -> TrainingConfig:
    return config.load(TrainingConfig, Path("c.toml"), overrides=overrides)


@pytest.fixture(scope="module")
def two(made: Path) -> tuple[Path, Told]:
    """An undisturbed run by two ranks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        told = Told()
        train_on(settings(), made / "two", told.listener, chosen("local:2"))
    return made / "two", told


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def weights(folder: Path) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in load_file(folder / "model.safetensors").items()}


def assert_same_run(folder: Path, right: Path) -> None:
    """The same bits, in everything but what the clock decides."""
    clock = ("seconds", "crystals_per_s")
    ours, theirs = ([{k: v for k, v in line.items() if k not in clock} for line in journal(f)] for f in (folder, right))
    assert ours == theirs
    assert weights(folder) == weights(right)
    assert (folder / "metrics.json").read_bytes() == (right / "metrics.json").read_bytes()


def wait_for(condition: Callable[[], object], *, seconds: float = 200.0) -> None:
    until = time.monotonic() + seconds * PATIENCE
    while not condition():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.005)


def ranks_below(pid: int) -> list[psutil.Process]:
    """The processes of ranks among the descendants of a process."""
    found = []
    for child in psutil.Process(pid).children(recursive=True):
        try:
            if "rank_process" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def test_two_ranks_learn_what_one_process_does(made: Path, two: tuple[Path, Told]) -> None:
    folder, told = two
    alone = Told()
    recipe.train(settings(), made / "one", alone.listener)
    for ours, right in zip(journal(folder), journal(made / "one"), strict=True):
        assert ours["train"]["losses"] == pytest.approx(right["train"]["losses"], rel=1e-4)
        assert ours["validation"]["loss"] == pytest.approx(right["validation"]["loss"], rel=1e-3)
        assert (ours["step"], ours["rate"]) == (right["step"], right["rate"])
    assert {path.name for path in folder.iterdir()} == {path.name for path in (made / "one").iterdir()}
    assert told.said == alone.said
    first, last = told.progress[0], told.progress[-1]
    assert (first.step, last.step, last.steps) == (1, alone.progress[-1].step, alone.progress[-1].steps)
    assert re.fullmatch(r"validation loss \S+ after epoch \d+", last.validation)


def test_a_finished_run_is_left_as_it_is(two: tuple[Path, Told]) -> None:
    folder, _ = two
    before = weights(folder)
    told = Told()
    found = train_on(settings(), folder, told.listener, chosen("local:1"))
    assert found == json.loads((folder / "metrics.json").read_text())
    assert (told.progress, told.said[-1]) == ([], f"{folder} is finished")
    assert weights(folder) == before


def test_a_killed_rank_and_a_stopped_command_change_no_bit(made: Path, two: tuple[Path, Told]) -> None:
    folder, log = made / "disturbed", made / "said.txt"
    words = ["train", "c.toml", "--out", "disturbed", "--cluster", "local:2", "--set", "training.save_every_s=0"]
    with log.open("w", encoding="utf-8") as said, subprocess.Popen([*COMMAND, *words], stderr=said) as process:

        def journal_bytes() -> int:
            assert process.poll() is None, log.read_text()
            path = folder / "metrics.jsonl"
            return path.stat().st_size if path.exists() else 0

        wait_for(journal_bytes)
        children = psutil.Process(process.pid).children(recursive=True)
        ranks = ranks_below(process.pid)
        assert len(ranks) == 2
        # Stopped first, so that the run waits for it.
        ranks[1].suspend()
        ranks[1].kill()
        wait_for(lambda: "going on from the last checkpoint with 2 ranks" in log.read_text() or journal_bytes() < 0)
        assert "is lost: ended by SIGKILL" in log.read_text()
        before = journal_bytes()
        wait_for(lambda: journal_bytes() > before)
        children += psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(60 * PATIENCE) == 128 + signal.SIGTERM
    assert log.read_text().endswith("screening: stopped by SIGTERM\n")
    wait_for(lambda: not [c for c in children if c.is_running() and c.status() != psutil.STATUS_ZOMBIE])
    assert 0 < len(journal(folder)) < EPOCHS
    assert not (folder / "metrics.json").exists()
    assert not (folder / "graphs").exists()
    train_on(settings("training.save_every_s=0"), folder, Told().listener, chosen("local:2"))
    assert_same_run(folder, two[0])


@contextmanager
def scheduler_with_workers(count: int) -> Iterator[tuple[str, list["subprocess.Popen[bytes]"]]]:
    """A scheduler with workers that nobody starts anew."""
    options = {"host": "127.0.0.1", "port": 0, "dashboard": False}
    with ExitStack() as stack:
        stack.enter_context(quiet_logs())
        cluster = stack.enter_context(SpecCluster(scheduler={"cls": Scheduler, "options": options}, workers={}))
        address = cluster.scheduler_address
        workers = []
        for _ in range(count):
            command = [sys.executable, "-c", WORKER, address, "--no-nanny", "--nthreads", "1", "--no-dashboard"]
            worker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            workers.append(stack.enter_context(worker))
            stack.callback(worker.kill)
        yield address, workers


def test_a_lost_worker_leaves_the_run_to_the_others(made: Path) -> None:
    folder, epochs = made / "fewer", 8 * EPOCHS
    limits = RankLimits(rejoin_s=0.0)
    with scheduler_with_workers(2) as (address, workers):
        with pytest.raises(InputError, match=r"training.select is 'band_gap.mae'; expected one of"):
            train_on(settings("training.select=band_gap.mae"), made / "no", Told().listener, chosen(address), ranks=2)
        orphans: list[psutil.Process] = []

        def act(progress: Progress) -> None:
            # Not all epochs are told of, and a run must not be over before its worker is lost.
            if progress.epoch >= 2 and not orphans:
                orphans.extend(ranks_below(workers[0].pid))
                workers[0].kill()

        told = Told(act=act)
        found = train_on(
            settings("training.save_every_s=0", f"training.epochs={epochs}"),
            folder,
            told.listener,
            chosen(address),
            ranks=2,
            limits=limits,
        )
    assert any(text.endswith("going on from the last checkpoint with 1 rank") for text in told.said), told.said
    assert len(orphans) == 1
    wait_for(lambda: not orphans[0].is_running() or orphans[0].status() == psutil.STATUS_ZOMBIE)
    assert found["epochs"] == epochs
    assert [line["epoch"] for line in journal(folder)] == list(range(1, epochs + 1))


def test_a_cluster_that_is_not_there_is_named(made: Path) -> None:
    with pytest.raises(InputError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"):
        train_on(settings(), made / "nowhere", Told().listener, chosen("tcp://127.0.0.1:9"))
    assert not (made / "nowhere").exists()


def test_a_rank_needs_no_gpu_number(made: Path) -> None:
    with pytest.raises(InputError, match="with --cluster it is cpu or cuda, each rank has its own GPU"):
        train_on(settings("training.device=cuda:1"), made / "numbered", Told().listener, chosen("local:2"))


def test_ranks_are_of_a_cluster(made: Path) -> None:
    words = ["train", "c.toml", "--ranks", "2"]
    ran = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr.splitlines()) == (
        2,
        ["screening: --ranks says how many workers of a cluster to use; name one with --cluster"],
    )


def test_a_rank_dies_with_whoever_started_it(made: Path) -> None:
    sizes = recipe.prepare_files(settings(), made / "graphs", Told().listener)
    Fence.raised(made / "fence", "t" * 32)
    code = f"import sys; sys.path[:0] = {sys.path!r}; from screening.runs.rank_process import main; main()"
    # It waits for a first rank that takes its call and says nothing.
    with (
        socket.create_server(("127.0.0.1", 0)) as first,
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process,
    ):
        port = first.getsockname()[1]
        asked = settings().model_dump(mode="json")
        paths = {"folder": str(made / "run"), "graphs": str(made / "graphs"), "fence": str(made / "fence")}
        job = RankJob(
            command="train",
            config=asked,
            sizes=sizes,
            token="t" * 32,
            rank=1,
            size=2,
            host="127.0.0.1",
            port=port,
            silent_s=600.0,
            **paths,
        )
        assert process.stdin is not None
        process.stdin.write(job.line())
        process.stdin.flush()
        first.settimeout(200)
        with first.accept()[0]:
            process.stdin.close()
            assert process.wait(60) == rank_process.ORPHANED
