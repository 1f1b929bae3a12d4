"""What all tests share: reproducible Hypothesis runs, a Slurm, and tests that say why they were skipped."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import devcluster
import gpu
import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from slurm_runs import SlurmRun

# Derandomised, so that a failure is the same failure everywhere. `thorough` searches anew with every run; `few` is
# for the sanitised build, which is several times slower.
settings.register_profile("default", derandomize=True, deadline=None, database=None, max_examples=50)
settings.register_profile("few", derandomize=True, deadline=None, database=None, max_examples=10)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Commands leave signals alone that are ignored when they start, as all would be of `nohup make test &`. What is
# ignored is inherited, a handler is not.
for ignored in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, lambda number, frame: None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for mark, absence in (("gpu", gpu.absence), ("slurm", devcluster.absence)):
        marked = [item for item in items if mark in item.keywords]
        reason = absence() if marked else ""
        for item in marked if reason else []:
            item.add_marker(pytest.mark.skip(reason=reason))
    # Those of Slurm begin first, because they mostly wait.
    items.sort(key=lambda item: "slurm" not in item.keywords)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give one process all tests that share something dear: a file its fixtures, a Slurm, kernels made for the host."""
    # What xdist has for groups (3.8) marks ids of tests in a way that pytest 9.2 does not see.
    from xdist.scheduler import LoadScopeScheduling

    class Shared(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0].rpartition("/")[2]
            if file.startswith("test_slurm_"):
                return "slurm"
            return "twins" if file.endswith("_cuda_twin.py") else file

    return Shared(config, log)


@pytest.fixture(scope="session")
def slurm_session() -> Iterator[devcluster.DevCluster]:
    """A Slurm for all tests of a session, which commands find by SLURM_CONF."""
    found = devcluster.DevCluster()
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = found.configuration
    try:
        found.start()
        yield found
    finally:
        found.stop()
        os.environ.pop("SLURM_CONF")
        if before is not None:
            os.environ["SLURM_CONF"] = before


@pytest.fixture
def slurm(slurm_session: devcluster.DevCluster) -> Iterator[devcluster.DevCluster]:
    """The session's Slurm, all nodes idle before and after."""
    slurm_session.tidy()
    yield slurm_session
    slurm_session.tidy()


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Let torch work alone: small products gain nothing from threads, and on a busy machine wait for them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where training reads crystals: what is wrong without any must be said before."""

    def unread(*arguments: object, **named: object) -> None:
        raise AssertionError("nothing is to be read")

    monkeypatch.setattr("screening.training.recipe.read_crystals", unread)


@pytest.fixture(scope="session")
def slurm_input(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all runs on Slurm screen, and the right results."""
    from slurm_runs import made_input

    return made_input(tmp_path_factory.mktemp("made"))


@pytest.fixture
def run(slurm: devcluster.DevCluster, tmp_path: Path, slurm_input: Path) -> "SlurmRun":
    """A run on Slurm, in a folder of its own."""
    from slurm_runs import SlurmRun

    return SlurmRun(slurm, tmp_path, slurm_input)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent
