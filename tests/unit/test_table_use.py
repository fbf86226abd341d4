"""What the ledger adds to the table of `top`, whole, as text of a fixed width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from esimbpf.model import NOTHING, Counters, GroupBy, Kind, LinkTick
from esimbpf.plan import DayUse, Plan, assess, parse_end
from esimbpf.sinks.table import Sort, View
from esimbpf.spans import Monthly, Once, Span, day_at
from esimbpf.use import LinkUse, Used, carried_on
from tests.unit.test_table import NO_ROWS, ROWS, WWAN0, shown, tick

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MB = 1_000_000
GB = 1000 * MB
TODAY = {"video": 300 * MB, "mail": 12_345, "backup": 0}
CYCLE = {"video": 3 * GB, "mail": 12_345, "backup": 55 * MB, "updates": 800 * MB}


def used(span: Span, apps: dict[str, int], kernel: int = 999) -> Used:
    rows = {(Kind.APP, name): amount for name, amount in apps.items()}
    return Used(span, sum(apps.values()) + kernel, rows | {(Kind.KERNEL, "kernel"): kernel})


def planned(day_bytes: Sequence[int] = (GB, GB, GB), used_bytes: int = 4 * GB, **changed: object) -> LinkUse:
    fields: dict[str, object] = {"target": "link:wwan0", "allowance": "10GB", "cycle": Monthly(15), "zone": "UTC"}
    plan = Plan(**(fields | {"since": NOW - timedelta(days=30)} | changed))  # type: ignore[arg-type]
    today = day_at(NOW, UTC)
    days = [
        DayUse(Span(today.begin - timedelta(days=ago), today.end - timedelta(days=ago)), amount)
        for ago, amount in zip(range(len(day_bytes), 0, -1), day_bytes, strict=True)
    ]
    judged = assess(plan, NOW, [*days, DayUse(today, sum(TODAY.values()))], used_bytes)
    cycle = used(judged.cycle, CYCLE) if judged.cycle else None
    return LinkUse(UTC, used(today, TODAY), cycle, plan, judged, known_whole=True)


def view(use: LinkUse | None = None, by: GroupBy = GroupBy.APP, **changed: object) -> View:
    return View(by, uses={"wwan0": use or planned()}, **changed)  # type: ignore[arg-type]


HISTORY = {("wwan0", row.kind, row.id): [0.0, 600_000.0, 2_431_000.0] for row in ROWS[:1]}
OVER = planned(used_bytes=12 * GB, **parse_end("billed:0.01EUR/MB"))


def test_at_80_columns() -> None:
    assert shown(tick(), view(history=HISTORY), 80, 20) == [
        "wwan0 wwan  today 1.15 GB  cycle 4.70 GB  100.64.3.7 2001:db8::7",
        "↓ 2.41 MB/s  ↑ 543 kB/s   total ↓ 741 MB  ↑ 108 MB",
        "plan 4.85 GB of 10.0 GB  ████████░░░░░░░░ 48%  5.15 GB left for 21.5 days",
        "     runs out Sun 29 Nov   safe today: 0 B more",
        "app                          ↓/s▾        ↑/s  ↓ total  ↑ total    today    cycle",
        "video                   2.40 MB/s  31.0 kB/s   740 MB  9.40 MB  1.05 GB  3.75 GB",
        "backup                  9.00 kB/s   512 kB/s  1.20 MB  98.8 MB   100 MB   155 MB",
        "idle                            0          0  1.23 kB    999 B  2.23 kB  2.23 kB",
        "mail                            0          0        0        0  12.3 kB  12.3 kB",
        "updates                         0          0        0        0        0   800 MB",
        "────────────────────────────────────────────────────────────────────────────────",
        "kernel                          0          0        0        0    999 B    999 B",
        "forwarded                       0          0        0        0        0        0",
        "unattributed                    0          0        0        0        0        0",
        "",
        "",
        "",
        "",
        "",
        "q quit  s sort: down  b by: app  p pause  / filter  ? help",
    ]


AT_120 = """\
wwan0 wwan  today 1.15 GB  cycle 4.70 GB  100.64.3.7 2001:db8::7
↓ 2.41 MB/s  ↑ 543 kB/s   total ↓ 741 MB  ↑ 108 MB
plan 4.85 GB of 10.0 GB  ████████░░░░░░░░ 48%  5.15 GB left for 21.5 days   runs out Sun 29 Nov   safe today: 0 B more
app                     procs        ↓/s▾         ↑/s   ↓ total   ↑ total     today     cycle  share        history
video                       3   2.40 MB/s   31.0 kB/s    740 MB   9.40 MB   1.05 GB   3.75 GB  █████▎  88%            ▂█
backup                      1   9.00 kB/s    512 kB/s   1.20 MB   98.8 MB    100 MB    155 MB  ▊       12%
idle                        1           0           0   1.23 kB     999 B   2.23 kB   2.23 kB           0%
mail                        0           0           0         0         0   12.3 kB   12.3 kB           0%
updates                     0           0           0         0         0         0    800 MB           0%
────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
kernel                                  0           0         0         0     999 B     999 B           0%
forwarded                               0           0         0         0         0         0           0%
unattributed                            0           0         0         0         0         0           0%
"""


def test_at_120_columns_a_plan_has_one_line() -> None:
    assert shown(tick(), view(history=HISTORY, keys=False), 120, None) == AT_120.splitlines()


def test_at_40_columns_a_plan_has_a_short_line_and_use_stands_above() -> None:
    assert shown(tick(), view(), 40, 12) == [
        "wwan0 wwan  today 1.15 GB  cycle 4.70 GB",
        "↓ 2.41 MB/s  ↑ 543 kB/s",
        "total ↓ 741 MB  ↑ 108 MB",
        "plan 48% of 10.0 GB  runs out Sun 29 Nov",
        "app                      ↓/s▾        ↑/s",
        "video               2.40 MB/s  31.0 kB/s",
        "backup              9.00 kB/s   512 kB/s",
        "── 3 more ──────────────────────────────",
        "kernel                      0          0",
        "forwarded                   0          0",
        "unattributed                0          0",
        "q quit  s sort  b by  p pause  ? help",
    ]


def test_in_ascii() -> None:
    assert shown(tick(), view(ascii=True, keys=False), 80, None) == [
        "wwan0 wwan  today 1.15 GB  cycle 4.70 GB  100.64.3.7 2001:db8::7",
        "down 2.41 MB/s  up 543 kB/s   total down 741 MB  up 108 MB",
        "plan 4.85 GB of 10.0 GB  ########........ 48%  5.15 GB left for 21.5 days",
        "     runs out Sun 29 Nov   safe today: 0 B more",
        "app                 down/sv       up/s  down total    up total    today    cycle",
        "video             2.40 MB/s  31.0 kB/s      740 MB     9.40 MB  1.05 GB  3.75 GB",
        "backup            9.00 kB/s   512 kB/s     1.20 MB     98.8 MB   100 MB   155 MB",
        "idle                      0          0     1.23 kB       999 B  2.23 kB  2.23 kB",
        "mail                      0          0           0           0  12.3 kB  12.3 kB",
        "updates                   0          0           0           0        0   800 MB",
        "--------------------------------------------------------------------------------",
        "kernel                    0          0           0           0    999 B    999 B",
        "forwarded                 0          0           0           0        0        0",
        "unattributed              0          0           0           0        0        0",
    ]


def test_without_a_plan_there_is_no_cycle() -> None:
    assert shown(tick(), view(LinkUse(UTC, used(day_at(NOW, UTC), TODAY)), keys=False), 80, None) == [
        "wwan0 wwan  today 1.15 GB  100.64.3.7 2001:db8::7",
        "↓ 2.41 MB/s  ↑ 543 kB/s   total ↓ 741 MB  ↑ 108 MB",
        "app                         ↓/s▾        ↑/s  ↓ total  ↑ total    today share",
        "video                  2.40 MB/s  31.0 kB/s   740 MB  9.40 MB  1.05 GB ███▌  88%",
        "backup                 9.00 kB/s   512 kB/s  1.20 MB  98.8 MB   100 MB ▌     12%",
        "idle                           0          0  1.23 kB    999 B  2.23 kB        0%",
        "mail                           0          0        0        0  12.3 kB        0%",
        "────────────────────────────────────────────────────────────────────────────────",
        "kernel                         0          0        0        0    999 B        0%",
        "forwarded                      0          0        0        0        0        0%",
        "unattributed                   0          0        0        0        0        0%",
    ]


def test_over_the_allowance() -> None:
    assert shown(tick(ROWS[2:] + NO_ROWS), view(OVER, keys=False), 80, None) == [
        "wwan0 wwan  today 300 MB  cycle 3.86 GB  100.64.3.7 2001:db8::7",
        "↓ 0  ↑ 0   total ↓ 1.23 kB  ↑ 999 B",
        "plan 12.0 GB of 10.0 GB  ████████████████ 120%  2.00 GB over",
        "     used up: costs 20.00 EUR so far",
        "app                          ↓/s▾        ↑/s  ↓ total  ↑ total    today    cycle",
        "idle                            0          0  1.23 kB    999 B  2.23 kB  2.23 kB",
        "video                           0          0        0        0   300 MB  3.00 GB",
        "mail                            0          0        0        0  12.3 kB  12.3 kB",
        "updates                         0          0        0        0        0   800 MB",
        "backup                          0          0        0        0        0  55.0 MB",
        "────────────────────────────────────────────────────────────────────────────────",
        "kernel                          0          0        0        0    999 B    999 B",
        "forwarded                       0          0        0        0        0        0",
        "unattributed                    0          0        0        0        0        0",
    ]


def test_of_processes_only_the_link_has_figures() -> None:
    assert shown(tick(NO_ROWS), view(planned((GB,)), by=GroupBy.PROCESS, keys=False), 80, None) == [
        "wwan0 wwan  today 300 MB  cycle 3.86 GB  100.64.3.7 2001:db8::7",
        "↓ 0  ↑ 0   total ↓ 0 B  ↑ 0 B",
        "plan 4.00 GB of 10.0 GB  ██████░░░░░░░░░░ 40%  6.00 GB left for 21.5 days",
        "     too early to say   safe today: 0 B more",
        "process                    pid       ↓/s▾        ↑/s  ↓ total  ↑ total share",
        "── nothing has moved yet ───────────────────────────────────────────────────────",
        "kernel                                  0          0        0        0        0%",
        "forwarded                               0          0        0        0        0%",
        "unattributed                            0          0        0        0        0%",
    ]


@pytest.mark.parametrize("height", range(3, 24))
def test_however_low_the_terminal_is_it_is_filled_and_the_plan_goes_last(height: int) -> None:
    lines = shown(tick(), view(), 80, height)
    assert len(lines) == height
    assert any(line.startswith("plan ") for line in lines) == (height > 3)


@pytest.mark.parametrize("width", range(1, 160))
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_figure_of_use_is_cut_off(width: int, ascii_only: bool) -> None:
    lines = shown(tick(), view(OVER, ascii=ascii_only), width, None)
    title = lines[0]
    assert "today" not in title or "today 1.15 GB" in title
    assert "cycle" not in title or "cycle 4.70 GB" in title
    (plan,) = [line for line in lines if "%" in line and not line.startswith(("video", "backup"))][:1] or [""]
    assert "over" not in plan or "GB over" in plan


def test_sorted_by_today_and_by_the_cycle() -> None:
    def names(sort: Sort) -> list[str]:
        return [line.split()[0] for line in shown(tick(), view(sort=sort), 80)[5:10]]

    assert names(Sort.TODAY) == ["video", "backup", "mail", "idle", "updates"]
    assert names(Sort.CYCLE) == ["video", "updates", "backup", "mail", "idle"]


def test_there_are_no_orders_of_columns_that_are_not_there() -> None:
    some = replace(tick(), links=tuple(replace(link, total_blocked=Counters(5)) for link in tick().links))
    assert Sort.CYCLE in view().sorts(tick())
    assert view(LinkUse(UTC, used(day_at(NOW, UTC), TODAY))).sorts(tick())[-1] is Sort.TODAY
    always = [Sort.NAME, Sort.DOWN, Sort.UP, Sort.TOTAL_DOWN, Sort.TOTAL_UP]
    assert View(GroupBy.APP).sorts(tick()) == view(by=GroupBy.PROCESS).sorts(tick()) == always
    assert View(GroupBy.APP).sorts(some) == [*always, Sort.BLOCKED]
    assert view().sorts(some) == list(Sort)


def test_of_several_links_each_has_its_own_use_and_plan() -> None:
    other = LinkTick(replace(WWAN0, name="wwan1", addresses=()), True, NO_ROWS, NOTHING, NOTHING)
    both = replace(tick(), links=(*tick().links, other))
    uses = {"wwan0": planned(), "wwan1": LinkUse(UTC, used(day_at(NOW, UTC), {"mail": 5}))}
    lines = shown(both, View(GroupBy.APP, uses=uses), 80, 30)
    second = next(at for at, line in enumerate(lines) if line.startswith("wwan1"))
    assert lines[second] == "wwan1 wwan  today 1.00 kB"
    assert "cycle" in lines[4]
    assert "cycle" not in lines[second + 2]
    assert lines[second + 3].split() == ["mail", "0", "0", "0", "0", "5", "B", "0%"]
    assert [line for line in lines if line.startswith("plan ")] == [lines[2]]


def test_a_link_in_one_line_has_its_use_and_plan_where_there_is_room() -> None:
    other = LinkTick(replace(WWAN0, name="wwan1"), True, NO_ROWS, NOTHING, NOTHING)
    both = replace(tick(), links=(*tick().links, other))
    what = View(GroupBy.APP, uses={"wwan0": planned()}, link=1)
    assert shown(both, what, 120, 10)[0].endswith("total ↓ 741 MB  ↑ 108 MB   plan 48%   today 1.15 GB   cycle 4.70 GB")
    assert shown(both, what, 80, 10)[0].endswith("total ↓ 741 MB  ↑ 108 MB   plan 48%")


def test_after_midnight_only_what_has_moved_since_is_todays() -> None:
    link = tick().links[0]
    later = carried_on(planned(), [link], NOW + timedelta(hours=13), 1.0)
    lines = shown(tick(), view(later), 80, None)
    assert lines[0].startswith("wwan0 wwan  today 2.95 MB  cycle 4.70 GB")
    assert [line[62:].split() for line in lines[5:8]] == [
        ["2.43", "MB", "3.75", "GB"],
        ["521", "kB", "155", "MB"],
        ["0", "2.23", "kB"],
    ]


def test_in_a_new_cycle_only_what_has_moved_since_is_used() -> None:
    later = carried_on(planned(), [tick().links[0]], datetime(2026, 12, 15, 1, tzinfo=UTC), 1.0)
    lines = shown(tick(), view(later), 80, None)
    assert lines[0].startswith("wwan0 wwan  today 2.95 MB  cycle 2.95 MB")
    assert lines[2].startswith("plan 2.95 MB of 10.0 GB  ░░░░░░░░░░░░░░░░ 0%  10.00 GB left".replace("10.00", "10.0"))
    assert not any(line.startswith(("mail", "updates")) for line in lines)


def test_a_plan_that_is_not_in_use_says_so() -> None:
    assert shown(tick(), view(planned(cycle=Once(7))), 80, None)[2] == "plan 10GB: not in use"


def test_the_warning_comes_before_others_and_help_tells_the_columns() -> None:
    assert "⚠ no ledger" in shown(tick(), view(warning="no ledger"), 80, 24)
    told = shown(tick(), view(help=True), 80, 24)
    assert len(told) <= 24
    assert [line.split()[0] for line in told if line.startswith(("  today", "  cycle", "  plan"))] == [
        "today",
        "cycle",
        "plan",
    ]
    assert not any(line.startswith("  today") for line in shown(tick(), View(GroupBy.APP, help=True), 80, 24))


def test_by_user() -> None:
    use = LinkUse(UTC, Used(day_at(NOW, UTC), 77, {(Kind.USER, "0"): 70, (Kind.KERNEL, "kernel"): 7}))
    lines = shown(tick(NO_ROWS), view(use, by=GroupBy.USER), 80, None)
    assert lines[3].split() == ["root", "0", "0", "0", "0", "70", "B", "0%"]
