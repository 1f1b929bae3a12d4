"""A whole screen: inputs packed if they are not, every crystal predicted exactly once, results merged. Resumable."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import numpy as np
from distributed.deploy.cluster import Cluster

from screening.crystals.pack import passed_over
from screening.crystals.packed import PackedCrystals
from screening.errors import FileFormatError, ResourceError, ScreeningError, UnfinishedError
from screening.predictions import Target
from screening.runs.claim import CLAIM_FILE, PART_CLAIMS, Claim
from screening.runs.clusters import ClusterChoice, Demand, chosen, opened, require_possible
from screening.runs.config import ScreenConfig
from screening.runs.dask_client import planned_workers
from screening.runs.dask_crew import CrewLimits
from screening.runs.dask_runner import DaskRunner
from screening.runs.listener import Listener, Progress
from screening.runs.part import Part
from screening.runs.plan import FEWEST_REFUSED, Cut, Plan, Sizes, joined
from screening.runs.provenance import circumstances, note
from screening.runs.run_folder import ModelFile, Run, made_folder, opened_run, require_inputs
from screening.runs.slurm.profile import Profile
from screening.runs.worker import Job, Predictor, load_predictor
from screening.store.merge import merge
from screening.store.read import Results
from screening.store.record import RELAXED, RESULTS
from screening.store.schema import Status
from screening.store.shard import ShardFile, shard_ranges

SHOWN = 3


@dataclass(frozen=True, slots=True)
class Screened:
    """A finished screen: its folder, rows by status in all, and how this call went; `relaxed` if it has such crystals.

    `passed_over` says what of the inputs was of no known format when they were packed; empty if nothing was.
    Of a part, there are no results yet, and the rows are those of this call.
    """

    folder: Path
    results: Path | None
    targets: tuple[Target, ...]
    counts: dict[Status, int]
    progress: Progress
    relaxed: Path | None = None
    passed_over: str = ""


def screen(
    inputs: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    config: ScreenConfig | None = None,
    *,
    cluster: Cluster | str | None = None,
    profile: Profile | None = None,
    part: Part | None = None,
    listener: Listener | None = None,
    ignore: Sequence[str | PathLike[str]] = (),
    load: Callable[[Job], Predictor] = load_predictor,
) -> Screened:
    """Predict all crystals of the inputs into the folder of a run, and merge; the same call continues what was stopped.

    `cluster` is one of Dask's, or what `--cluster` takes; by default one is made on this machine. `slurm` means worker
    jobs as a `profile` describes them. A script that uses the default needs the guard `if __name__ == "__main__":`, as
    for any processes. A `part` predicts its share of the rows only and merges nothing: each part of a run has a driver
    of its own. Files to `ignore` are no inputs, though they lie in a folder that is one. `load` makes the predictor in
    each worker.

    >>> screen(["crystals.h5"], "runs/first", ScreenConfig(model="runs/cgcnn")).counts
    """
    config, listener, paths = config or ScreenConfig(), listener or Listener(), [Path(path) for path in inputs]
    if profile is not None:
        config = config.model_copy(update={"cluster": profile.cluster_settings(config.cluster)})
    # What cannot be right is refused before there is a folder.
    model, potential = ModelFile.of(config.model), ModelFile.potential(config)
    require_inputs(paths)
    choice = cluster if isinstance(cluster, Cluster) else chosen(cluster or "local", profile)
    if not isinstance(choice, Cluster):
        require_possible(choice, workers=config.workers, threads=config.threads, device=config.device)
    folder = made_folder(Path(out))
    name, rivals = (CLAIM_FILE, PART_CLAIMS) if part is None else (part.file, CLAIM_FILE)
    with Claim(folder, name=name, rivals=rivals, say=listener.say, stopping=listener.stopping) as claim:
        others = [Path(path) for path in ignore]
        alone = part is None
        run = opened_run(
            folder,
            paths,
            model,
            config,
            listener,
            potential=potential,
            ignore=others,
            alone=alone,
            check=claim.check,
        )
        rows = range(run.record.rows) if part is None else part.rows(run.record.rows)
        progress = Progress(len(rows))
        listener = _telling(listener, claim)
        if not (folder / RESULTS).exists():
            note(folder, "start", **circumstances(), config=config.model_dump(mode="json"))
            driver = _Driver(run, config, listener, progress, claim, choice, rows, load, alone)
            driver.complete()
            if part is not None:
                return Screened(folder, None, run.model.targets, _counted(progress), progress)
            if not driver.merge():
                driver.complete()
                driver.merge(again=True)
        with Results(folder) as results:
            counts = results.counts()
    relaxed = folder / RELAXED if run.potential is not None else None
    words = passed_over(*run.record.passed_over)
    return Screened(folder, folder / RESULTS, run.model.targets, counts, progress, relaxed, words)


@dataclass(frozen=True, slots=True)
class _Driver:
    """A run, and what this call brings to it."""

    run: Run
    config: ScreenConfig
    listener: Listener
    progress: Progress
    claim: Claim
    cluster: Cluster | ClusterChoice
    rows: range
    load: Callable[[Job], Predictor]
    alone: bool

    def complete(self) -> None:
        """Predict what is not predicted yet."""
        with PackedCrystals(self.run.packed) as crystals:
            plan = self._plan(crystals)
            # Rows of other parts count as done for the plan.
            before = plan.rows_done - (plan.total - len(self.rows))
            self.progress.before, self.progress.rows = before, 0
            self.progress.refused = crystals.rejected if len(self.rows) == plan.total else 0
            facts = {"folder": str(self.run.record.folder), "rows": len(self.rows), "done": before}
            self.listener.tell("started", facts)
            self.listener.show(self.progress)
            finished = self._noted(lambda: plan.over or self._drive(plan))
        if not finished:
            raise UnfinishedError(
                f"stopped after {self.progress.done:,} of {len(self.rows):,} crystals; what is done is kept, and the "
                "same command goes on"
            )
        if plan.aside:
            raise _put_aside(plan)

    def merge(self, *, again: bool = False) -> bool:
        """Write the results; False if shards turned out damaged, which then count as not done."""
        try:
            merge(self.run.record.folder, self.run.packed, progress=self._merged)
        except FileFormatError as error:
            damaged = _damaged(self.run)
            if again or not damaged:
                raise
            for path in damaged:
                path.replace(path.with_name(f"{path.name}.damaged"))
            self.listener.tell("damaged", {"shards": [path.name for path in damaged], "why": str(error)})
            self.listener.say(f"{len(damaged)} shards are damaged and put aside; their crystals are predicted again")
            return False
        self.listener.tell("merged", {"results": str(self.run.record.folder / RESULTS)})
        return True

    def _plan(self, crystals: PackedCrystals) -> Plan:
        shards, total = self.config.shards, self.run.record.rows
        others = [(0, self.rows.start), (self.rows.stop, total)]
        done = [(start, stop) for start, stop, _ in shard_ranges(self.run.shards)]
        return Plan(
            total,
            [*done, *((start, stop) for start, stop in others if start < stop)],
            cut=atom_budget(crystals, shards.atoms),
            sizes=Sizes(shards.least, shards.most),
            patience_s=self.config.limits.patience,
            slow_s=self.config.limits.slow,
        )

    def _drive(self, plan: Plan) -> bool:
        limits = self.config.limits
        with opened(self.cluster, self._demand()) as site:
            times = CrewLimits(
                patience_s=limits.patience,
                loading_s=limits.loading,
                grace_s=limits.grace,
                scheduler_s=limits.scheduler,
                verdicts=limits.verdicts,
                no_workers_s=site.no_workers_s,
                workers=planned_workers(site.cluster) if site.count is None else site.count,
            )

            def check() -> None:
                self.claim.check()
                site.check()

            runner = DaskRunner(
                site.cluster,
                self._job(site.threads),
                plan,
                self.progress,
                self.listener,
                times,
                check,
                site.renew,
            )
            return runner.run()

    def _job(self, threads: int | None) -> Job:
        return Job(
            shards=self.run.shards.resolve(),
            packed=self.run.packed.resolve(),
            model=self.run.model.path,
            potential=None if self.run.potential is None else self.run.potential.path,
            stamp=self.run.record.stamp,
            device=self.config.device,
            threads=threads,
            embeddings=self.config.embeddings,
            stage=self.config.cluster.stage,
            scratch=self.config.cluster.scratch,
            load=self.load,
            **self.config.batches.model_dump(),
        )

    def _demand(self) -> Demand:
        config = self.config
        return Demand(
            folder=self.run.record.folder,
            settings=config.cluster,
            device=config.device,
            workers=config.workers,
            threads=config.threads,
            useful=self._useful,
            alone=self.alone,
        )

    def _useful(self) -> int:
        """How many workers have a lease each."""
        return -(-(self.progress.total - self.progress.done) // self.config.shards.least)

    def _merged(self, rows: int, total: int) -> None:
        if self.listener.stopping():
            raise UnfinishedError("stopped while merging; all crystals are predicted, and the same command merges them")
        self.claim.check()
        self.listener.merged(rows, total)

    def _noted(self, work: Callable[[], bool]) -> bool:
        """Do work, and note its end, whatever that is."""
        try:
            finished = work()
        except BaseException as error:
            # A disk that is full keeps no note either, and that is not what to say.
            with contextlib.suppress(ScreeningError):
                self._note_end(False, str(error) if isinstance(error, ScreeningError) else type(error).__name__)
            raise
        self._note_end(finished, "" if finished else "asked to stop")
        return finished

    def _note_end(self, finished: bool, why: str) -> None:
        progress = self.progress
        facts = {"rows": progress.rows, "statuses": dict(progress.statuses), "seconds": progress.elapsed, "why": why}
        self.listener.tell("ended", facts | {"finished": finished, "done": progress.done})
        note(self.run.record.folder, "end", finished=finished, **facts)


def atom_budget(crystals: PackedCrystals, most: int) -> Cut:
    """Give a function that ends a range of rows earlier when it has more atoms than that, but not before one row.

    Where the input is damaged, ranges are short, so that little else is lost.
    """

    def cut(start: int, stop: int) -> int:
        try:
            ends = crystals.atom_offsets(start, stop)
        except (FileFormatError, ResourceError):
            # Few enough for any budget; the worker that cannot read them either says what is wrong.
            return min(stop, start + FEWEST_REFUSED)
        return start + max(1, int(np.searchsorted(ends, ends[0] + most, side="right")) - 1)

    return cut


def _telling(listener: Listener, claim: Claim) -> Listener:
    """Let whoever reads the claim know how far the run is."""

    def show(progress: Progress) -> None:
        claim.facts = {
            "rows": progress.total,
            "done": progress.done,
            "rate": round(progress.rate, 2),
            "workers": progress.workers,
            "lost_workers": progress.lost_workers,
            "dashboard": progress.dashboard,
        }
        listener.show(progress)

    return replace(listener, show=show)


def _counted(progress: Progress) -> dict[Status, int]:
    return {status: progress.statuses[status.word] for status in Status if progress.statuses[status.word]}


def _damaged(run: Run) -> list[Path]:
    """The shards that cannot be read, or whose content is not what was written."""
    found = []
    for _, _, path in shard_ranges(run.shards):
        try:
            with ShardFile(path) as file:
                file.columns()
        except FileFormatError:
            found.append(path)
    return found


def _put_aside(plan: Plan) -> FileFormatError:
    aside = joined(plan.aside)
    listed = "; ".join(f"rows {a.rows.start:,} to {a.rows.stop:,}: {a.why}" for a in aside[:SHOWN])
    more = f"; and {len(aside) - SHOWN} more ranges" if len(aside) > SHOWN else ""
    rows = sum(len(a.rows) for a in aside)
    return FileFormatError(
        f"{rows:,} of {plan.total:,} crystals could not be predicted: {listed}{more}. All others are done: mend that, "
        "and the same command goes on"
    )
