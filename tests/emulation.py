"""The CUDA twins on the host: tests/native compiles their kernels and runs them in lockstep."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from batches import Flat

from screening.errors import ResourceError
from screening.ops import core
from screening.ops.edges import SHELL_TOLERANCE, EdgeArrays, EdgeRows

NAME = "cuda_on_host"
OUT_OF_MEMORY, LAUNCH_FAILURE, NO_DEVICE = 2, 719, 100

FAILURES = pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (OUT_OF_MEMORY, ResourceError, "out of memory in the native core; use smaller batches"),
        (LAUNCH_FAILURE, RuntimeError, "CUDA could not .*: a fault"),
    ],
)


def built(root: Path) -> ModuleType:
    """Compile the module, if its sources changed, and load it."""
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if cmake is None:
        pytest.skip("cmake is needed to compile the kernels for the host")
    beside_core = Path(str(core.native.__file__)).parent
    sanitised = beside_core == root / "build" / "sanitized"
    build = beside_core if sanitised else root / "build" / "native_tests"
    configure = [cmake, "-S", str(root), "-B", str(build), "-DSCREENING_NATIVE_TESTS=ON"]
    _run(configure + ([] if sanitised else _fresh_options(cmake)))
    _run([cmake, "--build", str(build), "--target", NAME])
    return _loaded(build)


def _fresh_options(cmake: str) -> list[str]:
    import pybind11

    # A generator cannot be changed afterwards, and Ninja is not needed for one file.
    return [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DSCREENING_CUDA=OFF",
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]


def _run(command: list[str]) -> None:
    # A preloaded sanitiser is for this process, not for compilers.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, f"{' '.join(command)}\n{ran.stdout[-4000:]}\n{ran.stderr[-4000:]}"


def _loaded(build: Path) -> ModuleType:
    found = list(build.glob(f"{NAME}*.so"))
    assert len(found) == 1, f"{build} holds {len(found)} modules named {NAME}, expected 1"
    spec = spec_from_file_location(NAME, found[0])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def on_twin(module: Any, **reset: int) -> Iterator[None]:
    """Run the operators on the twins, and see that they give all memory back."""
    module.reset(**reset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "native", module)
        yield
    assert module.counted()["live"] == 0


def assert_every_failure_is_reported(
    module: Any, run: Callable[[], object], error: int, raised: type[Exception], words: str
) -> None:
    """Fail each call of the CUDA runtime that `run` makes, one after another."""
    with on_twin(module):
        run()
        calls = module.counted()["calls"]
    assert calls > 0
    for call in range(calls):
        with on_twin(module, failing_call=call, error=error), pytest.raises(raised, match=words):
            run()


class Twin:
    """Calls the module as `neighbors` calls `_core`."""

    def __init__(self, module: ModuleType) -> None:
        self.module: Any = module

    def count(
        self,
        cells: Flat,
        *,
        cutoff: float,
        max_neighbors: int | None = None,
        exact: bool = False,
        shell_tolerance: float = SHELL_TOLERANCE,
    ) -> EdgeRows:
        """Count edges, as `neighbors.count_edges`."""
        rows = EdgeRows(np.empty(len(cells.positions), np.int32), np.empty((len(cells.positions), 3)))
        self.module.neighbor_count(
            *cells.arrays(),
            cutoff=cutoff,
            max_neighbors=max_neighbors or 0,
            whole_shells=not exact,
            shell_tolerance=shell_tolerance,
            edge_count=rows.edge_count,
            row_cut=rows.row_cut,
        )
        return rows

    def fill(self, cells: Flat, rows: EdgeRows, *, cutoff: float) -> EdgeArrays:
        """Store edges, as `neighbors.fill_edges`."""
        offsets = np.concatenate([[0], np.cumsum(rows.edge_count)]).astype(np.int32)
        edges = int(offsets[-1])
        out = EdgeArrays(
            offsets, np.empty(edges, np.int32), np.empty((edges, 3), np.int32), np.empty((edges, 3)), np.empty(edges)
        )
        self.module.neighbor_fill(
            *cells.arrays(),
            cutoff=cutoff,
            edge_offsets=out.edge_offsets,
            row_cut=rows.row_cut,
            edge_source=out.edge_source,
            edge_shift=out.edge_shift,
            edge_vector=out.edge_vector,
            edge_distance=out.edge_distance,
        )
        return out
