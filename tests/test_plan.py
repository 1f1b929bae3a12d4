"""The plan: whatever happens in whatever order, every row is done exactly once, and only culprits are given up."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from leases import Cluster

from screening.runs.plan import LONGEST_TICK_S, LOSSES_PER_STRIKE, Aside, Loss, Plan, Rows, Sizes, joined

SMALL = Sizes(least=1, most=7)


rows = st.integers(0, 59)


@given(
    total=st.integers(0, 60),
    done=st.lists(st.tuples(rows, rows).map(lambda pair: (min(pair), max(pair) + 1)), max_size=4),
    killing=st.frozensets(rows, max_size=3),
    hanging=st.frozensets(rows, max_size=2),
    unreadable=st.frozensets(rows, max_size=2),
    events=st.lists(
        st.tuples(st.sampled_from(["step", "step", "step", "preempt", "kill", "join", "withdraw"]), st.integers(0, 9)),
        max_size=60,
    ),
    at_once=st.integers(1, 2),
    blind=st.frozensets(st.sampled_from(["w1", "w2"]), max_size=1),
)
def test_in_any_order_of_events_every_row_is_done_exactly_once(
    total: int,
    done: list[tuple[int, int]],
    killing: frozenset[int],
    hanging: frozenset[int],
    unreadable: frozenset[int],
    events: list[tuple[str, int]],
    at_once: int,
    blind: frozenset[str],
) -> None:
    hanging -= killing
    unreadable -= killing | hanging
    cluster = Cluster(Plan(total, done, sizes=SMALL), killing, hanging, unreadable, at_once, blind)
    cluster.join()
    for event, which in events:
        cluster.submit()
        workers = cluster.plan.workers
        worker = workers[which % len(workers)]
        match event:
            case "step":
                cluster.step(worker)
            case "preempt":
                cluster.lose(worker, None)
            case "kill":
                cluster.lose(worker, Loss.KILLED)
            case "join":
                cluster.join()
            case "withdraw":
                for lease in cluster.plan.queued()[:1]:
                    cluster.plan.withdrawn(lease.number)
    cluster.run()
    before = {row for start, stop in done for row in range(start, min(stop, total))}
    aside = [row for a in cluster.plan.aside for row in range(a.rows.start, a.rows.stop)]
    assert sorted([*cluster.stored, *aside, *before]) == list(range(total))
    assert cluster.plan.rows_done == total - len(aside)
    if not any(event == "kill" for event, _ in events):
        # Random kills can hit one crystal twice; without them nobody is blamed who did nothing.
        assert set(cluster.verdicts) <= killing | hanging
        present = {row for row in killing | hanging if row < total} - before
        assert present == set(cluster.verdicts)
        # Who is alone is believed, blind or not.
        assert blind or all(unreadable.intersection(range(a.rows.start, a.rows.stop)) for a in cluster.plan.aside)


def slow_plan(*, slow_s: float = 10) -> Plan:
    """A plan of four leases whose last is with a worker that takes its time; the other has done three."""
    plan = Plan(4, sizes=Sizes(1, 1), patience_s=1000, slow_s=slow_s)
    plan.tick(0)
    plan.joined("slow")
    assert [lease.rows for lease in plan.next_leases()] == [Rows(0, 1), Rows(1, 2)]
    plan.joined("fast")
    assert [lease.worker for lease in plan.next_leases()] == ["fast", "fast"]
    for number in (3, 4):
        plan.tick(2 * number)
        assert plan.finished(number) is not None
    return plan


def tick(plan: Plan, now: int, seconds: int) -> None:
    for later in range(now, now + seconds + 1):
        plan.tick(later)


def test_what_a_slow_worker_is_at_is_given_to_an_idle_one() -> None:
    plan = slow_plan()
    assert plan.next_leases() == []
    tick(plan, 8, 30)
    [first] = plan.next_leases()
    assert (first.rows, first.worker, first.twin) == (Rows(0, 1), "fast", True)
    assert plan.finished(first.number) == Rows(0, 1)
    [second] = plan.next_leases()
    assert (second.rows, second.twin) == (Rows(1, 2), True)
    assert plan.finished(2) == Rows(1, 2), "the slow one may come first all the same"
    assert plan.over
    assert plan.rows_done == 4
    assert plan.leased == 0
    assert plan.finished(second.number) is None
    assert plan.finished(1) is None
    assert plan.rows_done == 4


def test_nothing_is_given_twice_while_rows_wait_or_too_early() -> None:
    plan = slow_plan(slow_s=1000)
    tick(plan, 8, 900)
    assert plan.next_leases() == []
    plan = Plan(9, sizes=Sizes(1, 1), slow_s=1, patience_s=1e9)
    plan.joined("slow")
    plan.joined("fast")
    for lease in plan.next_leases():
        if lease.worker == "fast":
            plan.finished(lease.number)
    tick(plan, 0, 500)
    assert not any(lease.twin for lease in plan.next_leases())


@pytest.mark.parametrize("loss", [Loss.KILLED, Loss.HUNG, None])
def test_the_loss_of_a_twin_costs_nothing_while_the_other_lives(loss: Loss | None) -> None:
    plan = slow_plan()
    tick(plan, 8, 30)
    [twin] = plan.next_leases()
    assert plan.gone("slow", loss) == []
    assert [lease.number for lease in plan.leases_of("fast")] == [twin.number]
    [other] = plan.next_leases()
    assert (other.rows, other.twin) == (Rows(1, 2), False)
    assert plan.finished(twin.number) == Rows(0, 1)
    plan.finished(other.number)
    assert plan.over


def test_a_worker_that_dies_of_what_is_done_already_is_not_missed() -> None:
    plan = slow_plan()
    tick(plan, 8, 30)
    for _ in range(2):
        [twin] = plan.next_leases()
        plan.finished(twin.number)
    assert plan.over
    assert plan.gone("slow", Loss.KILLED) == []
    assert plan.over
    assert plan.next_leases() == []


def test_one_culprit_costs_one_row_and_few_lives() -> None:
    cluster = Cluster(Plan(40_000), killing=frozenset([12_345]))
    cluster.run()
    assert cluster.verdicts == {12_345: "killed_worker"}
    assert sorted(cluster.stored) == list(range(40_000))
    # Twice as a whole and as a crystal, once for each level of eighths between.
    assert cluster.deaths <= 8


def test_what_hangs_is_told_from_what_kills() -> None:
    plan = Plan(100, sizes=Sizes(10, 10), patience_s=30)
    cluster = Cluster(plan, killing=frozenset([5]), hanging=frozenset([77]))
    cluster.run()
    assert cluster.verdicts == {5: "killed_worker", 77: "timed_out"}


def verdicts_of(plan: Plan, loss: Loss) -> list[str]:
    """Lose every worker until a verdict comes out."""
    for k in range(100):
        plan.joined(f"w{k}")
        for lease in plan.next_leases():
            if lease.verdict is not None:
                return [lease.verdict.reason, lease.verdict.message]
        for _ in range(30):
            plan.tick(k * 1000.0 + _ * LONGEST_TICK_S)
        plan.gone(f"w{k}", loss)
    return []


def test_a_verdict_says_what_happened() -> None:
    assert verdicts_of(Plan(1), Loss.KILLED) == ["killed_worker", "killed its worker, twice"]
    slow = Plan(1, patience_s=60)
    assert verdicts_of(slow, Loss.HUNG) == ["timed_out", "took longer than 60 s, twice"]


def test_a_verdict_that_kills_too_is_put_aside() -> None:
    plan = Plan(1)
    for k in range(4):
        plan.joined(f"w{k}")
        plan.next_leases()
        plan.gone(f"w{k}", Loss.KILLED)
    assert plan.over
    assert plan.aside == [Aside(Rows(0, 1), "killed its worker, twice, and so did recording that")]


def test_a_loss_that_is_not_theirs_does_not_count_against_rows() -> None:
    plan = Plan(3, sizes=Sizes(3, 3))
    for k in range(LOSSES_PER_STRIKE - 1):
        plan.joined(f"w{k}")
        assert [lease.rows for lease in plan.next_leases()] == [Rows(0, 3)]
        plan.gone(f"w{k}", None)
    cluster = Cluster(plan)
    cluster.run()
    assert cluster.verdicts == {}


def test_even_without_blame_a_run_ends() -> None:
    """Rows that always lose their worker, and every time in a way that looks innocent."""
    plan = Plan(3, sizes=Sizes(3, 3))
    for k in range(2000):
        plan.joined(f"w{k}")
        leases = plan.next_leases()
        if leases and leases[0].verdict is not None:
            return
        plan.gone(f"w{k}", None)
    raise AssertionError("the plan goes on for ever")


def test_only_leases_at_work_are_blamed() -> None:
    plan = Plan(30, sizes=Sizes(10, 10))
    plan.joined("a")
    assert [lease.rows.start for lease in plan.next_leases()] == [0, 10]
    plan.gone("a", Loss.KILLED)
    plan.joined("b")
    (suspect,) = plan.next_leases()
    assert suspect.rows == Rows(0, 10), "the suspect comes first, and alone"
    plan.finished(suspect.number)
    assert [lease.rows.start for lease in plan.next_leases()] == [10, 20]


def test_suspects_wait_for_a_worker_of_their_own_while_others_go_on() -> None:
    plan = Plan(1000, sizes=Sizes(1, 1))
    for name in "abcd":
        plan.joined(name)
    plan.next_leases()
    plan.gone("a", Loss.KILLED)
    assert plan.next_leases() == [], "nobody is idle, and nobody has room"
    first, second = plan.leases_of("b")
    plan.finished(first.number)
    assert plan.next_leases() == [], "b is kept free"
    busy = plan.leases_of("c")[0]
    plan.finished(busy.number)
    assert [lease.worker for lease in plan.next_leases()] == ["c"]
    plan.finished(second.number)
    (alone,) = plan.next_leases()
    assert (alone.worker, alone.rows.start) == ("b", 0)
    plan.finished(alone.number)
    assert [lease.worker for lease in plan.next_leases()] == ["b", "b"]


def test_silence_is_measured_by_time_that_was_seen_to_pass() -> None:
    plan = Plan(10, patience_s=60)
    plan.joined("a")
    plan.next_leases()
    for now in (0.0, 1e9, -1e9, 5.0, 1e6):
        plan.tick(now)
        assert plan.overdue() == [], "a clock that jumps, or a driver that was suspended, is nobody's fault"
    for k in range(12):
        plan.tick(1e6 + (k + 1) * LONGEST_TICK_S)
    assert plan.overdue() == ["a"]


def test_a_sign_of_life_is_one_that_changes() -> None:
    plan = Plan(10, patience_s=10)
    plan.joined("a")
    (lease,) = plan.next_leases()
    for k in range(12):
        plan.tick(k * LONGEST_TICK_S)
        plan.heard(lease.number, f"batch {k}", computing=True)
    assert plan.overdue() == []
    for k in range(12, 16):
        plan.tick(k * LONGEST_TICK_S)
        plan.heard(lease.number, "batch 11", computing=True)
    assert plan.overdue() == ["a"]
    plan.heard(99, "of nobody", computing=True)


def test_a_worker_that_waits_for_its_disk_costs_its_rows_nothing() -> None:
    plan = Plan(10, patience_s=10)
    for k in range(LOSSES_PER_STRIKE - 1):
        plan.joined(f"w{k}")
        (lease,) = plan.next_leases()
        plan.heard(lease.number, "read", computing=False)
        for _ in range(4):
            plan.tick(1000.0 * k + _ * LONGEST_TICK_S)
        assert plan.overdue() == [f"w{k}"]
        plan.gone(f"w{k}", Loss.HUNG)
    plan.joined("last")
    assert [lease.rows for lease in plan.next_leases()] == [Rows(0, 10)]


def test_a_lease_that_waits_for_another_is_neither_overdue_nor_blamed() -> None:
    plan = Plan(40, sizes=Sizes(10, 10), patience_s=10)
    plan.joined("a", at_once=2)
    first, second, *_ = plan.next_leases()
    plan.heard(second.number, "wait 2", computing=False, waiting=True)
    for k in range(20):
        plan.tick(k * LONGEST_TICK_S)
        plan.heard(first.number, f"predict {k}", computing=True)
        assert plan.overdue() == []
    for k in range(20, 24):
        plan.tick(k * LONGEST_TICK_S)
    assert plan.overdue() == ["a"]
    assert plan.gone("a", Loss.HUNG) == [first]


def test_a_lease_that_waits_has_its_whole_patience_when_its_turn_comes() -> None:
    plan = Plan(20, sizes=Sizes(10, 10), patience_s=10)
    plan.joined("a", at_once=2)
    first, second = plan.next_leases()
    plan.heard(second.number, "wait 2", computing=False, waiting=True)
    for k in range(9):
        plan.tick(k * LONGEST_TICK_S)
        plan.heard(first.number, str(k), computing=True)
    plan.heard(second.number, "predict 3", computing=True)
    plan.finished(first.number)
    plan.tick(10 * LONGEST_TICK_S)
    assert plan.overdue() == []
    for k in range(11, 14):
        plan.tick(k * LONGEST_TICK_S)
    assert plan.gone("a", Loss.HUNG) == [second]


def test_leases_that_wait_for_nobody_are_overdue_but_not_blamed() -> None:
    plan = Plan(10, sizes=Sizes(10, 10), patience_s=10)
    plan.joined("a", at_once=2)
    (lease,) = plan.next_leases()
    plan.heard(lease.number, "wait 2", computing=False, waiting=True)
    for k in range(5):
        plan.tick(k * LONGEST_TICK_S)
    assert plan.overdue() == ["a"]
    assert plan.gone("a", Loss.HUNG) == []


def test_a_lease_that_waits_its_turn_is_not_overdue() -> None:
    plan = Plan(20, sizes=Sizes(10, 10), patience_s=10)
    plan.joined("a")
    first, second = plan.next_leases()
    for k in range(9):
        plan.tick(k * LONGEST_TICK_S)
        plan.heard(first.number, str(k), computing=True)
    plan.finished(first.number)
    plan.tick(9 * LONGEST_TICK_S)
    assert plan.overdue() == []
    assert plan.queued() == []
    assert plan.leases_of("a") == [second]


def test_leases_get_smaller_towards_the_end_and_for_small_runs() -> None:
    def sizes(total: int, workers: int) -> list[int]:
        plan = Plan(total, sizes=Sizes(1000, 10_000))
        cluster = Cluster(plan)
        given_out: list[int] = []
        for _ in range(workers):
            cluster.join()
        while not plan.over:
            given_out += [len(lease.rows) for lease in cluster.submit()]
            for worker in plan.workers:
                cluster.step(worker)
        return given_out

    large, small = sizes(400_000, 2), sizes(20_000, 2)
    assert large[0] == 10_000
    assert small[0] == 2500
    assert all(a >= b for found in (large, small) for a, b in pairwise(found))
    assert min(large[:-1]) >= 1000


def test_a_budget_ends_leases_earlier() -> None:
    plan = Plan(10, cut=lambda start, stop: min(stop, start + 4))
    plan.joined("a")
    assert [len(lease.rows) for lease in plan.next_leases()] == [4, 4]
    wrong = Plan(10, cut=lambda start, stop: start)
    wrong.joined("a")
    with pytest.raises(ValueError, match="rows from 0 to at most 10 were cut at 0"):
        wrong.next_leases()


def test_workers_are_filled_evenly() -> None:
    plan = Plan(3000, sizes=Sizes(1000, 1000))
    for name in "abc":
        plan.joined(name)
    assert [lease.worker for lease in plan.next_leases()] == ["a", "b", "c"]


def test_nothing_happens_twice_and_strangers_are_ignored() -> None:
    plan = Plan(10)
    plan.joined("a")
    plan.joined("a")
    assert plan.workers == ["a"]
    plan.gone("b", Loss.KILLED)
    plan.withdrawn(3)
    plan.refused(3, "of nobody")
    assert plan.leases_of("b") == []
    assert plan.next_leases()[0].rows == Rows(0, 10)
    assert (plan.leased, plan.over) == (1, False)


def test_neighbouring_ranges_that_were_put_aside_are_one() -> None:
    aside = [Aside(Rows(8, 9), "c"), Aside(Rows(0, 3), "a"), Aside(Rows(3, 5), "b")]
    assert joined(aside) == [Aside(Rows(0, 5), "a"), Aside(Rows(8, 9), "c")]
    assert joined([]) == []
