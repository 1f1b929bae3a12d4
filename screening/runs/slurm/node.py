"""A Dask worker on a node: python -m screening.runs.slurm.node SCRATCH OPTIONS. Its files go to the node's own disk."""

import sys

from distributed.cli import dask_worker

from screening.runs.scratch import scratch_folder


def main(arguments: list[str]) -> None:
    """Start a worker with options of `dask worker`."""
    scratch, *options = arguments
    folder = scratch_folder(scratch or None)
    dask_worker.main([*options, "--local-directory", str(folder)], prog_name="worker")


if __name__ == "__main__":
    main(sys.argv[1:])
