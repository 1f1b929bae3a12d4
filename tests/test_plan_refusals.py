"""Rows that cannot be read: another worker tries them, and what nobody can read is narrowed down and put aside."""

import pytest
from leases import Cluster

from screening.runs.plan import Plan, Rows, Sizes, joined


def test_what_cannot_be_read_is_narrowed_down() -> None:
    cluster = Cluster(Plan(50_000, sizes=Sizes(10_000, 10_000)), unreadable=frozenset([31_000]))
    cluster.run()
    (aside,) = cluster.plan.aside
    assert aside.rows.start <= 31_000 < aside.rows.stop
    assert len(aside.rows) <= 1024
    assert len(cluster.stored) == 50_000 - len(aside.rows)


@pytest.mark.parametrize("workers", [2, 5])
def test_what_one_worker_alone_cannot_read_is_done_by_others(workers: int) -> None:
    plan = Plan(50_000, sizes=Sizes(1_000, 10_000))
    cluster = Cluster(plan, unreadable=frozenset([31_000]), blind=frozenset(["w1"]))
    cluster.run(workers)
    assert [(a.rows.start, a.rows.stop) for a in plan.aside if len(a.rows) > 1_024] == []
    assert sum(len(a.rows) for a in plan.aside) < 1_024, "those that the others cannot read either"
    assert len(cluster.stored) == 50_000 - sum(len(a.rows) for a in plan.aside)


def test_suspects_that_one_worker_cannot_read_wait_for_another() -> None:
    cluster = Cluster(Plan(20_000), killing=frozenset([12_345]), blind=frozenset(["w1"]))
    cluster.run(3)
    assert (cluster.verdicts, cluster.plan.aside) == ({12_345: "killed_worker"}, [])
    assert sorted(cluster.stored) == list(range(20_000))


def test_who_is_alone_tries_again_what_it_could_not_read() -> None:
    plan = Plan(2_000, sizes=Sizes(1_000, 1_000))
    cluster = Cluster(plan, blind=frozenset(["w1"]))
    cluster.run(1)
    assert [a.rows for a in joined(plan.aside)] == [Rows(0, 2_000)]
    plan = Plan(2_000, sizes=Sizes(2_000, 2_000))
    plan.joined("blind")
    plan.joined("busy")
    [lease] = plan.next_leases()
    plan.refused(lease.number, "cannot be read")
    [lease] = plan.next_leases()
    assert lease.worker == "busy"
    plan.gone("busy", None)
    [lease] = plan.next_leases()
    assert lease.worker == "blind"
