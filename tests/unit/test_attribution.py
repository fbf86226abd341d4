"""From slots to rows, in every grouping."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from esimbpf.attribution import LinkTally, Namer
from esimbpf.difference import LinkDelta
from esimbpf.model import NOTHING, Counters, GroupBy, Kind, Process, Row
from esimbpf.snapshot import ReservedSlot

CURL = Process(100, 5_000, 1000, "curl", "/usr/bin/curl", ("curl", "-O"), "/user.slice")
WGET = Process(101, 6_000, 1000, "wget", "/usr/bin/wget", ("wget",), "/user.slice")
ROOTS_CURL = Process(102, 7_000, 0, "curl", "/usr/bin/curl", ("curl",), "/system.slice")
NO_OTHERS = dict.fromkeys((Kind.KERNEL, Kind.FORWARDED, Kind.UNATTRIBUTED, Kind.OVERFLOW), NOTHING)


def rx(count: int) -> Counters:
    return Counters(rx_bytes=count, rx_packets=1)


class Tally:
    """A tally of one link that is fed processes instead of slots."""

    def __init__(self) -> None:
        self.tally = LinkTally(Namer(), list(GroupBy))

    def interval(
        self,
        moved: Mapping[Process, Counters],
        others: Mapping[Kind, Counters] | None = None,
        ended: Sequence[Process] = (),
        blocked: Mapping[Process | ReservedSlot, Counters] | None = None,
    ) -> None:
        blocked = blocked or {}
        slots = dict(
            enumerate(dict.fromkeys([*moved, *(one for one in blocked if isinstance(one, Process))]), start=16)
        )
        delta = LinkDelta(
            {slot: moved[process] for slot, process in slots.items() if process in moved},
            NO_OTHERS | dict(others or {}),
            NOTHING,
            {slot: blocked[process] for slot, process in slots.items() if process in blocked}
            | {slot: counters for slot, counters in blocked.items() if isinstance(slot, ReservedSlot)},
        )
        self.tally.add(delta, slots, ended)

    def rows(self, by: GroupBy, everything: bool = True) -> dict[str, Row]:
        return {row.name: row for row in self.tally.rows(by, everything)}


def test_each_grouping_sums_its_processes() -> None:
    tally = Tally()
    tally.interval({CURL: rx(100), WGET: rx(20), ROOTS_CURL: rx(3)})
    apps = tally.rows(GroupBy.APP)
    assert (apps["curl"].delta.rx_bytes, apps["wget"].delta.rx_bytes) == (103, 20)
    assert apps["curl"].processes == (CURL, ROOTS_CURL)
    assert tally.rows(GroupBy.CGROUP)["/user.slice"].delta.rx_bytes == 120
    users = {row.id: row for row in tally.tally.rows(GroupBy.USER, True)}
    assert (users["1000"].delta.rx_bytes, users["0"].delta.rx_bytes) == (120, 3)
    processes = {row.id: row for row in tally.tally.rows(GroupBy.PROCESS, True)}
    assert processes["100.5000"].app == "curl"
    assert processes["100.5000"].processes == (CURL,)


def test_what_was_blocked_has_its_rows_though_nothing_moved() -> None:
    tally = Tally()
    tally.interval({WGET: rx(20)}, blocked={CURL: rx(100), WGET: rx(20), ReservedSlot.OVERFLOW: rx(7)})
    for by, name in ((GroupBy.APP, "curl"), (GroupBy.PROCESS, "curl")):
        row = tally.rows(by, everything=False)[name]
        assert (row.delta, row.blocked, row.total_blocked, row.processes) == (NOTHING, rx(100), rx(100), (CURL,))
    [user] = [row for row in tally.tally.rows(GroupBy.USER, False) if row.id == "1000"]
    assert (user.delta, user.blocked) == (rx(20), rx(100) + rx(20))
    assert tally.rows(GroupBy.APP)["overflow"].blocked == rx(7)
    tally.interval({CURL: rx(1)}, blocked={CURL: rx(5)})
    tally.interval({})
    curl = tally.rows(GroupBy.APP)["curl"]
    assert (curl.blocked, curl.total_blocked, curl.total) == (NOTHING, rx(100) + rx(5), rx(1))
    assert "curl" not in tally.rows(GroupBy.APP, everything=False)
    assert tally.rows(GroupBy.APP)["overflow"].total_blocked == rx(7)


def test_totals_stay_and_deltas_begin_anew() -> None:
    tally = Tally()
    tally.interval({CURL: rx(100)})
    tally.interval({WGET: rx(1)})
    row = tally.rows(GroupBy.PROCESS)["curl"]
    assert (row.delta, row.total) == (NOTHING, rx(100))


def test_rows_that_moved_nothing_are_left_out_when_not_asked_for() -> None:
    tally = Tally()
    tally.interval({CURL: rx(100)})
    tally.interval({WGET: rx(1)})
    assert set(tally.rows(GroupBy.APP, everything=False)) == {"wget", "kernel", "forwarded", "unattributed"}


def test_overflow_shows_once_it_has_something() -> None:
    tally = Tally()
    tally.interval({})
    assert "overflow" not in tally.rows(GroupBy.APP)
    tally.interval({}, {Kind.OVERFLOW: rx(5)})
    tally.interval({})
    assert tally.rows(GroupBy.APP, everything=False)["overflow"].total == rx(5)


def test_a_process_that_runs_another_program_keeps_its_row_and_changes_its_app() -> None:
    tally = Tally()
    tally.interval({CURL: rx(100)})
    tally.interval({replace(CURL, comm="wget", exe="/usr/bin/wget", args=("wget",)): rx(7)})
    processes = tally.rows(GroupBy.PROCESS)
    assert processes["wget"].total.rx_bytes == 107
    assert processes["wget"].app == "wget"
    assert "curl" not in processes
    apps = tally.rows(GroupBy.APP)
    assert (apps["curl"].total.rx_bytes, apps["wget"].total.rx_bytes) == (100, 7)


def test_a_process_that_ended_shows_so_and_then_leaves_its_groups_but_not_its_row() -> None:
    tally = Tally()
    gone = replace(CURL, exited=True)
    tally.interval({CURL: rx(100), ROOTS_CURL: rx(1)})
    tally.interval({}, ended=[gone])
    assert gone in tally.rows(GroupBy.APP)["curl"].processes
    tally.interval({})
    assert tally.rows(GroupBy.APP)["curl"].processes == (ROOTS_CURL,)
    assert tally.rows(GroupBy.APP)["curl"].total.rx_bytes == 101
    row = next(row for row in tally.tally.rows(GroupBy.PROCESS, True) if row.id == "100.5000")
    assert row.processes == (gone,)


def test_a_reused_pid_is_another_process() -> None:
    tally = Tally()
    tally.interval({CURL: rx(100)})
    tally.interval({replace(WGET, pid=CURL.pid): rx(3)})
    rows = [row for row in tally.tally.rows(GroupBy.PROCESS, True) if row.kind is Kind.PROCESS]
    assert sorted((row.name, row.total.rx_bytes) for row in rows) == [("curl", 100), ("wget", 3)]


amounts = st.integers(0, 10**9)
moves = st.dictionaries(
    st.sampled_from([CURL, WGET, ROOTS_CURL]), st.builds(Counters, amounts, amounts, amounts, amounts)
)


@given(st.lists(moves, max_size=6))
def test_every_grouping_adds_up_to_the_same_sum(intervals: list[dict[Process, Counters]]) -> None:
    tally = Tally()
    total = NOTHING
    for moved in intervals:
        tally.interval(moved)
        delta = sum(moved.values(), start=NOTHING)
        total += delta
        for by in GroupBy:
            rows = tally.tally.rows(by, True)
            assert sum((row.delta for row in rows), start=NOTHING) == delta
            assert sum((row.total for row in rows), start=NOTHING) == total
