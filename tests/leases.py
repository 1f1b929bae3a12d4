"""Made-up workers that do what a plan leases to them, one lease after the other."""

from dataclasses import dataclass, field

from screening.runs.plan import LONGEST_TICK_S, Lease, Loss, Plan


@dataclass
class Cluster:
    """Workers that compute what a plan leases to them; some rows are deadly, silent or unreadable.

    Those that are blind can read nothing.
    """

    plan: Plan
    killing: frozenset[int] = frozenset()
    hanging: frozenset[int] = frozenset()
    unreadable: frozenset[int] = frozenset()
    at_once: int = 1
    blind: frozenset[str] = frozenset()
    stored: list[int] = field(default_factory=list)
    verdicts: dict[int, str] = field(default_factory=dict)
    deaths: int = 0
    born: int = 0
    now: float = 0.0

    def join(self) -> None:
        self.born += 1
        self.plan.joined(f"w{self.born}", at_once=self.at_once)

    def submit(self) -> list[Lease]:
        leases = self.plan.next_leases()
        for lease in leases:
            mine = self.plan.leases_of(lease.worker)
            assert len(mine) <= 2 * self.at_once
        return leases

    def step(self, worker: str) -> None:
        """The first lease of a worker comes to its end, whatever that is."""
        held = self.plan.leases_of(worker)
        if not held:
            return None
        lease = held[0]
        rows = range(lease.rows.start, lease.rows.stop)
        if lease.verdict is not None:
            self.verdicts[lease.rows.start] = lease.verdict.reason
        elif self.killing.intersection(rows):
            self.deaths += 1
            return self.lose(worker, Loss.KILLED)
        elif self.hanging.intersection(rows):
            return self.silence(worker)
        elif self.unreadable.intersection(rows) or worker in self.blind:
            return self.plan.refused(lease.number, "cannot be read")
        found = self.plan.finished(lease.number)
        if found is None:
            assert not {*rows}.difference(self.stored), "only what another has done is void"
        else:
            assert found == lease.rows
            self.stored += rows
        assert self.plan.finished(lease.number) is None, "a stale event counts for nothing"
        return None

    def silence(self, worker: str) -> None:
        for _ in range(100):
            self.now += LONGEST_TICK_S
            self.plan.tick(self.now)
            for other in set(self.plan.workers) - {worker}:
                for lease in self.plan.leases_of(other):
                    self.plan.heard(lease.number, str(self.now), computing=True)
            if self.plan.overdue() == [worker]:
                self.deaths += 1
                return self.lose(worker, Loss.HUNG)
            assert self.plan.overdue() == []
        raise AssertionError("a worker that hangs was not found out")

    def lose(self, worker: str, loss: Loss | None) -> None:
        self.plan.gone(worker, loss)
        self.join()

    def run(self, workers: int = 2) -> None:
        for _ in range(workers):
            self.join()
        for _ in range(100_000):
            if self.plan.over:
                return
            self.submit()
            for worker in self.plan.workers:
                if worker in self.plan.workers:
                    self.step(worker)
        raise AssertionError("the plan does not end")
